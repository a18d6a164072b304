"""The training loss.

The train step calls an objective for each micro-batch, sums the results, divides once by the total
weight and updates the trainable weights. To train with another loss, write another objective.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import jax.numpy as jnp
from jaxtyping import Array, Float

from parrot_jax.core.errors import UserError
from parrot_jax.losses.token_loss import role_weighted_nll
from parrot_jax.train.forward import Batch, Forward, next_tokens

Extra: TypeAlias = Float[Array, ""] | tuple[Float[Array, ""], Float[Array, ""]]
"""The sum of a further metric over a micro-batch, divided by the weight of the loss; or its sum and
its own weight. Of a metric with weight 0, the step logs nothing."""

Sums: TypeAlias = tuple[Float[Array, ""], Float[Array, ""], Mapping[str, Extra]]
"""Sums over a micro-batch: the loss, its weight, and further metrics by name. A step divides the
sums of all its micro-batches by the sum of the weights."""

Objective: TypeAlias = Callable[[Any, Batch, Forward], Sums]
"""A function of the weights, a micro-batch [rows, T] and the model.

Equal objectives share a compiled program, so make one with settings a frozen dataclass."""


LOGGED = ("step", "epoch", "loss", "grad_norm", "lr", "tokens", "live_tokens", "step_s", "mfu")
"""The metrics of every step; further metrics need other names."""


def check_objective(objective: Any) -> None:
    """Checks that an object can be an objective.

    Raises:
      UserError: It is not a function, or not hashable.
    """
    if not callable(objective):
        raise UserError(
            f"the objective is {objective!r:.80}; it must be a function "
            "(params, batch, forward) -> (sum, weight, extras)."
        )
    try:
        hash(objective)
    except TypeError:
        raise UserError(
            f"the objective {objective!r:.80} is not hashable; make it a frozen dataclass."
        ) from None


def check_sums(sums: Any) -> Sums:
    """Checks the result of an objective, when its program is traced.

    Raises:
      UserError: It is not (sum, weight, extras) with scalars, or an extra has a reserved name.
    """
    if not isinstance(sums, tuple) or len(sums) != 3 or not isinstance(sums[2], Mapping):
        raise UserError(
            f"the objective returned {type(sums).__name__}; it must return a tuple "
            "(sum, weight, extras), with a dict of further metrics, which may be empty."
        )
    loss, weight, extras = sums
    for name, value in {"the sum": loss, "the weight": weight, **extras}.items():
        if not isinstance(name, str) or name in LOGGED:
            raise UserError(
                f"the objective's extra {name!r} needs another name: a text, and none of "
                f"{', '.join(LOGGED)}."
            )
        parts: Any = value if isinstance(value, tuple) and len(value) == 2 else (value,)
        for part in parts:
            if jnp.shape(part) != ():
                raise UserError(
                    f"the objective returned {name} with the shape {jnp.shape(part)}; it must be a "
                    "scalar, or for an extra a pair of scalars: its sum and its weight."
                )
    return loss, weight, extras


@dataclass(frozen=True)
class RoleMaskedLoss:
    """Cross-entropy on the live tokens, in nats; its weight is the sum of their loss weights."""

    live_capacity: int | None = None
    """Most live tokens of a micro-batch for which only their logits are computed; with more, or if
    None, the loss computes the logits of all tokens."""

    def __call__(self, params: Any, batch: Batch, forward: Forward) -> Sums:
        """The summed loss of a micro-batch, not divided."""
        targets, weights = next_tokens(batch)
        loss, weight = role_weighted_nll(
            forward.hidden(params, batch),
            forward.unembedding(params),
            targets,
            weights,
            tile=forward.loss_tile,
            live_capacity=self.live_capacity,
            shards=forward.row_shards,
        )
        return loss, weight, {}
