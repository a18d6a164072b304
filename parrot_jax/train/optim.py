"""Number of steps, learning-rate schedule and AdamW.

Gradient clipping and loss division are in `step.py`.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from parrot_jax.train.train_config import OptimConfig, TrainConfig

Schedule = Callable[[int], float]
"""The learning rate by step."""


class Steps(NamedTuple):
    """Step counts of a run, derived from epochs."""

    steps_per_epoch: float
    num_steps: int
    """Steps of the whole schedule."""
    stop_step: int
    """The last step of this run."""
    eval_steps: frozenset[int]
    """Steps after which the held-out split is evaluated."""


def count_steps(config: TrainConfig, num_rows: int) -> Steps:
    """Converts epochs to steps; an epoch is one pass over all rows, hence all sessions."""
    per_epoch = num_rows / config.batch_rows
    num_steps = max(1, round(config.epochs * per_epoch))
    stop = num_steps if config.max_steps is None else min(config.max_steps, num_steps)
    every = config.eval_every_epochs * per_epoch
    regular = {round(k * every) for k in range(1, math.floor(num_steps / every) + 1)}
    return Steps(per_epoch, num_steps, stop, frozenset({s for s in regular if s <= stop} | {stop}))


def learning_rate(config: OptimConfig, *, steps_per_epoch: float, num_steps: int) -> Schedule:
    """Linear warm-up, then cosine decay to `final_lr_fraction`.

    The rate is computed on the host and an argument of the compiled step: runs that differ in
    rate or length share one program.

    Args:
      config: Learning rate, warm-up and final fraction.
      steps_per_epoch: Optimizer steps in one pass over the sessions; may be fractional.
      num_steps: Steps of the whole schedule.

    Returns:
      step -> rate. The first update, step 0, has rate `lr / warm-up steps`: transformers'
      schedule shifted by one, because an update at rate 0 would be wasted.
    """
    warmup = min(round(config.warmup_epochs * steps_per_epoch), num_steps - 1)

    # Not with jax: on a CPU device, it would wait for the step in flight.
    def rate(step: int) -> float:
        if step < warmup:
            return config.lr * (step + 1) / warmup
        done = min((step - warmup) / max(num_steps - warmup, 1), 1.0)
        fall = (1 - config.final_lr_fraction) * (1 + math.cos(math.pi * done)) / 2
        return config.lr * (config.final_lr_fraction + fall)

    return rate


def without_schedule(config: OptimConfig) -> OptimConfig:
    """The settings that stand in the compiled step; those of `learning_rate` are the defaults."""
    none = OptimConfig()
    return replace(
        config,
        lr=none.lr,
        warmup_epochs=none.warmup_epochs,
        final_lr_fraction=none.final_lr_fraction,
    )


def adamw(config: OptimConfig) -> optax.GradientTransformationExtraArgs:
    """AdamW as in torch: every parameter has decoupled weight decay, times the rate.

    Computes in float32 for any type of weights and gradients, stores moments as
    `config.moments_dtype`, and returns float32 updates. `update` takes the rate as its keyword
    `learning_rate`.

    Source: Loshchilov and Hutter, arXiv:1711.05101.
    """

    def with_rate(rate: ArrayLike) -> optax.GradientTransformation:
        return optax.adamw(
            lambda _: rate,
            b1=config.beta1,
            b2=config.beta2,
            eps=config.eps,
            weight_decay=config.weight_decay,
        )

    def init(params: Any) -> Any:
        return _cast(with_rate(0.0).init(params), config.moments_dtype)

    def update(updates: Any, state: Any, params: Any = None, *, learning_rate: ArrayLike) -> Any:
        updates, state = with_rate(learning_rate).update(
            *(_cast(tree, "float32") for tree in (updates, state, params))
        )
        return updates, _cast(state, config.moments_dtype)

    # optax declares the type of `update` without extra arguments.
    return optax.GradientTransformationExtraArgs(init, update)  # pyright: ignore[reportArgumentType]


def _cast(tree: Any, dtype: str) -> Any:
    """Casts the floating-point leaves to `dtype`; integer step counts stay."""

    def cast(leaf: Any) -> Any:
        return leaf.astype(dtype) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf

    return jax.tree.map(cast, tree)
