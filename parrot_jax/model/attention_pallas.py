"""The attention kernel for NVIDIA GPUs, in Pallas: causal within segments, forward and backward.

There are three kernels, each over blocks of a row: one for the output with its log-sum-exp, one for
the gradient of the queries, one for the gradients of keys and values. A query block visits only
key blocks at or below the diagonal, from the first that may share a segment and is not before the
sliding window, so a row of many short dialogues costs about as much as the dialogues would
separately.

Pallas compiles them with Triton. Importing that takes a second, so `attention_gpu.py` imports this
file only when it traces.

Source: arXiv:2307.08691.
"""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton
from jaxtyping import Array, Bool, Float, Int

_MASKED = -1e30
"""The score of a masked key: far below any other, yet finite, so that no inf - inf can arise."""

_LOG2_E = math.log2(math.e)
"""Scores are multiplied by this, because the hardware computes powers of two."""

_NUM_WARPS = 8
_NUM_STAGES = 2


class _Blocks(NamedTuple):
    """Block sizes of a kernel."""

    queries: int
    keys: int


class _Setup(NamedTuple):
    """Static arguments."""

    scale: float
    window: int | None
    forward: _Blocks
    backward: _Blocks
    interpret: bool


def attention(
    query: Float[Array, "B T N H"],
    key: Float[Array, "B T K H"],
    value: Float[Array, "B T K H"],
    segment_ids: Int[Array, "B T"],
    *,
    window: int | None,
    interpret: bool,
) -> Float[Array, "B T N H"]:
    """Computes causal attention within segments; see `attention_gpu.pallas_attention`."""
    length, width = query.shape[1], query.shape[3]
    # Triton's blocks are powers of two; columns of zeros change no score.
    padded = pl.next_power_of_2(width)
    if padded > width:
        columns = ((0, 0), (0, 0), (0, 0), (0, padded - width))
        query, key, value = (jnp.pad(array, columns) for array in (query, key, value))
    blocks = _blocks(length, padded, query.dtype.itemsize)
    setup = _Setup(width**-0.5, window, *blocks, interpret)
    output: Array = _attention(query, key, value, segment_ids, setup)
    return output[..., :width]


def _blocks(length: int, width: int, itemsize: int) -> tuple[_Blocks, _Blocks]:
    """Returns the largest block sizes up to a limit that divide the row: forward and backward.

    With these no kernel spills registers on Ampere (sm_80) and Hopper (sm_90). The next larger ones
    spill on Ampere: in bfloat16 with heads of width 128, 128 x 128 forward spills 32 bytes per
    thread, and 32 x 128 backward spills as well; in float32 with width 64, 64 x 64 backward spills
    5,800 bytes. Wider heads can use 64 x 32 with the compiler of jax 0.10, but not with that of
    0.12.
    """
    small = itemsize > 2 or width > 128
    limits = [(32, 32), (32, 32)] if small else [(128, 64), (64, 64)]
    divisor = math.gcd(length, 128)
    forward, backward = (
        _Blocks(min(divisor, queries), min(divisor, keys)) for queries, keys in limits
    )
    return forward, backward


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def _attention(query: Array, key: Array, value: Array, segment_ids: Array, setup: _Setup) -> Array:
    return _forward(query, key, value, segment_ids, setup)[0]


def _forward(
    query: Array, key: Array, value: Array, segment_ids: Array, setup: _Setup
) -> tuple[Array, tuple[Array, ...]]:
    num_rows, length, num_heads, _ = query.shape
    blocks = setup.forward
    output, log_sum = _run(
        functools.partial(_forward_kernel, setup.scale, setup.window, blocks),
        setup,
        (length // blocks.queries, num_heads, num_rows),
        [query, jax.ShapeDtypeStruct((num_rows, num_heads, length), jnp.float32)],
        [query, key, value, segment_ids, _first_keys(segment_ids, blocks, setup.window)],
    )
    # Under this name remat policies keep both, so that the kernel does not run again.
    output, log_sum = checkpoint_name((output, log_sum), "attention")
    return output, (query, key, value, segment_ids, output, log_sum)


def _backward(
    setup: _Setup, saved: tuple[Array, ...], d_output: Array
) -> tuple[Array, Array, Array, None]:
    query, key, value, segment_ids, output, log_sum = saved
    num_rows, length, num_heads, _ = query.shape
    num_kv_heads = key.shape[2]
    # The softmax's Jacobian needs sum_s p * dp, which equals output . d_output.
    overlap = jnp.sum(output.astype(jnp.float32) * d_output.astype(jnp.float32), axis=3)
    inputs = [query, key, value, segment_ids, d_output, log_sum, overlap.transpose(0, 2, 1)]
    blocks = setup.backward
    (d_query,) = _run(
        functools.partial(_d_query_kernel, setup.scale, setup.window, blocks),
        setup,
        (length // blocks.queries, num_heads, num_rows),
        [query],
        [*inputs, _first_keys(segment_ids, blocks, setup.window)],
    )
    d_key, d_value = _run(
        functools.partial(_d_key_kernel, setup.scale, setup.window, blocks),
        setup,
        (length // blocks.keys, num_kv_heads, num_rows),
        [key, value],
        [*inputs, _last_queries(segment_ids, blocks, setup.window)],
    )
    return d_query, d_key, d_value, None


_attention.defvjp(_forward, _backward)


def _run(
    kernel: Any, setup: _Setup, grid: tuple[int, int, int], outputs: list[Any], inputs: list[Array]
) -> tuple[Array, ...]:
    """Runs a kernel over the grid; each of its programs sees the whole arrays."""
    return pl.pallas_call(
        kernel,
        grid=grid,
        out_shape=[jax.ShapeDtypeStruct(output.shape, output.dtype) for output in outputs],
        compiler_params=triton.CompilerParams(num_warps=_NUM_WARPS, num_stages=_NUM_STAGES),
        interpret=setup.interpret,
    )(*inputs)


# ---- which blocks to visit ----------------------------------------------------------------------
#
# Decided by the smallest and largest segment id of each block, and by the sliding window. Ids may
# be in any order: tokens of blocks that are visited needlessly are masked.


def _first_keys(
    segment_ids: Int[Array, "B T"], blocks: _Blocks, window: int | None = None
) -> Int[Array, "B Q"]:
    """Returns for each query block the first key block that it may attend to."""
    return jnp.argmax(_may_attend(segment_ids, blocks, window), axis=2).astype(jnp.int32)


def _last_queries(
    segment_ids: Int[Array, "B T"], blocks: _Blocks, window: int | None = None
) -> Int[Array, "B S"]:
    """Returns for each key block one past the last query block that may attend to it."""
    attends = _may_attend(segment_ids, blocks, window)
    return attends.shape[1] - jnp.argmax(attends[:, ::-1], axis=1).astype(jnp.int32)


def _may_attend(
    segment_ids: Int[Array, "B T"], blocks: _Blocks, window: int | None
) -> Bool[Array, "B Q S"]:
    """Whether blocks may share a segment and are in reach; also true for some later keys."""
    queries, keys = (segment_ids.reshape(len(segment_ids), -1, size) for size in blocks)
    shares = (queries.min(2)[:, :, None] <= keys.max(2)[:, None]) & (
        keys.min(2)[:, None] <= queries.max(2)[:, :, None]
    )
    if window is None:
        return shares
    first_queries = jnp.arange(queries.shape[1]) * blocks.queries
    last_keys = jnp.arange(1, keys.shape[1] + 1) * blocks.keys - 1
    return shares & (first_queries[:, None] - last_keys[None] < window)[None]


# ---- kernels ------------------------------------------------------------------------------------


def _forward_kernel(
    scale: float, window: int | None, blocks: _Blocks,
    query_ref: Any, key_ref: Any, value_ref: Any, ids_ref: Any,
    first_key_ref: Any, output_ref: Any, log_sum_ref: Any,
) -> None:  # fmt: skip
    block, head, row = pl.program_id(0), pl.program_id(1), pl.program_id(2)
    kv_head = jax.lax.div(head, query_ref.shape[2] // key_ref.shape[2])
    start = block * blocks.queries
    query_slice = pl.ds(start, blocks.queries)
    queries, query_ids = query_ref[row, query_slice, head], ids_ref[row, query_slice]

    def visit(step: Array, carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        mixed, total, running_max = carry
        key_slice = pl.ds(step * blocks.keys, blocks.keys)
        key_start = step * blocks.keys
        visible = _visible(start, query_ids, key_start, ids_ref[row, key_slice], window)
        scores = _product(queries, key_ref[row, key_slice, kv_head].T) * (scale * _LOG2_E)
        scores = jnp.where(visible, scores, _MASKED)
        new_max = jnp.maximum(running_max, scores.max(1))
        # A query that has seen only masked keys gives each the weight 1. Its first visible key, at
        # the latest its own, multiplies those sums by exactly 0.
        weights = jnp.exp2(scores - new_max[:, None])
        rescale = jnp.exp2(running_max - new_max)
        values = value_ref[row, key_slice, kv_head]
        mixed = mixed * rescale[:, None] + _product(weights.astype(values.dtype), values)
        return mixed, total * rescale + weights.sum(1), new_max

    mixed, total, running_max = jax.lax.fori_loop(
        first_key_ref[row, block],
        pl.cdiv(start + blocks.queries, blocks.keys),
        visit,
        (
            jnp.zeros(queries.shape, jnp.float32),
            jnp.zeros(blocks.queries, jnp.float32),
            jnp.full(blocks.queries, _MASKED, jnp.float32),
        ),
    )
    output_ref[row, query_slice, head] = (mixed / total[:, None]).astype(output_ref.dtype)
    log_sum_ref[row, head, query_slice] = running_max + jnp.log2(total)


def _d_query_kernel(
    scale: float, window: int | None, blocks: _Blocks,
    query_ref: Any, key_ref: Any, value_ref: Any, ids_ref: Any,
    d_output_ref: Any, log_sum_ref: Any, overlap_ref: Any, first_key_ref: Any, d_query_ref: Any,
) -> None:  # fmt: skip
    block, head, row = pl.program_id(0), pl.program_id(1), pl.program_id(2)
    kv_head = jax.lax.div(head, query_ref.shape[2] // key_ref.shape[2])
    start = block * blocks.queries
    query_slice = pl.ds(start, blocks.queries)
    queries, query_ids = query_ref[row, query_slice, head], ids_ref[row, query_slice]
    d_outputs = d_output_ref[row, query_slice, head]
    log_sums, overlaps = log_sum_ref[row, head, query_slice], overlap_ref[row, head, query_slice]

    def visit(step: Array, d_queries: Array) -> Array:
        key_slice = pl.ds(step * blocks.keys, blocks.keys)
        key_start = step * blocks.keys
        visible = _visible(start, query_ids, key_start, ids_ref[row, key_slice], window)
        keys = key_ref[row, key_slice, kv_head]
        scores = _product(queries, keys.T) * (scale * _LOG2_E)
        weights = jnp.exp2(jnp.where(visible, scores, _MASKED) - log_sums[:, None])
        d_weights = _product(d_outputs, value_ref[row, key_slice, kv_head].T)
        d_scores = weights * (d_weights - overlaps[:, None])
        return d_queries + _product(d_scores.astype(keys.dtype), keys)

    d_queries = jax.lax.fori_loop(
        first_key_ref[row, block],
        pl.cdiv(start + blocks.queries, blocks.keys),
        visit,
        jnp.zeros(queries.shape, jnp.float32),
    )
    d_query_ref[row, query_slice, head] = (d_queries * scale).astype(d_query_ref.dtype)


def _d_key_kernel(
    scale: float, window: int | None, blocks: _Blocks,
    query_ref: Any, key_ref: Any, value_ref: Any, ids_ref: Any,
    d_output_ref: Any, log_sum_ref: Any, overlap_ref: Any, last_query_ref: Any,
    d_key_ref: Any, d_value_ref: Any,
) -> None:  # fmt: skip
    block, kv_head, row = pl.program_id(0), pl.program_id(1), pl.program_id(2)
    groups = query_ref.shape[2] // key_ref.shape[2]
    start = block * blocks.keys
    key_slice = pl.ds(start, blocks.keys)
    keys, values = key_ref[row, key_slice, kv_head], value_ref[row, key_slice, kv_head]
    key_positions, key_ids = start + jnp.arange(blocks.keys), ids_ref[row, key_slice]
    first = jax.lax.div(start, blocks.queries)
    num_blocks = last_query_ref[row, block] - first

    # Loops over all query heads that share these keys. Scores are [keys, queries], the layout that
    # both sums need.
    def visit(step: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        d_keys, d_values = carry
        head = kv_head * groups + jax.lax.div(step, num_blocks)
        query_start = (first + jax.lax.rem(step, num_blocks)) * blocks.queries
        query_slice = pl.ds(query_start, blocks.queries)
        positions, query_ids = query_start + jnp.arange(blocks.queries), ids_ref[row, query_slice]
        visible = (key_positions[:, None] <= positions[None]) & (
            key_ids[:, None] == query_ids[None]
        )
        if window is not None:
            visible &= positions[None] - key_positions[:, None] < window
        queries, d_outputs = query_ref[row, query_slice, head], d_output_ref[row, query_slice, head]
        scores = _product(keys, queries.T) * (scale * _LOG2_E)
        log_sums = log_sum_ref[row, head, query_slice]
        overlaps = overlap_ref[row, head, query_slice]
        weights = jnp.exp2(jnp.where(visible, scores, _MASKED) - log_sums[None])
        d_values += _product(weights.astype(d_outputs.dtype), d_outputs)
        d_weights = _product(values, d_outputs.T)
        d_scores = weights * (d_weights - overlaps[None])
        return d_keys + _product(d_scores.astype(queries.dtype), queries), d_values

    zeros = jnp.zeros(keys.shape, jnp.float32)
    d_keys, d_values = jax.lax.fori_loop(0, groups * num_blocks, visit, (zeros, zeros))
    d_key_ref[row, key_slice, kv_head] = (d_keys * scale).astype(d_key_ref.dtype)
    d_value_ref[row, key_slice, kv_head] = d_values.astype(d_value_ref.dtype)


def _visible(
    query_start: Any, query_ids: Array, key_start: Any, key_ids: Array, window: int | None
) -> Array:
    """Returns which keys of a block each query of a block attends to, [queries, keys]."""
    queries = query_start + jnp.arange(query_ids.size)
    keys = key_start + jnp.arange(key_ids.size)
    visible = (queries[:, None] >= keys[None]) & (query_ids[:, None] == key_ids[None])
    if window is not None:
        visible &= queries[:, None] - keys[None] < window
    return visible


def _product(left: Array, right: Array) -> Array:
    return jnp.dot(left, right, preferred_element_type=jnp.float32)
