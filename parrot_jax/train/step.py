"""What one step does: losses of the micro-batches summed, divided once, one AdamW update.

`train_step` is the mathematics; `compile_step` wraps jit, donation and sharding around it.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int, PRNGKeyArray

from parrot_jax.losses.token_loss import TokenLoss, role_weighted_nll
from parrot_jax.model import llama
from parrot_jax.model.attention import Backend
from parrot_jax.model.config import LlamaConfig
from parrot_jax.sharding import num_batch_shards
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
    tokens: Int[Array, ""]
    """Tokens in the rows of the step, padding aside."""
    live_tokens: Int[Array, ""]
    """Those of them that bear loss."""


class Forward(NamedTuple):
    """How to run the model; everything here is static to jit."""

    model: LlamaConfig
    compute_dtype: Any
    attention: Backend
    remat: str
    loss_tile: int
    packed: bool = True
    """Whether rows hold several segments; if not, attention need not tell them apart."""
    unroll_layers: int = 1
    mesh: Mesh | None = None

    @property
    def row_shards(self) -> int:
        """Parts that the rows are split into."""
        return 1 if self.mesh is None else num_batch_shards(self.mesh)

    def hidden(self, params: Any, batch: Batch) -> Float[Array, "B T D"]:
        """Output of the final norm for each position."""
        return llama.hidden_states(
            self.model,
            params,
            batch["tokens"],
            # Padding follows the only segment of a row that is not packed: no token sees it.
            batch["segment_ids"] if self.packed else None,
            batch["positions"],
            compute_dtype=self.compute_dtype,
            attention=self.attention,
            remat=self.remat,
            unroll=self.unroll_layers,
            mesh=self.mesh,
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
    accumulator_dtype: DTypeLike = "float32",
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
      accumulator_dtype: In which the gradients of micro-batches are summed.
      seed: With the step and the parameter, decides how bfloat16 weights and sums are rounded.

    Returns:
      The state after the step, or the same state where loss or norm is not finite; the metrics.
    """
    key = jax.random.fold_in(jax.random.key(seed), state.step)
    update_key, sum_key = jax.random.split(key)
    loss, weight, grads = summed_gradients(
        state.params,
        batch,
        forward=forward,
        live_capacity=live_capacity,
        accumulator_dtype=accumulator_dtype,
        key=sum_key,
    )
    # A step in which nothing is live (possible where dead text is not trimmed) changes nothing.
    weight = jnp.maximum(weight, jnp.finfo(jnp.float32).tiny)
    grads = jax.tree.map(lambda g: g.astype(jnp.float32) / weight, grads)
    norm = optax.tree.norm(grads)
    finite = jnp.isfinite(loss) & jnp.isfinite(norm)
    scale = jnp.minimum(1.0, clip_norm / jnp.maximum(norm, 1e-30))
    grads = jax.tree.map(lambda g: g * scale, grads)
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = add_rounded(state.params, updates, update_key)
    updated = TrainState(params, opt_state, state.step + 1)
    state = jax.tree.map(lambda new, old: jnp.where(finite, new, old), updated, state)
    tokens, live = jnp.sum(batch["segment_ids"] > 0), jnp.sum(batch["loss_weights"] > 0)
    return state, StepMetrics(loss / weight, norm, finite, tokens, live)


def summed_gradients(
    params: Any,
    batch: Batch,
    *,
    forward: Forward,
    live_capacity: int | None,
    accumulator_dtype: DTypeLike,
    key: PRNGKeyArray,
) -> tuple[Float[Array, ""], Float[Array, ""], Any]:
    """The loss of all micro-batches, its weight, and the gradient of the loss; nothing is divided.

    Args:
      params: The weights.
      batch: [steps, rows, T].
      forward: How to run the model.
      live_capacity: As in `train_step`.
      accumulator_dtype: In which gradients are summed; those of one micro-batch alone keep the type
        of the weights.
      key: Decides how bfloat16 sums are rounded.
    """

    def loss_and_weight(params: Any, rows: Batch) -> tuple[Array, Array]:
        return batch_loss(params, rows, forward, live_capacity)

    gradient = jax.value_and_grad(loss_and_weight, has_aux=True)
    num_micro = len(batch["tokens"])
    if num_micro == 1:
        (loss, weight), grads = gradient(params, jax.tree.map(lambda rows: rows[0], dict(batch)))
        return loss, weight, grads

    def add(sums: Any, numbered: tuple[Array, Batch]) -> tuple[Any, None]:
        number, rows = numbered
        loss_sum, weight_sum, grad_sums = sums
        (loss, weight), grads = gradient(params, rows)
        grad_sums = add_rounded(grad_sums, grads, jax.random.fold_in(key, number))
        return (loss_sum + loss, weight_sum + weight, grad_sums), None

    zeros = jax.tree.map(lambda p: jnp.zeros(p.shape, accumulator_dtype), params)
    start = (jnp.zeros(()), jnp.zeros(()), zeros)
    sums, _ = jax.lax.scan(add, start, (jnp.arange(num_micro), dict(batch)))
    return sums


def add_rounded(tree: Any, updates: Any, key: PRNGKeyArray) -> Any:
    """Adds updates to weights or sums in float32; what is kept as bfloat16 is rounded by chance.

    Args:
      tree: Arrays in float32 or bfloat16.
      updates: The same tree.
      key: With the place of an array in the tree, decides its rounding.
    """
    leaves, treedef = jax.tree.flatten(tree)
    keys = jax.random.split(key, len(leaves))

    def add(old: Array, update: Array, key: PRNGKeyArray) -> Array:
        new = old.astype(jnp.float32) + update.astype(jnp.float32)
        return new if old.dtype == jnp.float32 else round_stochastically(new, key)

    return treedef.unflatten(map(add, leaves, jax.tree.leaves(updates), keys))


def compile_step(
    state_shardings: Any, batch_sharding: Any, **settings: Any
) -> Callable[[TrainState, Batch], tuple[TrainState, StepMetrics]]:
    """`train_step` under jit: the old state's memory is reused for the new one.

    Moments that live in the memory of the host come to the device for their update.
    """
    at_rest = state_shardings.opt_state
    in_use = jax.tree.map(lambda sharding: sharding.with_memory_kind("device"), at_rest)
    offloaded = any(s.memory_kind == "pinned_host" for s in jax.tree.leaves(at_rest))

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, StepMetrics]:
        if offloaded:
            state = state._replace(opt_state=jax.device_put(state.opt_state, in_use))
        state, metrics = train_step(state, batch, **settings)
        if offloaded:
            state = state._replace(opt_state=jax.device_put(state.opt_state, at_rest))
        return state, metrics

    return jax.jit(
        step,
        donate_argnums=0,
        in_shardings=(state_shardings, batch_sharding),
        out_shardings=(state_shardings, None),
    )
