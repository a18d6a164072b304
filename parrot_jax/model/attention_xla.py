"""Attention in plain XLA: the plain formula, and a version in blocks.

`attention.py` registers them.
"""

import functools
import os

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Bool, Float, Int

# Far below any score, yet finite: exp(_MASKED - max) is exactly 0 and no inf - inf can arise.
_MASKED = -1e30


# ---- dense --------------------------------------------------------------------------------------


def dense_attention(
    query: Float[Array, "B T N H"],
    key: Float[Array, "B T K H"],
    value: Float[Array, "B T K H"],
    segment_ids: Int[Array, "B T"] | None,
    *,
    window: int | None = None,
) -> Float[Array, "B T N H"]:
    """The plain formula. Builds all scores, [B, N, T, T].

    Args:
      query: Queries, already rotated.
      key: Keys, already rotated.
      value: Values.
      segment_ids: Tokens of one segment share an id; None = one segment per row.
      window: The sliding window in tokens; None = no window.

    Returns:
      The weighted values, in the dtype of the query.
    """
    num_rows, length, num_heads, width = query.shape
    num_kv_heads = key.shape[2]
    grouped = query.reshape(num_rows, length, num_kv_heads, num_heads // num_kv_heads, width)
    scores = _product("BTKGH,BSKH->BKGTS", grouped * width**-0.5, key)
    scores = _masked(scores, segment_ids, segment_ids, 0, window)
    weights = jax.nn.softmax(scores, axis=-1).astype(value.dtype)
    mixed = _product("BKGTS,BSKH->BTKGH", weights, value)
    return checkpoint_name(mixed.reshape(query.shape).astype(query.dtype), "attention")


def _masked(
    scores: Float[Array, "B K G T S"],
    query_segments: Int[Array, "B T"] | None,
    key_segments: Int[Array, "B S"] | None,
    start: int,
    window: int | None,
) -> Float[Array, "B K G T S"]:
    """Masks keys later than the query (at `start` + T), before its window or in another segment."""
    num_queries, num_keys = scores.shape[-2:]
    query_positions = start + jnp.arange(num_queries)
    visible: Bool[Array, "B T S"] = (query_positions[:, None] >= jnp.arange(num_keys)[None])[None]
    if window is not None:
        first_visible = query_positions - (window - 1)
        visible = visible & (first_visible[:, None] <= jnp.arange(num_keys)[None])[None]
    if query_segments is not None and key_segments is not None:
        visible = visible & (query_segments[:, :, None] == key_segments[:, None, :])
    return jnp.where(visible[:, None, None], scores, _MASKED)


def _product(equation: str, left: Array, right: Array) -> Array:
    return jnp.einsum(equation, left, right, preferred_element_type=jnp.float32)


# ---- block_causal -------------------------------------------------------------------------------
#
# Query block i attends to keys 0 .. (i+1) * block only: about half of the square. A sliding window
# also leaves out the blocks before it. The backward pass is written by hand: autodiff would keep
# the weights of every block, this keeps only the output and one log-sum-exp per query. Heads come
# before positions and head width before position, the layout in which XLA's CPU products need the
# fewest copies (scripts/bench/attention.py).
#
# On a CPU, XLA runs one product of many heads on one thread, but independent products in parallel.
# So the blocks form as many lanes as there are processors, and each block waits for the previous
# one in its lane. Without the wait, XLA holds the memory of all blocks at once, and touching it
# costs more than the arithmetic.

_NUM_LANES = os.cpu_count() or 1


def _block_size(length: int) -> int:
    # Half the size is 5 % faster and takes twice as long to compile (AMD EPYC, 2 cores).
    return 64 if length <= 256 else 128 if length <= 1024 else 256


def _after(earlier: list[Array], array: Array) -> Array:
    """Makes users of `array` wait for the previous block of their lane; does not change values."""
    if len(earlier) < _NUM_LANES:
        return array
    # Always false, but XLA does not know that. It would drop an optimization_barrier.
    never = earlier[-_NUM_LANES][..., :1, :1] > jnp.inf
    return jnp.where(never, jnp.zeros_like(array), array)


def block_causal_attention(
    query: Float[Array, "B T N H"],
    key: Float[Array, "B T K H"],
    value: Float[Array, "B T K H"],
    segment_ids: Int[Array, "B T"] | None,
    *,
    window: int | None = None,
) -> Float[Array, "B T N H"]:
    """Skips the keys above the diagonal, and before the window, block by block.

    Args:
      query: Queries, already rotated.
      key: Keys, already rotated.
      value: Values.
      segment_ids: Tokens of one segment share an id; None = one segment per row.
      window: The sliding window in tokens; None = no window.

    Returns:
      The weighted values, in the dtype of the query.
    """
    block = _block_size(query.shape[1])  # the last block of a row may be smaller
    return _blocks(query, key, value, segment_ids, block, window)


def _keys_of(start: int, stop: int, block: int, window: int | None) -> slice:
    """The keys that a block of queries attends to, in whole blocks."""
    return slice(0 if window is None else max(0, start - window + 1) // block * block, stop)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def _blocks(
    query: Array,
    key: Array,
    value: Array,
    segment_ids: Array | None,
    block: int,
    window: int | None,
) -> Array:
    return _blocks_forward(query, key, value, segment_ids, block, window)[0]


def _blocks_forward(
    query: Array,
    key: Array,
    value: Array,
    segment_ids: Array | None,
    block: int,
    window: int | None,
) -> tuple[Array, tuple[Array | None, ...]]:
    length, width = query.shape[1], query.shape[3]
    queries, keys, values = _features_first(query * width**-0.5, key, value)
    outputs, log_sums = [], []
    for start in range(0, length, block):
        stop = min(start + block, length)
        seen = _keys_of(start, stop, block, window)
        block_queries = _after(outputs, queries[..., start:stop])
        scores = _block_scores(block_queries, keys, segment_ids, start, seen, window)
        highest = scores.max(-1, keepdims=True)
        weights = jnp.exp(scores - highest)
        total = weights.sum(-1, keepdims=True)
        mixed = _product("BKGTS,BKHS->BKGTH", weights.astype(value.dtype), values[..., seen])
        outputs.append((mixed / total).astype(query.dtype))
        log_sums.append((highest + jnp.log(total))[..., 0])
    output = jnp.concatenate(outputs, axis=3).transpose(0, 3, 1, 2, 4)  # [B, T, K, G, H]
    output = checkpoint_name(output.reshape(query.shape), "attention")
    log_sum = checkpoint_name(jnp.concatenate(log_sums, axis=3), "attention")  # [B, K, G, T]
    return output, (query, key, value, segment_ids, output, log_sum)


def _blocks_backward(
    block: int,
    window: int | None,
    saved: tuple[Array, Array, Array, Array | None, Array, Array],
    d_output: Array,
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
        now, seen = slice(start, stop), _keys_of(start, stop, block, window)
        block_queries = _after(d_queries, queries[..., now])
        block_d_outputs = _after(d_queries, d_outputs[..., now])
        scores = _block_scores(block_queries, keys, segment_ids, start, seen, window)
        weights = jnp.exp(scores - log_sum[..., now, None])
        d_weights = _product("BKGHT,BKHS->BKGTS", block_d_outputs, values[..., seen])
        d_scores = (weights * (d_weights - overlap[..., now, None])).astype(query.dtype)
        d_queries.append(_product("BKGTS,BKHS->BKGTH", d_scores, keys[..., seen]))
        d_key = _product("BKGHT,BKGTS->BKHS", block_queries, d_scores)
        d_value = _product("BKGHT,BKGTS->BKHS", block_d_outputs, weights.astype(query.dtype))
        d_keys = d_keys.at[..., seen].add(d_key)
        d_values = d_values.at[..., seen].add(d_value)
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
    block_queries: Array,
    keys: Array,
    segment_ids: Array | None,
    start: int,
    seen: slice,
    window: int | None,
) -> Array:
    scores = _product("BKGHT,BKHS->BKGTS", block_queries, keys[..., seen])
    offset = start - seen.start
    if segment_ids is None:
        return _masked(scores, None, None, offset, window)
    query_segments = segment_ids[:, start : seen.stop]
    return _masked(scores, query_segments, segment_ids[:, seen], offset, window)
