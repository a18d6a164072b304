"""Attention kernels for NVIDIA GPUs: Pallas keeps segments apart, cuDNN attends to whole rows.

This file does not use the registry; `attention.py` sets the platform of each kernel.
"""

import importlib.util

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


def pallas_refusal(length: int, width: int, dtype: DTypeLike) -> str | None:
    """Why `pallas_attention` cannot take rows and heads of this length and width; None = it can."""
    if importlib.util.find_spec("jax.experimental.pallas.triton") is None:
        return f"needs Pallas for Triton, which jax {jax.__version__} no longer has"
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
    """Our own kernel with segments (attention_pallas.py): Ampere and later, forward and backward.

    Blocks above the diagonal are skipped, and so are those between which no segment goes. Scores,
    softmax and sums are float32; grouped heads share their keys inside the kernel.

    Args:
      query: Queries with rotary embedding; `pallas_refusal` lists what is unsupported.
      key: Keys, already rotated.
      value: Values.
      segment_ids: Tokens of one segment share an id; None = one segment a row.
      interpret: Runs the kernel's program as plain XLA, on any platform and slowly.

    Returns:
      The weighted values, in the dtype of the query.
    """
    from parrot_jax.model.attention_pallas import attention

    if segment_ids is None:
        segment_ids = jnp.zeros(query.shape[:2], jnp.int32)
    return attention(query, key, value, segment_ids, interpret=interpret)


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
      query: Queries with rotary embedding; `cudnn_refusal` lists what is unsupported.
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
