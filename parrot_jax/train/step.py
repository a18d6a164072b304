"""What one step does: losses of the micro-batches summed, divided once, one AdamW update.

`train_step` is the mathematics; `compile_step` wraps jit, donation and sharding around it.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import NamedSharding
from jaxtyping import Array, Float, Int, PRNGKeyArray

from parrot_jax.losses.token_loss import TokenLoss, role_weighted_nll
from parrot_jax.model import llama
from parrot_jax.model.config import LlamaConfig
from parrot_jax.train.rounding import round_stochastically

Batch = Mapping[str, Any]
"""`tokens`, `loss_weights`, `segment_ids`, `positions`: each [rows, T], or [steps, rows, T] where
micro-batches are accumulated."""


class TrainState(NamedTuple):
    """All that a checkpoint holds."""

    params: Any
    opt_state: Any
    step: Any
    """Updates done so far."""


class StepMetrics(NamedTuple):
    """What a step reports, as scalars."""

    loss: Float[Array, ""]
    """Mean loss of the live tokens, in nats, before the update."""
    grad_norm: Float[Array, ""]
    """Norm of the whole gradient, before clipping."""
    finite: Any
    """Whether loss and norm are finite; if not, nothing was updated."""


class Forward(NamedTuple):
    """How to run the model; everything here is static to jit."""

    model: LlamaConfig
    compute_dtype: Any
    attention: str
    remat: str
    loss_tile: int
    activation_sharding: NamedSharding | None
    row_shards: int

    def hidden(self, params: Any, batch: Batch) -> Float[Array, "B T D"]:
        """Output of the final norm for each position."""
        return llama.hidden_states(
            self.model,
            params,
            batch["tokens"],
            batch["segment_ids"],
            batch["positions"],
            compute_dtype=self.compute_dtype,
            attention=self.attention,
            remat=self.remat,
            activation_sharding=self.activation_sharding,
        )


def next_tokens(batch: Batch) -> tuple[Int[Array, "B T"], Float[Array, "B T"]]:
    """The only place where targets are shifted: position t predicts the token at t + 1.

    A segment's first token is BOS and bears no loss, so no position is asked for the next segment.

    Returns:
      Targets and their loss weights; the last column has weight 0.
    """
    targets = jnp.roll(batch["tokens"], -1, axis=1)
    weights = jnp.roll(batch["loss_weights"], -1, axis=1).at[:, -1].set(0.0)
    return targets, weights


def batch_loss(params: Any, batch: Batch, forward: Forward, live_capacity: int | None) -> TokenLoss:
    """The weighted loss of a micro-batch as a sum and its weight; nothing is divided."""
    targets, weights = next_tokens(batch)
    return role_weighted_nll(
        forward.hidden(params, batch),
        llama.unembedding(params),
        targets,
        weights,
        tile=forward.loss_tile,
        live_capacity=live_capacity,
        shards=forward.row_shards,
    )


def train_step(
    state: TrainState,
    batch: Batch,
    *,
    forward: Forward,
    optimizer: optax.GradientTransformation,
    clip_norm: float,
    live_capacity: int | None,
    seed: int = 0,
) -> tuple[TrainState, StepMetrics]:
    """One optimizer step.

    Args:
      state: Parameters and moments before the step.
      batch: All rows of the step as micro-batches, [steps, rows, T]. Their sums are added before
        the one division, so the result is that of one large batch.
      forward: How to run the model.
      optimizer: AdamW with its schedule.
      clip_norm: Largest norm of the gradient.
      live_capacity: Live tokens of a micro-batch that the loss has room for before it falls back
        to all tokens; None = no compaction.
      seed: With the step and the parameter, decides how bfloat16 weights are rounded.

    Returns:
      The state after the step, or the same state where loss or norm is not finite; the metrics.
    """

    def loss_and_weight(params: Any, rows: Batch) -> tuple[Array, Array]:
        return batch_loss(params, rows, forward, live_capacity)

    gradient = jax.value_and_grad(loss_and_weight, has_aux=True)

    def add(sums: Any, rows: Batch) -> tuple[Any, None]:
        (loss, weight), grads = gradient(state.params, rows)
        return jax.tree.map(jnp.add, sums, (loss, weight, grads)), None

    if len(batch["tokens"]) == 1:
        only = jax.tree.map(lambda rows: rows[0], dict(batch))
        (loss, weight), grads = gradient(state.params, only)
    else:
        zeros = jax.tree.map(lambda p: jnp.zeros(p.shape, jnp.float32), state.params)
        start = (jnp.zeros(()), jnp.zeros(()), zeros)
        (loss, weight, grads), _ = jax.lax.scan(add, start, dict(batch))

    # A step in which nothing is live (possible where dead text is not trimmed) changes nothing.
    weight = jnp.maximum(weight, jnp.finfo(jnp.float32).tiny)
    grads = jax.tree.map(lambda g: g.astype(jnp.float32) / weight, grads)
    norm = optax.tree.norm(grads)
    finite = jnp.isfinite(loss) & jnp.isfinite(norm)
    scale = jnp.minimum(1.0, clip_norm / jnp.maximum(norm, 1e-30))
    grads = jax.tree.map(lambda g: g * scale, grads)
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = apply_updates(state.params, updates, jax.random.key(seed), state.step)
    updated = TrainState(params, opt_state, state.step + 1)
    state = jax.tree.map(lambda new, old: jnp.where(finite, new, old), updated, state)
    return state, StepMetrics(loss / weight, norm, finite)


def apply_updates(params: Any, updates: Any, key: PRNGKeyArray, step: Int[Array, ""]) -> Any:
    """Adds float32 updates to weights; bfloat16 ones are rounded stochastically.

    Args:
      params: The tree of weights.
      updates: The same tree, float32.
      key: Decides the rounding, with the step and the place of the weight in the tree.
      step: Updates done so far.
    """
    leaves, treedef = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.fold_in(key, step), len(leaves))

    def add(param: Array, update: Array, key: PRNGKeyArray) -> Array:
        moved = param.astype(jnp.float32) + update
        return moved if param.dtype == jnp.float32 else round_stochastically(moved, key)

    return treedef.unflatten(map(add, leaves, jax.tree.leaves(updates), keys))


def compile_step(
    state_shardings: Any, batch_sharding: Any, **settings: Any
) -> Callable[[TrainState, Batch], tuple[TrainState, StepMetrics]]:
    """`train_step` under jit: the old state's memory is reused for the new one."""

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, StepMetrics]:
        return train_step(state, batch, **settings)

    return jax.jit(
        step,
        donate_argnums=0,
        in_shardings=(state_shardings, batch_sharding),
        out_shardings=(state_shardings, None),
    )
