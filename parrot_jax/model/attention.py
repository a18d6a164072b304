"""Causal attention inside segments: a registry of backends that declare what they can do.

Several dialogues share a row, told apart by `segment_ids`. A query sees the keys of its own segment
that are not later than itself, and nothing else: change one segment and the outputs of the others
keep their bits. A backend that cannot honour segments says so and is refused, never degraded.

    dense          the plain formula on any platform; builds [B, N, T, T]
    block_causal   CPU and GPU; skips the keys above the diagonal block by block, in plain XLA
    splash         TPU; JAX's Pallas kernel (attention_tpu.py)
    pallas         NVIDIA GPU; our Pallas kernel (attention_pallas.py)
    cudnn          NVIDIA GPU; rows of one segment only (attention_gpu.py)

A kernel takes only some lengths, head widths and dtypes. One that was named refuses others; `auto`
then takes the next backend. XLA cannot split a kernel over devices, so `attend` does.
"""

import functools
import os
from collections.abc import Callable
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import Mesh
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from parrot_jax.core.errors import UserError
from parrot_jax.model import attention_gpu, attention_tpu
from parrot_jax.sharding import array_sharding

# Far below any score, yet finite: exp(_MASKED - max) is exactly 0 and no inf - inf can arise.
_MASKED = -1e30

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


def _dense(
    query: Float[Array, "B T N H"],
    key: Float[Array, "B T K H"],
    value: Float[Array, "B T K H"],
    segment_ids: Int[Array, "B T"] | None,
) -> Float[Array, "B T N H"]:
    num_rows, length, num_heads, width = query.shape
    num_kv_heads = key.shape[2]
    grouped = query.reshape(num_rows, length, num_kv_heads, num_heads // num_kv_heads, width)
    scores = _product("BTKGH,BSKH->BKGTS", grouped * width**-0.5, key)
    scores = _masked(scores, segment_ids, segment_ids, 0)
    weights = jax.nn.softmax(scores, axis=-1).astype(value.dtype)
    mixed = _product("BKGTS,BSKH->BTKGH", weights, value)
    return checkpoint_name(mixed.reshape(query.shape).astype(query.dtype), "attention")


def _masked(
    scores: Float[Array, "B K G T S"],
    query_segments: Int[Array, "B T"] | None,
    key_segments: Int[Array, "B S"] | None,
    start: int,
) -> Float[Array, "B K G T S"]:
    """Hides the keys that are later than the query (which is at `start` + T) or of others."""
    num_queries, num_keys = scores.shape[-2:]
    query_positions = start + jnp.arange(num_queries)
    visible: Bool[Array, "B T S"] = (query_positions[:, None] >= jnp.arange(num_keys)[None])[None]
    if query_segments is not None and key_segments is not None:
        visible = visible & (query_segments[:, :, None] == key_segments[:, None, :])
    return jnp.where(visible[:, None, None], scores, _MASKED)


def _product(equation: str, left: Array, right: Array) -> Array:
    return jnp.einsum(equation, left, right, preferred_element_type=jnp.float32)


# ---- block_causal -------------------------------------------------------------------------------
#
# Query block i meets the keys 0 .. (i+1) * block only: about half of the square. Written with its
# own backward pass, because XLA's would keep every block's weights: here only the output and one
# log-sum-exp per query are kept. Heads come before positions and head width before position, the
# order in which XLA's CPU products need the fewest copies (scripts/bench/attention.py).
#
# XLA runs one product of many heads on one thread, but independent products side by side. So the
# blocks form as many lanes as there are processors, and in a lane one block waits for the last:
# without that, XLA keeps the memory of all blocks at once, and touching it costs more than the
# arithmetic.

_NUM_LANES = os.cpu_count() or 1


def _block_size(length: int) -> int:
    # Half the size is 5 % faster and takes twice as long to compile (AMD EPYC, 2 cores).
    return 64 if length <= 256 else 128 if length <= 1024 else 256


def _after(earlier: list[Array], array: Array) -> Array:
    """Makes what follows from `array` wait for the last block of its lane; changes no bit."""
    if len(earlier) < _NUM_LANES:
        return array
    # Nothing is above infinity, but XLA does not know that; it drops an optimization_barrier.
    never = earlier[-_NUM_LANES][..., :1, :1] > jnp.inf
    return jnp.where(never, jnp.zeros_like(array), array)


def _block_causal(
    query: Float[Array, "B T N H"],
    key: Float[Array, "B T K H"],
    value: Float[Array, "B T K H"],
    segment_ids: Int[Array, "B T"] | None,
) -> Float[Array, "B T N H"]:
    return _blocks(query, key, value, segment_ids, _block_size(query.shape[1]))


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def _blocks(query: Array, key: Array, value: Array, segment_ids: Array | None, block: int) -> Array:
    return _blocks_forward(query, key, value, segment_ids, block)[0]


def _blocks_forward(
    query: Array, key: Array, value: Array, segment_ids: Array | None, block: int
) -> tuple[Array, tuple[Array | None, ...]]:
    length, width = query.shape[1], query.shape[3]
    queries, keys, values = _features_first(query * width**-0.5, key, value)
    outputs, log_sums = [], []
    for start in range(0, length, block):
        stop = min(start + block, length)
        block_queries = _after(outputs, queries[..., start:stop])
        scores = _block_scores(block_queries, keys, segment_ids, start)
        highest = scores.max(-1, keepdims=True)
        weights = jnp.exp(scores - highest)
        total = weights.sum(-1, keepdims=True)
        mixed = _product("BKGTS,BKHS->BKGTH", weights.astype(value.dtype), values[..., :stop])
        outputs.append((mixed / total).astype(query.dtype))
        log_sums.append((highest + jnp.log(total))[..., 0])
    output = jnp.concatenate(outputs, axis=3).transpose(0, 3, 1, 2, 4)  # [B, T, K, G, H]
    output = checkpoint_name(output.reshape(query.shape), "attention")
    log_sum = checkpoint_name(jnp.concatenate(log_sums, axis=3), "attention")  # [B, K, G, T]
    return output, (query, key, value, segment_ids, output, log_sum)


def _blocks_backward(
    block: int, saved: tuple[Array, Array, Array, Array | None, Array, Array], d_output: Array
) -> tuple[Array, Array, Array, None]:
    query, key, value, segment_ids, output, log_sum = saved
    num_rows, length, _, width = query.shape
    queries, keys, values = _features_first(query * width**-0.5, key, value)
    d_outputs = _features_first(d_output, key, value)[0]
    # The softmax's Jacobian needs sum_s p * dp, which equals output . d_output.
    overlap = (output.astype(jnp.float32) * d_output.astype(jnp.float32)).sum(-1)  # [B, T, N]
    overlap = overlap.reshape(num_rows, length, *queries.shape[1:3]).transpose(0, 2, 3, 1)
    d_keys = jnp.zeros(keys.shape, jnp.float32)
    d_values = jnp.zeros(values.shape, jnp.float32)
    d_queries = []
    for start in range(0, length, block):
        stop = min(start + block, length)
        now = slice(start, stop)
        block_queries = _after(d_queries, queries[..., now])
        block_d_outputs = _after(d_queries, d_outputs[..., now])
        scores = _block_scores(block_queries, keys, segment_ids, start)
        weights = jnp.exp(scores - log_sum[..., now, None])
        d_weights = _product("BKGHT,BKHS->BKGTS", block_d_outputs, values[..., :stop])
        d_scores = (weights * (d_weights - overlap[..., now, None])).astype(query.dtype)
        d_queries.append(_product("BKGTS,BKHS->BKGTH", d_scores, keys[..., :stop]))
        d_key = _product("BKGHT,BKGTS->BKHS", block_queries, d_scores)
        d_value = _product("BKGHT,BKGTS->BKHS", block_d_outputs, weights.astype(query.dtype))
        d_keys = d_keys.at[..., :stop].add(d_key)
        d_values = d_values.at[..., :stop].add(d_value)
    d_query = jnp.concatenate(d_queries, axis=3).transpose(0, 3, 1, 2, 4) * width**-0.5
    return (
        d_query.reshape(query.shape).astype(query.dtype),
        d_keys.transpose(0, 3, 1, 2).astype(key.dtype),
        d_values.transpose(0, 3, 1, 2).astype(value.dtype),
        None,
    )


_blocks.defvjp(_blocks_forward, _blocks_backward)


def _features_first(query: Array, key: Array, value: Array) -> tuple[Array, Array, Array]:
    """Reorders to [B, K, G, H, T] and twice [B, K, H, S]."""
    num_rows, length, num_heads, width = query.shape
    num_kv_heads = key.shape[2]
    grouped = query.reshape(num_rows, length, num_kv_heads, num_heads // num_kv_heads, width)
    return (
        grouped.transpose(0, 2, 3, 4, 1),
        key.transpose(0, 2, 3, 1),
        value.transpose(0, 2, 3, 1),
    )


def _block_scores(
    block_queries: Array, keys: Array, segment_ids: Array | None, start: int
) -> Array:
    stop = start + block_queries.shape[-1]
    scores = _product("BKGHT,BKHS->BKGTS", block_queries, keys[..., :stop])
    if segment_ids is None:
        return _masked(scores, None, None, start)
    return _masked(scores, segment_ids[:, start:stop], segment_ids[:, :stop], start)


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
register(Backend(name="dense", platforms=None, segments=True, function=_dense))
register(Backend(name="block_causal", platforms=_CPU | _GPU, segments=True, function=_block_causal))
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
