"""Attention in plain XLA: the plain formula, and a version in blocks.

`attention.py` registers them.
"""

import functools
import os
from collections.abc import Callable, Iterator
from typing import Any

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
    scores = _masked(scores, segment_ids, window)
    weights = jax.nn.softmax(scores, axis=-1).astype(value.dtype)
    mixed = _product("BKGTS,BSKH->BTKGH", weights, value)
    return checkpoint_name(mixed.reshape(query.shape).astype(query.dtype), "attention")


def _masked(
    scores: Float[Array, "B K G T T"], segment_ids: Int[Array, "B T"] | None, window: int | None
) -> Float[Array, "B K G T T"]:
    """Masks keys later than the query, before its window or in another segment."""
    positions = jnp.arange(scores.shape[-1])
    visible: Bool[Array, "B T S"] = (positions[:, None] >= positions[None])[None]
    if window is not None:
        visible = visible & (positions[:, None] - positions[None] < window)[None]
    if segment_ids is not None:
        visible = visible & (segment_ids[:, :, None] == segment_ids[:, None, :])
    return jnp.where(visible[:, None, None], scores, _MASKED)


def _product(equation: str, left: Array, right: Array) -> Array:
    return jnp.einsum(equation, left, right, preferred_element_type=jnp.float32)


# ---- block_causal -------------------------------------------------------------------------------
#
# Query block i attends to keys 0 .. (i+1) * block only: about half of the square. A sliding window
# also leaves out the blocks before it. The backward pass is written by hand: autodiff would keep
# the weights of every block, this keeps only the output and one log-sum-exp per query.
#
# On a CPU, one key head of a long row is computed after the other, so that its scores stay in the
# caches, in up to four independent loops. Operands are transposed before the loops, so that every
# product is a [rows, inner] array times an [inner, columns] one: of others, XLA makes a copy for
# each block (scripts/bench/attention.py). With short rows, all heads at once are as fast or faster.

_SHORT = 384
"""A row of at most so many tokens is short."""
_NUM_LOOPS = min(os.cpu_count() or 1, 4)
"""At most four, because the body is compiled once per loop."""


def _block_size(length: int) -> int:
    """Smaller blocks skip more keys, but more than eight take long to compile.

    >>> [_block_size(length) for length in (384, 512, 2048, 3000, 4096)]
    [128, 256, 256, 384, 512]
    """
    return 128 if length <= _SHORT else max(256, -(-length // (8 * 128)) * 128)


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
      segment_ids: Adjacent tokens of one segment share an id; None = one segment per row.
      window: The sliding window in tokens; None = no window.

    Returns:
      The weighted values, in the dtype of the query.
    """
    first_seen = _first_seen(segment_ids, query.shape[:2], window)
    return _blocks(query, key, value, first_seen, window)


def _first_seen(
    segment_ids: Array | None, shape: tuple[int, ...], window: int | None
) -> Int[Array, "B T"] | None:
    """The first key that each query attends to; None = that of the row.

    In a loop, comparing positions with it is faster than comparing segment ids.
    """
    if segment_ids is None and window is None:
        return None
    positions = jnp.broadcast_to(jnp.arange(shape[1]), shape)
    first = jnp.zeros(shape, positions.dtype)
    if segment_ids is not None:
        starts = jnp.diff(segment_ids, axis=1, prepend=segment_ids[:, :1]) != 0
        first = jax.lax.cummax(jnp.where(starts, positions, 0), axis=1)
    return first if window is None else jnp.maximum(first, positions - (window - 1))


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def _blocks(
    query: Array, key: Array, value: Array, first_seen: Array | None, window: int | None
) -> Array:
    return _blocks_forward(query, key, value, first_seen, window)[0]


def _blocks_forward(
    query: Array, key: Array, value: Array, first_seen: Array | None, window: int | None
) -> tuple[Array, tuple[Array | None, ...]]:
    num_kv_heads, width = key.shape[2:]
    output, log_sum = _for_each_head(
        functools.partial(_head_forward, window),
        query.shape[1],
        (
            _grouped(query * width**-0.5, num_kv_heads),
            _transposed(_by_head(key)),
            _by_head(value),
            _of_heads(first_seen, num_kv_heads),
        ),
    )
    output = checkpoint_name(_ungrouped(output, query.shape), "attention")
    log_sum = checkpoint_name(log_sum, "attention")  # [B K, G, T]
    return output, (query, key, value, first_seen, output, log_sum)


def _blocks_backward(
    window: int | None,
    saved: tuple[Array, Array, Array, Array | None, Array, Array],
    d_output: Array,
) -> tuple[Array, Array, Array, None]:
    query, key, value, first_seen, output, log_sum = saved
    num_kv_heads, width = key.shape[2:]
    queries = _grouped(query * width**-0.5, num_kv_heads)
    keys, d_outputs = _by_head(key), _grouped(d_output, num_kv_heads)
    # The softmax's Jacobian needs sum_s p * dp, which equals output . d_output.
    overlap = (output.astype(jnp.float32) * d_output.astype(jnp.float32)).sum(-1, keepdims=True)
    d_query, d_key, d_value = _for_each_head(
        functools.partial(_head_backward, window),
        query.shape[1],
        (
            (queries, _features_first(queries)),
            (keys, _transposed(keys)),
            _transposed(_by_head(value)),
            _of_heads(first_seen, num_kv_heads),
            log_sum,
            _grouped(overlap, num_kv_heads)[..., 0],
            (d_outputs, _features_first(d_outputs)),
        ),
    )
    d_query = _ungrouped(d_query, query.shape) * width**-0.5
    d_key, d_value = (
        each.reshape(-1, num_kv_heads, *each.shape[1:]).transpose(0, 3, 1, 2)
        for each in (d_key, d_value)
    )
    return d_query.astype(query.dtype), d_key.astype(key.dtype), d_value.astype(value.dtype), None


_blocks.defvjp(_blocks_forward, _blocks_backward)


def _for_each_head(function: Callable[[Any], Any], length: int, arrays: Any) -> Any:
    """Calls `function` with the arrays of each key head; they lead with [B K]."""
    at_once = jax.vmap(function)
    if length <= _SHORT:
        return at_once(arrays)

    def in_loops(arrays: Any) -> Any:
        count = jax.tree.leaves(arrays)[0].shape[0]
        loops = max(number for number in range(1, _NUM_LOOPS + 1) if count % number == 0)
        size = count // loops
        parts = [
            # In batches of one, so that a remat policy sees products of heads, as elsewhere.
            jax.lax.map(
                function, jax.tree.map(lambda a, at=at: a[at : at + size], arrays), batch_size=1
            )
            for at in (number * size for number in range(loops))  # size is 0 without rows
        ]
        return jax.tree.map(lambda *part: jnp.concatenate(part), *parts)

    return jax.lax.platform_dependent(arrays, cpu=in_loops, default=at_once)


def _head_forward(window: int | None, arrays: Any) -> tuple[Array, Array]:
    """Outputs [G, T, H] and log-sum-exps [G, T] of a key head."""
    query, keys, value, first_seen = arrays  # [G, T, H], [H, S], [S, H], [T]
    outputs, log_sums = [], []
    for now, seen in _block_slices(query.shape[1], window):
        scores = _block_scores(query[:, now], keys[:, seen], first_seen, now, seen)
        highest = scores.max(-1, keepdims=True)
        weights = jnp.exp(scores - highest)
        total = weights.sum(-1, keepdims=True)
        mixed = _product("GTS,SH->GTH", weights.astype(value.dtype), value[seen])
        outputs.append((mixed / total).astype(query.dtype))
        log_sums.append((highest + jnp.log(total))[..., 0])
    return jnp.concatenate(outputs, axis=1), jnp.concatenate(log_sums, axis=1)


def _head_backward(window: int | None, arrays: Any) -> tuple[Array, Array, Array]:
    """Gradients of queries [G, T, H], keys [H, S] and values [H, S] of a key head, float32."""
    # As in `_blocks_backward`; plurals are transposed, [H, G, T] and [H, S].
    (query, queries), (key, keys), values, first_seen, log_sum, overlap, d_pair = arrays
    d_output, d_outputs = d_pair
    d_keys, d_values = jnp.zeros(keys.shape, jnp.float32), jnp.zeros(values.shape, jnp.float32)
    d_queries = []
    for now, seen in _block_slices(query.shape[1], window):
        scores = _block_scores(query[:, now], keys[:, seen], first_seen, now, seen)
        weights = jnp.exp(scores - log_sum[:, now, None])
        d_weights = _product("GTH,HS->GTS", d_output[:, now], values[:, seen])
        d_scores = (weights * (d_weights - overlap[:, now, None])).astype(query.dtype)
        d_queries.append(_product("GTS,SH->GTH", d_scores, key[seen]))
        d_key = _product("HGT,GTS->HS", queries[..., now], d_scores)
        d_value = _product("HGT,GTS->HS", d_outputs[..., now], weights.astype(query.dtype))
        d_keys = d_keys.at[:, seen].add(d_key)
        d_values = d_values.at[:, seen].add(d_value)
    return jnp.concatenate(d_queries, axis=1), d_keys, d_values


def _block_slices(length: int, window: int | None) -> Iterator[tuple[slice, slice]]:
    """The queries of each block, and the keys they attend to, in whole blocks.

    >>> [(now.start, seen.start, seen.stop) for now, seen in _block_slices(600, window=200)]
    [(0, 0, 256), (256, 0, 512), (512, 256, 600)]
    """
    block = _block_size(length)
    for start in range(0, length, block):
        stop = min(start + block, length)
        first = 0 if window is None else max(0, start - window + 1) // block * block
        yield slice(start, stop), slice(first, stop)


def _block_scores(
    query: Array, keys: Array, first_seen: Array | None, now: slice, seen: slice
) -> Array:
    scores = _product("GTH,HS->GTS", query, keys)
    key_positions = jnp.arange(seen.start, seen.stop)[None]
    visible = key_positions <= jnp.arange(now.start, now.stop)[:, None]
    if first_seen is not None:
        visible &= key_positions >= first_seen[now, None]
    return jnp.where(visible, scores, _MASKED)


def _by_head(array: Array) -> Array:
    """Reorders [B, T, K, H] to [B K, T, H]."""
    return array.transpose(0, 2, 1, 3).reshape(-1, array.shape[1], array.shape[3])


def _grouped(array: Array, num_kv_heads: int) -> Array:
    """Reorders [B, T, N, H] to [B K, G, T, H]."""
    groups = array.shape[2] // num_kv_heads
    return _by_head(array).reshape(-1, groups, array.shape[1], array.shape[3])


def _ungrouped(array: Array, shape: tuple[int, ...]) -> Array:
    """Reorders [B K, G, T, H] to `shape`, [B, T, N, H]."""
    num_rows, length, num_heads, width = shape
    return array.reshape(num_rows, num_heads, length, width).transpose(0, 2, 1, 3)


def _transposed(array: Array) -> Array:
    return array.swapaxes(-1, -2)


def _features_first(array: Array) -> Array:
    """Reorders [B K, G, T, H] to [B K, H, G, T]."""
    return array.transpose(0, 3, 1, 2)


def _of_heads(first_seen: Array | None, num_kv_heads: int) -> Array | None:
    return None if first_seen is None else jnp.repeat(first_seen, num_kv_heads, axis=0)
