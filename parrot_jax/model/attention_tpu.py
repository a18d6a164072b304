"""The attention kernel for TPUs: JAX's splash attention, which supports segments.

`attention.py` registers it.
"""

import math

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

_NUM_LANES = 128
"""Lanes of a TPU's vector unit; a block must be a multiple of this."""

_LARGEST_BLOCK = 512
_LARGEST_WIDTH = 256


def splash_refusal(length: int, width: int, dtype: DTypeLike) -> str | None:
    """Returns why `splash_attention` does not support these sizes, or None if it does."""
    dtype = jnp.dtype(dtype)
    if dtype not in (jnp.float32, jnp.bfloat16):
        return f"takes float32 or bfloat16, not {dtype}"
    if length % _NUM_LANES:
        return f"takes rows of a multiple of {_NUM_LANES} tokens, not {length}"
    if width > _LARGEST_WIDTH:
        return f"takes heads of width up to {_LARGEST_WIDTH}, not {width}"
    return None


def splash_attention(
    query: Float[Array, "B T N H"],
    key: Float[Array, "B T K H"],
    value: Float[Array, "B T K H"],
    segment_ids: Int[Array, "B T"] | None,
    *,
    window: int | None = None,
    interpret: bool = False,
) -> Float[Array, "B T N H"]:
    """Splash attention, forward and backward; grouped heads share their keys inside the kernel.

    Blocks above the diagonal or before the window are skipped; blocks of two different segments are
    computed and masked.
    Scores, softmax and sums are float32. Blocks have 512 positions, as in MaxText's training of
    LLaMA on TPUs, or 256 or 128 if the row length is not a multiple of 512.

    Args:
      query: Queries with rotary embedding; `splash_refusal` lists what is unsupported.
      key: Keys, already rotated.
      value: Values.
      segment_ids: Tokens of one segment share an id; None = one segment per row.
      window: The sliding window in tokens; None = no window.
      interpret: Runs the kernel as plain XLA: slow, but on any platform.

    Returns:
      The weighted values, in the dtype of the query.

    Source: `jax.experimental.pallas.ops.tpu.splash_attention`, after arXiv:2307.08691.
    """
    from jax.experimental.pallas.ops.tpu.splash_attention import (
        BlockSizes,
        CausalMask,
        LocalMask,
        MultiHeadMask,
        SegmentIds,
        make_splash_mha,
    )

    length, num_heads, width = query.shape[1:]
    block = math.gcd(length, _LARGEST_BLOCK)
    square = (length, length)
    # A local mask has how many keys before its own a query attends to, and after it.
    mask = CausalMask(square) if window is None else LocalMask(square, (window - 1, 0), 0)
    kernel = make_splash_mha(
        MultiHeadMask([mask] * num_heads),
        block_sizes=BlockSizes(
            block_q=block,
            block_kv=block,
            block_q_dkv=block,
            block_kv_dkv=block,
            block_q_dq=block,
            block_kv_dq=block,
        ),
        head_shards=1,
        q_seq_shards=1,
        # The name under which remat policies keep the output and the log-sum-exp of each query.
        residual_checkpoint_name="attention",
        interpret=interpret,
    )

    def one_row(query: Array, key: Array, value: Array, segment_ids: Array | None) -> Array:
        ids = None if segment_ids is None else SegmentIds(segment_ids, segment_ids)
        output = kernel(query, key, value, segment_ids=ids)
        assert not isinstance(output, tuple)  # it would be with save_residuals=True
        return output

    # [B, T, N, H] to [B, N, T, H] and back. The kernel does not scale.
    queries, keys, values = (
        array.transpose(0, 2, 1, 3) for array in (query * width**-0.5, key, value)
    )
    output = jax.vmap(one_row)(queries, keys, values, segment_ids)
    return output.transpose(0, 2, 1, 3)
