"""What training minimises.

The train step knows no loss. It calls an objective for each micro-batch, adds up what comes back,
divides once by the weight, and updates the trainable weights.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from jaxtyping import Array, Float

from parrot_jax.losses.token_loss import role_weighted_nll
from parrot_jax.train.forward import Batch, Forward, next_tokens

Sums: TypeAlias = tuple[Float[Array, ""], Float[Array, ""], Mapping[str, Float[Array, ""]]]
"""Sums over a micro-batch: the loss, its weight, and further figures to report by name. A step
divides the sums of all its micro-batches by the sum of the weights."""

Objective: TypeAlias = Callable[[Any, Batch, Forward], Sums]
"""A function of the weights, a micro-batch [rows, T] and the model.

Programs are compiled once for equal objectives, so one with settings is a frozen dataclass."""


@dataclass(frozen=True)
class RoleMaskedLoss:
    """The negative log-likelihood of the live tokens, in nats; the weight is that of the tokens."""

    live_capacity: int | None = None
    """Live tokens of a micro-batch that there is room for before the loss falls back to all tokens;
    None = it computes every token."""

    def __call__(self, params: Any, batch: Batch, forward: Forward) -> Sums:
        """The loss of a micro-batch; nothing is divided."""
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
