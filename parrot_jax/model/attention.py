"""Causal attention within segments: a registry of backends and what each supports.

A packed row holds several dialogues, marked by `segment_ids`. A query attends to the keys of its
own segment up to its own position: changing one segment leaves the outputs of the others
bit-identical. A backend without support for segments is rejected for packed rows, and one without
support for a sliding window for models that have one.

    dense          the plain formula on any platform; builds [B, N, T, T] (attention_xla.py)
    block_causal   CPU and GPU; skips the keys above the diagonal block by block (attention_xla.py)
    splash         TPU; JAX's Pallas kernel (attention_tpu.py)
    pallas         NVIDIA GPU; our Pallas kernel (attention_pallas.py)
    cudnn          NVIDIA GPU; rows of one segment only (attention_gpu.py)

With a sliding window of W tokens, a query also attends to nothing W or more positions before it.
Tokens of a segment are adjacent, so the distance in the row is the distance in the segment.

A kernel supports only some lengths, head widths and dtypes. For others, a backend chosen by name
raises an error and `auto` uses the next backend. XLA cannot partition a kernel or a loop over heads
over devices, so `attend` does it with `shard_map`.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace

import jax
from jax.sharding import Mesh
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from parrot_jax.core.errors import UserError
from parrot_jax.model import attention_gpu, attention_tpu, attention_xla
from parrot_jax.sharding import array_sharding

AttentionFn = Callable[..., Float[Array, "B T N H"]]
"""Takes queries [B, T, N, H], keys and values [B, T, K, H], and segment ids [B, T] (None = one
segment per row). A backend that supports a sliding window also takes the keyword `window`."""


@dataclass(frozen=True, kw_only=True)
class Backend:
    """An implementation of attention, and what it supports."""

    name: str
    """Its name in configs."""
    platforms: frozenset[str] | None
    """Supported platforms, of `cpu`, `gpu`, `tpu`; None = all."""
    segments: bool
    """Whether it supports segment ids."""
    function: AttentionFn
    """Computes attention."""
    window: bool = False
    """Whether it supports a sliding window."""
    kernel: bool = False
    """Whether it is a custom kernel or a loop over heads, which XLA cannot partition over
    devices."""
    refusal: Callable[[int, int, DTypeLike], str | None] | None = None
    """Called with the length T, the head width H and the dtype; returns why they are unsupported,
    or None if they are supported. The field is None if everything is supported."""
    otherwise: "Backend | None" = None
    """The backend to use for what this one does not support; None = raise an error. Set by
    `choose("auto")`."""

    def runs_on(self, platform: str) -> bool:
        """Whether it supports `platform`."""
        return self.platforms is None or platform in self.platforms


_BACKENDS: dict[str, Backend] = {}


def register(backend: Backend) -> None:
    """Adds a backend. `choose("auto")` prefers backends that were registered later.

    Raises:
      ValueError: The name is taken.
    """
    if backend.name in _BACKENDS or backend.name == "auto":
        raise ValueError(f"there is already an attention backend {backend.name!r}")
    _BACKENDS[backend.name] = backend


def backends() -> tuple[Backend, ...]:
    """Returns all backends in order of registration."""
    return tuple(_BACKENDS.values())


def choose(
    name: str = "auto",
    platform: str | None = None,
    *,
    segments: bool = True,
    window: bool = False,
) -> Backend:
    """Chooses a backend.

    Args:
      name: A backend's name, or `"auto"` for the fastest that fits, with the next one as a fallback
        for unsupported sizes.
      platform: `"cpu"`, `"gpu"` or `"tpu"`; None = the default platform of this process. Set it to
        compile for hardware you don't have.
      segments: Whether rows hold more than one segment.
      window: Whether the model has a sliding window that is shorter than the rows.

    Returns:
      The backend.

    Raises:
      UserError: The name is unknown, or the backend does not support the platform, segments or a
        window.
    """
    platform = jax.default_backend() if platform is None else platform
    fitting = [
        backend
        for backend in reversed(backends())
        if backend.runs_on(platform)
        and (backend.segments or not segments)
        and (backend.window or not window)
    ]
    if name == "auto":
        return _with_fallbacks(fitting)
    allowed = "; choose one of " + ", ".join(["auto", *(backend.name for backend in fitting)]) + "."
    if name not in _BACKENDS:
        raise UserError(f"there is no attention backend {name!r}{allowed}")
    backend = _BACKENDS[name]
    if not backend.runs_on(platform):
        where = ", ".join(sorted(backend.platforms or ()))
        raise UserError(f"attention backend {name!r} runs on {where}, not on {platform}{allowed}")
    _require(backend, segments=segments, window=window)
    return backend


def _with_fallbacks(fitting: list[Backend]) -> Backend:
    first, *others = fitting
    return replace(first, otherwise=_with_fallbacks(others)) if first.refusal else first


def resolve(backend: Backend, length: int, width: int, dtype: DTypeLike) -> Backend:
    """Returns the backend that `attend` will use for these sizes.

    Args:
      backend: From `choose`.
      length: Tokens in a row, T.
      width: Width of a head, H.
      dtype: Of queries, keys and values.

    Returns:
      `backend`, or the fallback of `auto`.

    Raises:
      UserError: The backend was chosen by name and does not support these sizes.
    """
    while backend.refusal and (reason := backend.refusal(length, width, dtype)):
        if backend.otherwise is None:
            raise UserError(
                f"attention backend {backend.name!r} {reason}; change that or choose another "
                "backend (auto picks one)."
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
    window: int | None = None,
    mesh: Mesh | None = None,
) -> Float[Array, "B T N H"]:
    """Computes causal attention within segments: softmax(q k / sqrt(H)) v.

    Scores and softmax are float32; the two matrix products run in the input dtype. Query head n
    uses key head n // (N / K).

    Args:
      query: Queries, already rotated.
      key: Keys, already rotated.
      value: Values.
      segment_ids: Adjacent tokens with the same id are a segment, padding has 0; None = one segment
        per row.
      backend: From `choose`.
      window: The sliding window in tokens: the query at q attends to keys after q - window. None =
        to all earlier keys.
      mesh: The mesh that rows and heads are sharded over. A kernel needs it on several devices,
        where each computes its own rows and heads, and to compile for hardware you don't have. XLA
        partitions `dense` itself.

    Returns:
      The weighted values, in the dtype of the query. What the backward pass needs of them is saved
      under the checkpoint name "attention", for remat policies.

    Raises:
      UserError: The backend does not support segments, a window or these sizes, or the rows or
        heads are not divisible by the mesh.
    """
    backend = resolve(backend, query.shape[1], query.shape[3], query.dtype)
    _require(backend, segments=segment_ids is not None, window=window is not None)
    function = backend.function
    if window is not None:
        function = functools.partial(function, window=window)
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
                f"attention: {what} of shape [rows, tokens, heads, width] = {list(shape)} cannot "
                f"be sharded as {sharding.spec} over the mesh {dict(mesh.shape)}; change the "
                "number of rows or the mesh."
            ) from error
    return jax.shard_map(
        function,
        mesh=mesh,
        in_specs=(heads.spec, kv_heads.spec, kv_heads.spec, rows.spec),
        out_specs=heads.spec,
        # The check needs the mesh axes that outputs vary over, which kernels do not declare.
        check_vma=False,
    )


def _require(backend: Backend, *, segments: bool, window: bool) -> None:
    if segments and not backend.segments:
        raise UserError(
            f"attention backend {backend.name!r} does not support packed segments; choose another "
            "backend (auto picks one) or turn packing off."
        )
    if window and not backend.window:
        raise UserError(
            f"attention backend {backend.name!r} does not support the model's sliding window; "
            "choose another backend (auto picks one) or rows no longer than the window."
        )


# ---- registration -------------------------------------------------------------------------------

_CPU, _GPU, _TPU = (frozenset({platform}) for platform in ("cpu", "gpu", "tpu"))

# Registered before dense, which supports everything, so that `auto` never reaches it.
register(
    Backend(
        name="cudnn",
        platforms=_GPU,
        segments=False,
        function=attention_gpu.cudnn_attention,
        window=True,
        kernel=True,
        refusal=attention_gpu.cudnn_refusal,
    )
)
register(
    Backend(
        name="dense",
        platforms=None,
        segments=True,
        function=attention_xla.dense_attention,
        window=True,
    )
)
register(
    Backend(
        name="block_causal",
        platforms=_CPU | _GPU,
        segments=True,
        function=attention_xla.block_causal_attention,
        window=True,
        kernel=True,
    )
)
register(
    Backend(
        name="pallas",
        platforms=_GPU,
        segments=True,
        function=attention_gpu.pallas_attention,
        window=True,
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
        window=True,
        kernel=True,
        refusal=attention_tpu.splash_refusal,
    )
)
