"""One optimizer step: sums the losses of the micro-batches, divides once, updates with AdamW.

`train_step` is the mathematics; `compile_step` wraps jit, donation and sharding around it.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Array, Float, Int, PRNGKeyArray

from parrot_jax.train.forward import Batch, Forward
from parrot_jax.train.objectives import Objective, Sums, check_sums
from parrot_jax.train.rounding import round_stochastically
from parrot_jax.train.train_state import TrainState, merge


class StepMetrics(NamedTuple):
    """Metrics of a step, as scalars."""

    loss: Float[Array, ""]
    """Mean loss before the update: the objective's sum over the step / its weight."""
    grad_norm: Float[Array, ""]
    """Norm of the whole gradient, before clipping."""
    finite: Any
    """Whether loss, norm and extras are finite, and the weight too and not negative; if not,
    nothing was updated."""
    tokens: Int[Array, ""]
    """Tokens of the step, without padding."""
    live_tokens: Int[Array, ""]
    """Tokens that carry loss."""
    extras: Mapping[str, Float[Array, ""]]
    """Further metrics of the objective, divided by its weight or their own; NaN if their own weight
    is 0."""


def train_step(
    state: TrainState,
    batch: Batch,
    learning_rate: ArrayLike,
    *,
    forward: Forward,
    objective: Objective,
    optimizer: optax.GradientTransformationExtraArgs,
    clip_norm: float,
    accumulator_dtype: DTypeLike = "float32",
    seed: int = 0,
) -> tuple[TrainState, StepMetrics]:
    """One optimizer step.

    Args:
      state: Weights and moments before the step.
      batch: All rows of the step, [micro-batches, rows, T]. Sums over micro-batches are added
        before the division, so the result is that of one large batch.
      learning_rate: Of this step.
      forward: How to run the model.
      objective: The training loss.
      optimizer: From `adamw`.
      clip_norm: Largest norm of the gradient.
      accumulator_dtype: Type in which the gradients of micro-batches are summed.
      seed: Together with step and parameter, seeds the rounding of bfloat16 weights and sums, and
        the dropout of adapters.

    Returns:
      The state after the step, unchanged if a metric is not finite; the metrics.
    """
    key = jax.random.fold_in(jax.random.key(seed), state.step)
    update_key, sum_key = jax.random.split(key)
    (loss, weight, extras), grads = summed_gradients(
        state,
        batch,
        forward=forward,
        objective=objective,
        accumulator_dtype=accumulator_dtype,
        key=sum_key,
    )
    # A step without live tokens (possible if `trim_dead` is off) changes nothing.
    is_weighed = weight > 0
    # Without weight there is no mean; a negative or infinite weight is a fault of the objective.
    instead = jnp.where((weight >= 0) & jnp.isfinite(weight), 0.0, jnp.nan)
    is_weighed &= jnp.isfinite(weight)
    weight = jnp.maximum(weight, jnp.finfo(jnp.float32).tiny)

    def mean(total: Array) -> Array:
        return jnp.where(is_weighed, total / weight, instead)

    loss, sums = mean(loss), jax.tree.leaves(extras)
    extras = {
        name: jnp.where(value[1] > 0, value[0] / value[1], jnp.nan)
        if isinstance(value, tuple)
        else mean(value)
        for name, value in extras.items()
    }
    grads = jax.tree.map(lambda g: g.astype(jnp.float32) / weight, grads)
    norm = optax.tree.norm(grads)
    finite = jnp.isfinite(norm)
    for value in (loss, *sums):
        finite &= jnp.isfinite(value)
    scale = jnp.minimum(1.0, clip_norm / jnp.maximum(norm, 1e-30))
    grads = jax.tree.map(lambda g: g * scale, grads)
    updates, opt_state = optimizer.update(
        grads, state.opt_state, state.trainable, learning_rate=learning_rate
    )
    trainable = add_rounded(state.trainable, updates, update_key)
    updated = TrainState(trainable, opt_state, state.step + 1)
    kept = jax.tree.map(
        lambda new, old: jnp.where(finite, new, old), updated, state._replace(frozen={})
    )
    tokens, live = jnp.sum(batch["segment_ids"] > 0), jnp.sum(batch["loss_weights"] > 0)
    metrics = StepMetrics(loss, norm, finite, tokens, live, extras)
    return kept._replace(frozen=state.frozen), metrics


def summed_gradients(
    state: TrainState,
    batch: Batch,
    *,
    forward: Forward,
    objective: Objective,
    accumulator_dtype: DTypeLike,
    key: PRNGKeyArray,
) -> tuple[Sums, Any]:
    """The sums of the objective over all micro-batches, and the gradient of the summed loss.

    Args:
      state: The weights; the gradient is of the trainable ones.
      batch: [micro-batches, rows, T].
      forward: How to run the model.
      objective: The training loss.
      accumulator_dtype: Type in which gradients are summed; with one micro-batch the gradient has
        the type of the weights.
      key: Seeds the rounding of bfloat16 sums and the dropout.
    """

    def loss_and_rest(
        trainable: Any, rows: Batch, number: int | Array
    ) -> tuple[Array, tuple[Array, Any]]:
        params = merge(trainable, state.frozen)
        sums = objective(params, rows, forward.with_dropout(key, number))
        loss, weight, extras = check_sums(sums)
        return loss, (weight, extras)

    gradient = jax.value_and_grad(loss_and_rest, has_aux=True)
    num_micro = len(batch["tokens"])

    def of(rows: Batch, number: int | Array) -> tuple[Sums, Any]:
        (loss, (weight, extras)), grads = gradient(state.trainable, rows, number)
        return (loss, weight, extras), grads

    if num_micro == 1:
        return of(jax.tree.map(lambda rows: rows[0], dict(batch)), 0)

    def add(totals: Any, numbered: tuple[Array, Batch]) -> tuple[Any, None]:
        number, rows = numbered
        (sums, grad_sums), (more, grads) = totals, of(rows, number)
        grad_sums = add_rounded(grad_sums, grads, jax.random.fold_in(key, number))
        return (jax.tree.map(jnp.add, sums, more), grad_sums), None

    zeros = jax.tree.map(lambda p: jnp.zeros(p.shape, accumulator_dtype), state.trainable)
    first = jax.tree.map(lambda rows: rows[0], dict(batch))
    sums = jax.tree.map(
        lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(of, first, 0)[0]
    )
    totals, _ = jax.lax.scan(add, (sums, zeros), (jnp.arange(num_micro), dict(batch)))
    return totals


def add_rounded(tree: Any, updates: Any, key: PRNGKeyArray) -> Any:
    """Adds updates to weights or sums in float32; bfloat16 results are rounded stochastically.

    Args:
      tree: Arrays in float32 or bfloat16.
      updates: A tree of the same structure.
      key: Together with the index of an array in the tree, seeds its rounding.
    """
    leaves, treedef = jax.tree.flatten(tree)
    keys = jax.random.split(key, len(leaves))

    def add(old: Array, update: Array, key: PRNGKeyArray) -> Array:
        new = old.astype(jnp.float32) + update.astype(jnp.float32)
        return new if old.dtype == jnp.float32 else round_stochastically(new, key)

    return treedef.unflatten(map(add, leaves, jax.tree.leaves(updates), keys))


def compile_step(
    state_shardings: Any, batch_sharding: Any, **settings: Any
) -> Callable[[TrainState, Batch, ArrayLike], tuple[TrainState, StepMetrics]]:
    """`train_step` under jit; the old state is donated.

    Moments in host memory are copied to the device for the update.
    """
    at_rest = state_shardings.opt_state
    in_use = jax.tree.map(lambda sharding: sharding.with_memory_kind("device"), at_rest)
    offloaded = any(s.memory_kind == "pinned_host" for s in jax.tree.leaves(at_rest))

    def step(
        state: TrainState, batch: Batch, learning_rate: ArrayLike
    ) -> tuple[TrainState, StepMetrics]:
        if offloaded:
            state = state._replace(opt_state=jax.device_put(state.opt_state, in_use))
        state, metrics = train_step(state, batch, learning_rate, **settings)
        if offloaded:
            state = state._replace(opt_state=jax.device_put(state.opt_state, at_rest))
        return state, metrics

    return jax.jit(
        step,
        donate_argnums=0,
        in_shardings=(state_shardings, batch_sharding, None),
        out_shardings=(state_shardings, None),
    )
