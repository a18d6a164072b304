"""The training loss.

The train step calls an objective for each micro-batch, sums the results, divides once by the total
weight and updates the trainable weights. To train with another loss, write another objective.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from jaxtyping import Array, Float

from parrot_jax.losses.token_loss import role_weighted_nll
from parrot_jax.train.forward import Batch, Forward, next_tokens

Sums: TypeAlias = tuple[Float[Array, ""], Float[Array, ""], Mapping[str, Float[Array, ""]]]
"""Sums over a micro-batch: the loss, its weight, and further metrics by name. A step divides the
sums of all its micro-batches by the sum of the weights."""

Objective: TypeAlias = Callable[[Any, Batch, Forward], Sums]
"""A function of the weights, a micro-batch [rows, T] and the model.

Equal objectives share a compiled program, so make one with settings a frozen dataclass."""


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
