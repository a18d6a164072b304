"""Causal attention inside segments: a registry of backends that declare what they can do.

Several dialogues share a row, told apart by `segment_ids`. A query sees the keys of its own segment
that are not later than itself, and nothing else: change one segment and the outputs of the others
keep their bits. A backend that does not support segments is rejected, never used without them.

    dense          the plain formula on any platform; builds [B, N, T, T] (attention_xla.py)
    block_causal   CPU and GPU; skips the keys above the diagonal block by block (attention_xla.py)
    splash         TPU; JAX's Pallas kernel (attention_tpu.py)
    pallas         NVIDIA GPU; our Pallas kernel (attention_pallas.py)
    cudnn          NVIDIA GPU; rows of one segment only (attention_gpu.py)

A kernel takes only some lengths, head widths and dtypes. One that was named refuses others; `auto`
then takes the next backend. XLA cannot split a kernel over devices, so `attend` does.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import jax
from jax.sharding import Mesh
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from parrot_jax.core.errors import UserError
from parrot_jax.model import attention_gpu, attention_tpu, attention_xla
from parrot_jax.sharding import array_sharding

AttentionFn = Callable[
    [
        Float[Array, "B T N H"],
        Float[Array, "B T K H"],
        Float[Array, "B T K H"],
        Int[Array, "B T"] | None,
    ],
    Float[Array, "B T N H"],
]


@dataclass(frozen=True, kw_only=True)
class Backend:
    """One way to compute attention, and what it can do."""

    name: str
    """What configs call it."""
    platforms: frozenset[str] | None
    """Where it runs, of `cpu gpu tpu`; None = everywhere."""
    segments: bool
    """Whether it keeps segments apart."""
    function: AttentionFn
    """Takes queries, keys, values and segment ids (None = one segment a row)."""
    kernel: bool = False
    """Whether it is a program that XLA cannot look into, and so cannot split over devices."""
    refusal: Callable[[int, int, DTypeLike], str | None] | None = None
    """Says why it cannot take rows of T tokens with heads of width H in this dtype (None = it can);
    None = it takes all."""
    otherwise: "Backend | None" = None
    """What attends where this one refuses; None = that is an error. Set by `choose("auto")`."""

    def runs_on(self, platform: str) -> bool:
        """Whether it runs on `platform`."""
        return self.platforms is None or platform in self.platforms


_BACKENDS: dict[str, Backend] = {}


def register(backend: Backend) -> None:
    """Adds a backend. `choose("auto")` tries the latest first, until one that refuses nothing.

    Raises:
      ValueError: The name is taken.
    """
    if backend.name in _BACKENDS or backend.name == "auto":
        raise ValueError(f"there is already an attention backend {backend.name!r}")
    _BACKENDS[backend.name] = backend


def backends() -> tuple[Backend, ...]:
    """All backends, in the order of their registration."""
    return tuple(_BACKENDS.values())


def choose(name: str = "auto", platform: str | None = None, *, segments: bool = True) -> Backend:
    """Finds a backend that can do what is asked.

    Args:
      name: A backend's name, or `"auto"` for the fastest that fits: one that hands what it refuses
        to the next.
      platform: `"cpu"`, `"gpu"` or `"tpu"`; None = the default platform of this process. Name it
        to compile for hardware that is not here.
      segments: Whether rows hold more than one segment.

    Returns:
      The backend.

    Raises:
      UserError: No such name, or it does not run there, or it would let segments see each other.
    """
    platform = jax.default_backend() if platform is None else platform
    fitting = [
        backend
        for backend in reversed(backends())
        if backend.runs_on(platform) and (backend.segments or not segments)
    ]
    if name == "auto":
        return _first_that_takes(fitting)
    allowed = "; choose one of " + ", ".join(["auto", *(backend.name for backend in fitting)]) + "."
    if name not in _BACKENDS:
        raise UserError(f"there is no attention backend {name!r}{allowed}")
    backend = _BACKENDS[name]
    if not backend.runs_on(platform):
        where = ", ".join(sorted(backend.platforms or ()))
        raise UserError(f"attention backend {name!r} runs on {where}, not on {platform}{allowed}")
    _require_segments(backend, segments)
    return backend


def _first_that_takes(fitting: list[Backend]) -> Backend:
    first, *others = fitting
    return replace(first, otherwise=_first_that_takes(others)) if first.refusal else first


def resolve(backend: Backend, length: int, width: int, dtype: DTypeLike) -> Backend:
    """Finds the backend that `attend` will use, without computing anything.

    Args:
      backend: From `choose`.
      length: Tokens in a row, T.
      width: Width of a head, H.
      dtype: Of queries, keys and values.

    Returns:
      `backend`, or what `auto` takes in its place.

    Raises:
      UserError: The backend was named, and refuses these.
    """
    while backend.refusal and (reason := backend.refusal(length, width, dtype)):
        if backend.otherwise is None:
            raise UserError(
                f"attention backend {backend.name!r} {reason}; change that or choose another "
                "backend (auto finds one)."
            )
        backend = backend.otherwise
    return backend


def attend(
    query: Float[Array, "B T N H"],
    key: Float[Array, "B T K H"],
    value: Float[Array, "B T K H"],
    segment_ids: Int[Array, "B T"] | None,
    *,
    backend: Backend,
    mesh: Mesh | None = None,
) -> Float[Array, "B T N H"]:
    """Attends causally inside segments: softmax(q k / sqrt(H)) v.

    Scores and softmax are float32, the two products take the dtype of the input. Query head n uses
    key head n // (N / K).

    Args:
      query: Queries, already rotated.
      key: Keys, already rotated.
      value: Values.
      segment_ids: Tokens of one segment share an id, padding has 0; None = one segment a row.
      backend: From `choose`.
      mesh: What rows and heads are split over. A kernel needs it where there are several devices,
        each of which then attends for its own rows and heads, and where it is compiled for a device
        that is not here. XLA splits the other backends by itself.

    Returns:
      The weighted values, in the dtype of the query. What a backend has to keep of them for its
      backward pass carries the name "attention", for remat policies.

    Raises:
      UserError: There are segment ids and the backend cannot honour them, or it refuses their
        length, width or dtype, or rows or heads do not divide over the mesh.
    """
    backend = resolve(backend, query.shape[1], query.shape[3], query.dtype)
    _require_segments(backend, segment_ids is not None)
    function = backend.function
    if backend.kernel and mesh is not None:
        function = _on_each_device(function, mesh, query.shape, key.shape)
    return function(query, key, value, segment_ids)


def _on_each_device(
    function: AttentionFn, mesh: Mesh, query_shape: tuple[int, ...], key_shape: tuple[int, ...]
) -> AttentionFn:
    heads = array_sharding(mesh, "batch", "seq", "heads", "head_dim")
    kv_heads = array_sharding(mesh, "batch", "seq", "kv_heads", "head_dim")
    rows = array_sharding(mesh, "batch", "seq")
    for what, shape, sharding in (("queries", query_shape, heads), ("keys", key_shape, kv_heads)):
        try:
            sharding.shard_shape(shape)
        except ValueError as error:
            raise UserError(
                f"attention: {what} of shape [rows, tokens, heads, width] = {list(shape)} do not "
                f"divide over the mesh {dict(mesh.shape)}, whose axes take {sharding.spec}; change "
                "the number of rows or the mesh."
            ) from error
    return jax.shard_map(
        function,
        mesh=mesh,
        in_specs=(heads.spec, kv_heads.spec, kv_heads.spec, rows.spec),
        out_specs=heads.spec,
        # Kernels do not say which mesh axes their outputs vary over, which the check asks for.
        check_vma=False,
    )


def _require_segments(backend: Backend, segments: bool) -> None:
    if segments and not backend.segments:
        raise UserError(
            f"attention backend {backend.name!r} cannot keep packed segments apart; choose another "
            "backend (auto finds one) or turn packing off."
        )


# ---- registration -------------------------------------------------------------------------------

_CPU, _GPU, _TPU = (frozenset({platform}) for platform in ("cpu", "gpu", "tpu"))

# Before dense, which refuses nothing: so auto never gets here.
register(
    Backend(
        name="cudnn",
        platforms=_GPU,
        segments=False,
        function=attention_gpu.cudnn_attention,
        kernel=True,
        refusal=attention_gpu.cudnn_refusal,
    )
)
register(
    Backend(name="dense", platforms=None, segments=True, function=attention_xla.dense_attention)
)
register(
    Backend(
        name="block_causal",
        platforms=_CPU | _GPU,
        segments=True,
        function=attention_xla.block_causal_attention,
    )
)
register(
    Backend(
        name="pallas",
        platforms=_GPU,
        segments=True,
        function=attention_gpu.pallas_attention,
        kernel=True,
        refusal=attention_gpu.pallas_refusal,
    )
)
register(
    Backend(
        name="splash",
        platforms=_TPU,
        segments=True,
        function=attention_tpu.splash_attention,
        kernel=True,
        refusal=attention_tpu.splash_refusal,
    )
)
