"""Attention kernels for NVIDIA GPUs: Pallas keeps segments apart, cuDNN attends to whole rows.

Nothing here knows the registry; `attention.py` says on which platform each kernel runs.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

# ---- Pallas -------------------------------------------------------------------------------------

_SMALLEST_BLOCK = 16
"""Tensor cores multiply nothing smaller."""

_LARGEST_ROW_BYTES = 512
"""Of one head at one position: the widest that was seen to compile with the blocks below."""

_NUM_WARPS = 8


def pallas_refusal(length: int, width: int, dtype: DTypeLike) -> str | None:
    """Why `pallas_attention` cannot take rows and heads of this length and width; None = it can."""
    dtype = jnp.dtype(dtype)
    widest = _LARGEST_ROW_BYTES // dtype.itemsize
    if dtype not in (jnp.float32, jnp.bfloat16, jnp.float16):
        return f"takes float32, bfloat16 or float16, not {dtype}"
    if length % _SMALLEST_BLOCK:
        return f"takes rows of a multiple of {_SMALLEST_BLOCK} tokens, not of {length}"
    if not _SMALLEST_BLOCK <= width <= widest:
        return f"takes {dtype} heads of width {_SMALLEST_BLOCK} to {widest}, not {width}"
    return None


def pallas_attention(
    query: Float[Array, "B T N H"],
    key: Float[Array, "B T K H"],
    value: Float[Array, "B T K H"],
    segment_ids: Int[Array, "B T"] | None,
    *,
    interpret: bool = False,
) -> Float[Array, "B T N H"]:
    """JAX's Triton kernel with segments: Ampere and later, forward and backward.

    Blocks above the diagonal are skipped, blocks between two segments are computed and masked.
    Scores, softmax and sums are float32. Keys and values of grouped heads are repeated while the
    kernel runs, and the gradients of the copies summed in float32.

    Args:
      query: Queries, already rotated; `pallas_refusal` says what it cannot take.
      key: Keys, already rotated.
      value: Values.
      segment_ids: Tokens of one segment share an id; None = one segment a row.
      interpret: Runs the kernel's program as plain XLA, on any platform and slowly.

    Returns:
      The weighted values, in the dtype of the query.

    Source: `jax.experimental.pallas.ops.gpu.attention`, after arXiv:2307.08691.
    """
    return _pallas(query, key, value, segment_ids, interpret)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def _pallas(
    query: Array, key: Array, value: Array, segment_ids: Array | None, interpret: bool
) -> Array:
    return _pallas_forward(query, key, value, segment_ids, interpret)[0]


def _pallas_forward(
    query: Array, key: Array, value: Array, segment_ids: Array | None, interpret: bool
) -> tuple[Array, tuple[Array | None, ...]]:
    from jax.experimental.pallas.ops.gpu.attention import mha

    repeats = query.shape[2] // key.shape[2]
    output_and_log_sum: Any = mha(
        query,
        jnp.repeat(key, repeats, axis=2),
        jnp.repeat(value, repeats, axis=2),
        segment_ids,
        sm_scale=query.shape[3] ** -0.5,
        causal=True,
        block_sizes=_block_sizes(query),
        num_warps=_NUM_WARPS,
        interpret=interpret,
        return_residuals=True,
    )
    # By this name a remat policy keeps what else the whole kernel would be run again for.
    output, log_sum = checkpoint_name(output_and_log_sum, "attention")  # log_sum: [B, N, T]
    return output, (query, key, value, segment_ids, output, log_sum)


def _pallas_backward(
    interpret: bool,
    saved: tuple[Array, Array, Array, Array | None, Array, Array],
    d_output: Array,
) -> tuple[Array, Array, Array, None]:
    from jax.experimental.pallas.ops.gpu.attention import mha

    query, key, value, segment_ids, output, log_sum = saved
    repeats = query.shape[2] // key.shape[2]
    keys, values = jnp.repeat(key, repeats, axis=2), jnp.repeat(value, repeats, axis=2)
    # Straight to the kernel's own rule: differentiating `mha` here would run it forward again.
    assert mha.bwd is not None
    d_query, d_keys, d_values, _ = mha.bwd(
        query.shape[3] ** -0.5,  # sm_scale
        True,  # causal
        _block_sizes(query),
        "triton",  # backward_pass_impl
        _NUM_WARPS,
        2,  # num_stages
        None,  # grid
        interpret,
        False,  # debug
        False,  # return_residuals
        (query, keys, values, segment_ids, output, log_sum),
        d_output,
    )
    return d_query, _summed(d_keys, repeats), _summed(d_values, repeats), None


_pallas.defvjp(_pallas_forward, _pallas_backward)


def _summed(d_copies: Float[Array, "B T N H"], repeats: int) -> Float[Array, "B T K H"]:
    """Adds the gradients of the copies of each key head."""
    if repeats == 1:
        return d_copies
    num_rows, length, num_heads, width = d_copies.shape
    grouped = d_copies.reshape(num_rows, length, num_heads // repeats, repeats, width)
    return grouped.astype(jnp.float32).sum(3).astype(d_copies.dtype)


def _block_sizes(query: Array) -> Any:  # BlockSizes
    """The largest blocks, up to some limits, that divide the row.

    Compiled for Ampere (sm_80) and Hopper (sm_90) with the limits for 256 bytes a head (bfloat16,
    width 128), neither pass moves registers to memory. The next larger ones do on Ampere: 128 x 128
    forward 36 bytes a thread, 64 x 64 backward 248. The kernel's own default for the backward pass
    is 32 x 32.
    """
    from jax.experimental.pallas.ops.gpu.attention import BlockSizes

    wide = query.shape[3] * query.dtype.itemsize > 256
    divisor = math.gcd(query.shape[1], 128)
    forward_queries, forward_keys = (64, 32) if wide else (128, 64)
    inner, outer = (16, 32) if wide else (32, 64)
    return BlockSizes(
        block_q=min(divisor, forward_queries),
        block_k=min(divisor, forward_keys),
        block_q_dkv=min(divisor, inner),
        block_kv_dkv=min(divisor, outer),
        block_q_dq=min(divisor, outer),
        block_kv_dq=min(divisor, inner),
    )


# ---- cuDNN --------------------------------------------------------------------------------------


def cudnn_refusal(length: int, width: int, dtype: DTypeLike) -> str | None:
    """Why `cudnn_attention` cannot take rows and heads of this length and width; None = it can."""
    del length
    dtype = jnp.dtype(dtype)
    if dtype not in (jnp.bfloat16, jnp.float16):
        return f"takes bfloat16 or float16, not {dtype}"
    # Hopper takes 256 too, but what is compiled for a GPU that is not here is not told which it is.
    if width % 8 or width > 128:
        return f"takes heads whose width is a multiple of 8 up to 128, not {width}"
    return None


def cudnn_attention(
    query: Float[Array, "B T N H"],
    key: Float[Array, "B T K H"],
    value: Float[Array, "B T K H"],
    segment_ids: Int[Array, "B T"] | None,
) -> Float[Array, "B T N H"]:
    """Attention fused by cuDNN, over whole rows: it cannot be told of segments.

    Its packed form (segments by their offsets) is in no public function of JAX, needs Hopper, reads
    the GPU's generation from the device that is there, and up to jax 0.10.2 takes the queries'
    stride for the keys, which is wrong where heads are grouped.

    Args:
      query: Queries, already rotated; `cudnn_refusal` says what it cannot take.
      key: Keys, already rotated.
      value: Values.
      segment_ids: Must be None: one segment a row.

    Returns:
      The weighted values, in the dtype of the query.

    Source: https://docs.nvidia.com/deeplearning/cudnn, through `jax.nn.dot_product_attention`.
    """
    assert segment_ids is None
    output = jax.nn.dot_product_attention(query, key, value, is_causal=True, implementation="cudnn")
    # Its sums have no name that a policy could keep: a rematerialised layer runs it forward again.
    return checkpoint_name(jnp.asarray(output), "attention")
