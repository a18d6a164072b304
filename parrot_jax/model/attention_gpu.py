"""Attention kernels for NVIDIA GPUs: Pallas supports segments, cuDNN only whole rows.

`attention.py` registers them.
"""

import importlib.util

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

# ---- Pallas -------------------------------------------------------------------------------------

_SMALLEST_BLOCK = 16
"""The smallest block that tensor cores multiply."""

_LARGEST_ROW_BYTES = 512
"""Bytes of one head at one position; larger ones were not tested with the kernel's blocks."""


def pallas_refusal(length: int, width: int, dtype: DTypeLike) -> str | None:
    """Returns why `pallas_attention` does not support these sizes, or None if it does."""
    if importlib.util.find_spec("jax.experimental.pallas.triton") is None:
        return f"needs Pallas for Triton, which jax {jax.__version__} no longer has"
    dtype = jnp.dtype(dtype)
    widest = _LARGEST_ROW_BYTES // dtype.itemsize
    if dtype not in (jnp.float32, jnp.bfloat16, jnp.float16):
        return f"takes float32, bfloat16 or float16, not {dtype}"
    if length % _SMALLEST_BLOCK:
        return f"takes rows of a multiple of {_SMALLEST_BLOCK} tokens, not {length}"
    if not _SMALLEST_BLOCK <= width <= widest:
        return f"takes {dtype} heads of width {_SMALLEST_BLOCK} to {widest}, not {width}"
    return None


def pallas_attention(
    query: Float[Array, "B T N H"],
    key: Float[Array, "B T K H"],
    value: Float[Array, "B T K H"],
    segment_ids: Int[Array, "B T"] | None,
    *,
    window: int | None = None,
    interpret: bool = False,
) -> Float[Array, "B T N H"]:
    """Our Pallas kernel with segments (attention_pallas.py), for Ampere and later.

    Skips blocks above the diagonal, before the window, and without a common segment. Scores,
    softmax and sums are float32; grouped heads share their keys inside the kernel.

    Args:
      query: Queries with rotary embedding; `pallas_refusal` lists what is unsupported.
      key: Keys, already rotated.
      value: Values.
      segment_ids: Tokens of one segment share an id; None = one segment per row.
      window: The sliding window in tokens; None = no window.
      interpret: Runs the kernel as plain XLA: slow, but on any platform.

    Returns:
      The weighted values, in the dtype of the query.
    """
    from parrot_jax.model.attention_pallas import attention

    if segment_ids is None:
        segment_ids = jnp.zeros(query.shape[:2], jnp.int32)
    return attention(query, key, value, segment_ids, window=window, interpret=interpret)


# ---- cuDNN --------------------------------------------------------------------------------------


def cudnn_refusal(length: int, width: int, dtype: DTypeLike) -> str | None:
    """Returns why `cudnn_attention` does not support these sizes, or None if it does."""
    del length
    dtype = jnp.dtype(dtype)
    if dtype not in (jnp.bfloat16, jnp.float16):
        return f"takes bfloat16 or float16, not {dtype}"
    # Hopper supports 256 too, but when compiling for another machine the GPU is unknown here.
    if width % 8 or width > 128:
        return f"takes heads whose width is a multiple of 8 up to 128, not {width}"
    return None


def cudnn_attention(
    query: Float[Array, "B T N H"],
    key: Float[Array, "B T K H"],
    value: Float[Array, "B T K H"],
    segment_ids: Int[Array, "B T"] | None,
    *,
    window: int | None = None,
) -> Float[Array, "B T N H"]:
    """Computes attention over whole rows, without segments, with cuDNN's fused kernel.

    cuDNN's packed layout (segments by offset) has no public function in JAX, needs Hopper, detects
    the GPU generation on the local device, and up to jax 0.10.2 uses the stride of the queries for
    the keys, which is wrong for grouped heads.

    Args:
      query: Queries with rotary embedding; `cudnn_refusal` lists what is unsupported.
      key: Keys, already rotated.
      value: Values.
      segment_ids: Must be None: one segment per row.
      window: The sliding window in tokens; None = no window.

    Returns:
      The weighted values, in the dtype of the query.

    Source: https://docs.nvidia.com/deeplearning/cudnn, through `jax.nn.dot_product_attention`.
    """
    assert segment_ids is None
    output = jax.nn.dot_product_attention(
        query,
        key,
        value,
        is_causal=True,
        # How many keys before its own a query attends to, and after it.
        local_window_size=None if window is None else (window - 1, 0),
        implementation="cudnn",
    )
    # Its log-sum-exp has no checkpoint name, so a rematerialised layer reruns its forward pass.
    return checkpoint_name(jnp.asarray(output), "attention")
