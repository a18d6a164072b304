"""Log-probabilities of target tokens, without the logits of a whole batch in memory.

`token_logprobs` serves preference losses and evaluation. It computes the logits in tiles of tokens,
and again in the backward pass, so the largest array is [tile, V]: at tile=1024, V=32000 that is 125
MiB of float32, while the logits of B=8, T=4096 would be 3.9 GiB. One log-sum-exp per token is kept
for the backward pass.

`role_weighted_nll` serves supervised training. The gradient of a weighted sum is known up to a
factor before the backward pass, so it is computed with the loss, from the same logits: 6 operations
per weight and token instead of 8.

With a `live_capacity`, only live tokens are computed: if 13 % of the tokens are live, 13 % of the
matrix products remain. The number of tiles is that of the tokens which are live in this batch, so a
large capacity costs memory and hardly any time. Second derivatives are then not supported.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from parrot_jax.core.errors import UserError


def default_tile(platform: str) -> int:
    """Returns the tokens per tile: few on a CPU, where the logits of a tile stay near its caches.

    >>> default_tile("cpu"), default_tile("gpu")
    (512, 2048)
    """
    return 512 if platform == "cpu" else 2048


class TokenLoss(NamedTuple):
    """A loss before division: sum both over micro-batches and devices, then divide once."""

    loss_sum: Float[Array, ""]
    """Weighted sum of the negative log-probabilities, in nats, float32."""
    weight_sum: Float[Array, ""]
    """Sum of the weights, float32; 0 if no token is live."""


def role_weighted_nll(
    hidden: Float[Array, "B T D"],
    head: Float[Array, "D V"],
    targets: Int[Array, "B T"],
    loss_weights: Float[Array, "B T"],
    *,
    tile: int = 1024,
    live_capacity: int | None = None,
    shards: int = 1,
) -> TokenLoss:
    """Sums the next-token loss, weighted by `loss_weights`.

    The weights select the role: 1 on assistant tokens trains an answerer, 1 on user tokens trains
    an asker.

    Args:
      hidden: Output of the final norm; position t predicts `targets[:, t]`.
      head: Unembedding matrix, in the dtype its gradient should have (float32).
      targets: Token ids in [0, V), already shifted left by one. Where the weight is 0, any id may
        serve as padding.
      loss_weights: One weight per target, >= 0; not normalised here.
      tile: Tokens per step, see `token_logprobs`.
      live_capacity: Capacity for tokens of non-zero weight, see `token_logprobs`.
      shards: Number of shards of the rows over devices, see `token_logprobs`; must divide B.

    Returns:
      The weighted sum in nats and the sum of the weights. Only the train step divides them:
      dividing per micro-batch would favour short answers.

    Raises:
      UserError: As in `token_logprobs`, or the weights depend on what is trained.

    Source: the masked likelihood that trains Parrot-Ask, arXiv:2310.07301.
    """
    weights = loss_weights.astype(jnp.float32)
    tiling, arrays = _parted(hidden, targets, weights != 0, tile, live_capacity, shards)
    loss_sum: Array = _weighted_sum(tiling, arrays[0], head, *arrays[1:], weights)
    return TokenLoss(loss_sum, weights.sum())


def token_nll(
    hidden: Float[Array, "B T D"],
    head: Float[Array, "D V"],
    targets: Int[Array, "B T"],
    *,
    tile: int = 1024,
    shards: int = 1,
) -> Float[Array, "B T"]:
    """Returns the negative log-probability of every target in nats, for evaluation.

    Args:
      hidden: Output of the final norm; position t predicts `targets[:, t]`.
      head: Unembedding matrix.
      targets: Token ids, already shifted left by one.
      tile: Tokens per step.
      shards: Number of shards of the rows over devices; must divide B.

    Returns:
      float32, >= 0.

    Raises:
      UserError: As in `token_logprobs`.
    """
    flat = hidden.reshape(-1, hidden.shape[-1])
    logprobs = token_logprobs(flat, head, targets.reshape(-1), tile=tile, shards=shards)
    return -logprobs.reshape(targets.shape)


def token_logprobs(
    hidden: Float[Array, "tokens D"],
    head: Float[Array, "D V"],
    targets: Int[Array, " tokens"],
    *,
    tile: int = 1024,
    live: Bool[Array, " tokens"] | None = None,
    live_capacity: int | None = None,
    shards: int = 1,
) -> Float[Array, " tokens"]:
    """Returns the log-probability of each target token: log softmax(hidden head)[target].

    Matrix products run in the dtype of `hidden` (bfloat16 on accelerators) and accumulate in
    float32; softmax, sums and the gradient of `head` are float32. The gradient of the logits is
    rounded to the dtype of `hidden` before its two products, because float32 products would not use
    the bfloat16 units.

    Args:
      hidden: One state per token.
      head: Unembedding matrix. Give the float32 parameter, not a bfloat16 copy: it is cast inside,
        and its gradient comes back unrounded. Of a frozen head, no gradient is computed.
      targets: One id in [0, V) per token.
      tile: Tokens per step. Larger is faster until the matrix units are saturated; the memory is
        tile * V * 4 bytes, twice that in the backward pass.
      live: Which tokens count; the others get 0 and no gradient, if their states are finite.
        None = all.
      live_capacity: Capacity for live tokens, which are gathered in order so that only they are
        computed. A batch with more is computed in full: slower, with the same result. With the
        number of tokens or more, every batch fits. None = compute every token.
      shards: Number of equal, contiguous shards of the tokens over devices. Tokens are gathered
        within their shard, each shard has 1/shards of the capacity, and every tile has the same
        number of tokens from each shard, so devices do equal work and exchange only counts of
        tokens. Must divide the number of tokens.

    Returns:
      float32, <= 0, in nats; 0 for tokens that are not live.

    Raises:
      UserError: `tile` or `live_capacity` is below 1, or `shards` does not divide the tokens.
    """
    live = jnp.ones(targets.shape, bool) if live is None else live
    tiling, arrays = _parted(hidden, targets, live, tile, live_capacity, shards)
    logprobs: Array = _logprobs(tiling, arrays[0], head, *arrays[1:])
    return logprobs.reshape(targets.shape)


class _Tiling(NamedTuple):
    """Static arguments: tokens per shard in one tile, and capacity for live tokens per shard."""

    tile: int
    capacity: int | None


def _parted(
    hidden: Array, targets: Array, live: Array, tile: int, live_capacity: int | None, shards: int
) -> tuple[_Tiling, tuple[Array, Array, Array]]:
    """Checks the sizes, and splits hidden states, targets and live tokens into their shards."""
    num_tokens = targets.size
    if tile < 1:
        raise UserError(f"loss_tile={tile} must be 1 or more; 1024 is a good size.")
    if live_capacity is not None and live_capacity < 1:
        raise UserError(
            f"live_capacity={live_capacity} must be 1 or more; leave it out to compute every token."
        )
    if num_tokens % shards:
        raise UserError(
            f"{num_tokens} tokens are not divisible by {shards} shards; make the batch size a "
            f"multiple of {shards}."
        )
    part = num_tokens // shards
    capacity = None if live_capacity is None else min(-(-live_capacity // shards), part)
    tiling = _Tiling(tile=max(1, tile // shards), capacity=capacity)
    states = hidden.reshape(shards, part, hidden.shape[-1])
    return tiling, (states, targets.reshape(shards, part), live.reshape(shards, part))


class _Saved(NamedTuple):
    """Residuals for the backward pass; only `log_sums` needs new memory."""

    hidden: Array
    head: Array
    targets: Array
    live: Array
    log_sums: Array


_Wanted = tuple[()] | None
"""None = the gradient of the head is not needed, because the head is frozen."""

# Below, P is the number of shards ("parts") and M the tokens per shard; arrays are [P, M, ...].


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _logprobs(plan: _Tiling, hidden: Array, head: Array, targets: Array, live: Array) -> Array:
    return _forward(plan, hidden, head, targets, live)[0]


def _forward_rule(plan: _Tiling, *given: Any) -> tuple[Array, tuple[_Saved, _Wanted]]:
    logprobs, saved = _forward(plan, *(one.value for one in given))
    _, head, *_ = given
    # The backward pass gets arrays only, but may depend on the structure of their tree.
    return logprobs, (saved, () if head.perturbed else None)


def _forward(
    plan: _Tiling, hidden: Array, head: Array, targets: Array, live: Array
) -> tuple[Array, _Saved]:
    def full() -> tuple[Array, Array]:
        return _forward_tiles(plan.tile, hidden, head, targets, None)

    def compacted(capacity: int) -> tuple[Array, Array]:
        chosen, ranks = _compaction(live, capacity)
        logprobs, log_sums = _forward_tiles(
            plan.tile, _gather(hidden, chosen), head, _gather(targets, chosen), _most(live)
        )
        return _gather(logprobs, ranks), _gather(log_sums, ranks)

    logprobs, log_sums = _cond(plan, live, full, compacted)
    return jnp.where(live, logprobs, 0.0), _Saved(hidden, head, targets, live, log_sums)


def _backward(
    plan: _Tiling, residuals: tuple[_Saved, _Wanted], d_logprobs: Any
) -> tuple[Array, Array | None, None, None]:
    (hidden, head, targets, live, log_sums), wanted = residuals
    if isinstance(d_logprobs, jax.custom_derivatives.SymbolicZero):
        d_logprobs = jnp.zeros(d_logprobs.shape, jnp.float32)
    d_logprobs = jnp.where(live, d_logprobs, 0.0)

    _, d_hidden, d_head = _gradients(
        plan, wanted, hidden, head, targets, live, d_logprobs, log_sums
    )
    return d_hidden, d_head, None, None


_logprobs.defvjp(_forward_rule, _backward, symbolic_zeros=True)


def _gradients(
    plan: _Tiling,
    wanted: _Wanted,
    hidden: Array,
    head: Array,
    targets: Array,
    live: Array,
    d_logprobs: Array,
    log_sums: Array | None,
) -> tuple[Array, Array, Array | None]:
    """Log-probabilities and the gradients of hidden states and head; of live tokens only.

    Without `log_sums` of an earlier pass, they are computed from the same logits.
    """

    def full() -> tuple[Array, Array, Array | None]:
        return _gradient_tiles(plan.tile, wanted, hidden, head, targets, d_logprobs, log_sums, None)

    def compacted(capacity: int) -> tuple[Array, Array, Array | None]:
        chosen, ranks = _compaction(live, capacity)
        logprobs, d_hidden, d_head = _gradient_tiles(
            plan.tile,
            wanted,
            _gather(hidden, chosen),
            head,
            _gather(targets, chosen),
            _gather(d_logprobs, chosen),
            None if log_sums is None else _gather(log_sums, chosen),
            _most(live),
        )
        return _gather(logprobs, ranks), _gather(d_hidden, ranks), d_head

    logprobs, d_hidden, d_head = _cond(plan, live, full, compacted)
    return logprobs, d_hidden, None if d_head is None else d_head.astype(head.dtype)


# ---- a weighted sum, in one pass ----------------------------------------------------------------


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _weighted_sum(
    plan: _Tiling, hidden: Array, head: Array, targets: Array, live: Array, weights: Array
) -> Array:
    logprobs, _ = _forward(plan, hidden, head, targets, live)
    return -(weights * logprobs.reshape(weights.shape)).sum()


def _weighted_sum_forward(plan: _Tiling, *given: Any) -> tuple[Array, tuple[Array, Array | None]]:
    """The sum, and its gradients as residuals."""
    hidden, head, targets, live, weights = (one.value for one in given)
    if given[4].perturbed:
        raise UserError(
            "loss_weights depend on what is trained, but they have no gradient; build the loss "
            "from token_logprobs, or stop the gradient of the weights."
        )
    wanted: _Wanted = () if given[1].perturbed else None
    logprobs, d_hidden, d_head = _gradients(
        plan, wanted, hidden, head, targets, live, -weights.reshape(live.shape), None
    )
    logprobs = jnp.where(live, logprobs, 0.0)
    return -(weights * logprobs.reshape(weights.shape)).sum(), (d_hidden, d_head)


def _weighted_sum_backward(
    plan: _Tiling, gradients: tuple[Array, Array | None], d_sum: Any
) -> tuple[Any, ...]:
    del plan
    if isinstance(d_sum, jax.custom_derivatives.SymbolicZero):
        d_sum = jnp.zeros((), jnp.float32)
    scaled = jax.tree.map(lambda each: (each * d_sum).astype(each.dtype), gradients)
    return *scaled, None, None, None


_weighted_sum.defvjp(_weighted_sum_forward, _weighted_sum_backward, symbolic_zeros=True)


# ---- tiles --------------------------------------------------------------------------------------


def _cond(
    plan: _Tiling, live: Array, full: Callable[[], Any], compacted: Callable[[int], Any]
) -> Any:
    capacity = plan.capacity
    if capacity is None:
        return full()
    if capacity == live.shape[1]:
        return compacted(capacity)
    fits = (live.sum(axis=1) <= capacity).all()
    return jax.lax.cond(fits, lambda: compacted(capacity), full)


def _compaction(live: Array, capacity: int) -> tuple[Array, Array]:
    """Returns the token of each compacted slot [P, C], and the slot of each token [P, M].

    An index past the end means none; `_gather` reads it as zero. Both directions are gathers, so
    the backward pass needs no scatter.
    """
    num_tokens = live.shape[1]
    ranks = jnp.where(live, jnp.cumsum(live, axis=1) - 1, capacity)

    def first_live(part: Array) -> Array:
        return jnp.nonzero(part, size=capacity, fill_value=num_tokens)[0]

    return jax.vmap(first_live)(live), ranks


def _gather(array: Array, indices: Array) -> Array:
    take = functools.partial(jnp.take, axis=0, mode="fill", fill_value=0)
    return jax.vmap(take)(array, indices)


def _tiles(tile: int, *arrays: Array) -> tuple[int, int, list[Array]]:
    """Pads the tokens to whole tiles of nearly equal size; returns count, size and arrays."""
    num_tokens = arrays[0].shape[1]
    count = max(1, -(-num_tokens // tile))
    size = -(-num_tokens // count)
    extra = count * size - num_tokens

    def padded(array: Array) -> Array:
        return jnp.pad(array, [(0, 0), (0, extra)] + [(0, 0)] * (array.ndim - 2))

    return count, size, [padded(array) if extra else array for array in arrays]


def _most(live: Array) -> Array:
    """The largest number of live tokens of a shard; all shards compute as many tiles."""
    return live.sum(axis=1).max()


def _needed(num_tokens: Array | None, count: int, size: int) -> Array | int:
    """Tiles that hold the first tokens; None = all.

    >>> int(_needed(jnp.int32(5), 4, 2)), _needed(None, 4, 2)
    (3, 4)
    """
    return count if num_tokens is None else -(-num_tokens // size)


def _forward_tiles(
    tile: int, hidden: Array, head: Array, targets: Array, num_live: Array | None
) -> tuple[Array, Array]:
    num_tokens = hidden.shape[1]
    head = head.astype(hidden.dtype)
    count, size, (hidden, targets) = _tiles(tile, hidden, targets)

    def visit(index: Array, done: tuple[Array, Array]) -> tuple[Array, Array]:
        logprobs, log_sums = done
        states, ids = (_tile_at(array, index, size) for array in (hidden, targets))
        logits = jnp.einsum("PMD,DV->PMV", states, head, preferred_element_type=jnp.float32)
        log_sum = jax.nn.logsumexp(logits, axis=-1)
        logprob = jnp.take_along_axis(logits, ids[..., None], axis=-1)[..., 0] - log_sum
        return _put(logprobs, index, logprob), _put(log_sums, index, log_sum)

    none = jnp.zeros(hidden.shape[:2], jnp.float32)
    logprobs, log_sums = jax.lax.fori_loop(0, _needed(num_live, count, size), visit, (none, none))
    return logprobs[:, :num_tokens], log_sums[:, :num_tokens]


def _gradient_tiles(
    tile: int,
    wanted: _Wanted,
    hidden: Array,
    head: Array,
    targets: Array,
    d_logprobs: Array,
    log_sums: Array | None,
    num_live: Array | None,
) -> tuple[Array, Array, Array | None]:
    num_parts, num_tokens, width = hidden.shape
    vocab_size = head.shape[1]
    compute_head = head.astype(hidden.dtype)
    known = [] if log_sums is None else [log_sums]
    count, size, arrays = _tiles(tile, hidden, targets, d_logprobs, *known)
    hidden = arrays[0]

    def visit(index: Array, done: Any) -> Any:
        logprobs, d_hidden, d_head = done
        states, ids, d_logprob, *known = (_tile_at(array, index, size) for array in arrays)
        logits = jnp.einsum("PMD,DV->PMV", states, compute_head, preferred_element_type=jnp.float32)
        log_sum = known[0] if known else jax.nn.logsumexp(logits, axis=-1)
        logprob = jnp.take_along_axis(logits, ids[..., None], axis=-1)[..., 0] - log_sum
        is_target = ids[..., None] == jnp.arange(vocab_size)[None, None]
        d_logits = d_logprob[..., None] * (is_target - jnp.exp(logits - log_sum[..., None]))
        d_logits = d_logits.astype(states.dtype)
        d_states = jnp.einsum("PMV,DV->PMD", d_logits, compute_head)
        if d_head is not None:
            # One sum per shard, so that devices reduce only once, after the last tile.
            d_head += _sum_over_tokens(states, d_logits)
        return _put(logprobs, index, logprob), _put(d_hidden, index, d_states), d_head

    zeros = (
        jnp.zeros(hidden.shape[:2], jnp.float32),
        jnp.zeros(hidden.shape, hidden.dtype),
        None if wanted is None else jnp.zeros((num_parts, width, vocab_size), jnp.float32),
    )
    needed = _needed(num_live, count, size)
    logprobs, d_hidden, d_head = jax.lax.fori_loop(0, needed, visit, zeros)
    d_head = None if d_head is None else d_head.sum(axis=0)
    return logprobs[:, :num_tokens], d_hidden[:, :num_tokens], d_head


def _sum_over_tokens(states: Array, d_logits: Array) -> Array:
    """The gradient of the head [P, D, V] from states [P, M, D] and logits [P, M, V]."""
    product = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)

    def transposed_first(states: Array, d_logits: Array) -> Array:
        # Without the barrier, XLA would transpose within the product, where a CPU takes up to twice
        # as long.
        states = jax.lax.optimization_barrier(states.swapaxes(1, 2))
        return product("PDM,PMV->PDV", states, d_logits)

    default = functools.partial(product, "PMD,PMV->PDV")
    return jax.lax.platform_dependent(states, d_logits, cpu=transposed_first, default=default)


def _tile_at(array: Array, index: Array, size: int) -> Array:
    return jax.lax.dynamic_slice_in_dim(array, index * size, size, axis=1)


def _put(array: Array, index: Array, tile: Array) -> Array:
    return jax.lax.dynamic_update_slice_in_dim(array, tile, index * tile.shape[1], axis=1)
