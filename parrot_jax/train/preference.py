"""Preference training: the log-probabilities of the answers of pairs, the objective, its metrics.

A row has up to P pairs; segment 2p + 1 is the chosen side of pair p, 2p + 2 the rejected one. So
"answers" are arrays [rows, 2P]: chosen and rejected in turn, 0 where there is no pair.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from numpy.typing import NDArray

from parrot_jax.data.packing import kind_code
from parrot_jax.data.prepare import RowFiles
from parrot_jax.losses.preference import preference_loss
from parrot_jax.losses.token_loss import token_logprobs
from parrot_jax.train.forward import Batch, Forward, next_tokens
from parrot_jax.train.objectives import Extra, Sums
from parrot_jax.train.train_config import PreferenceConfig

REFERENCE = "reference"
"""The field of a batch with the answers' log-probabilities under the reference."""


ROUNDING = {"float32": 1e-6, "bfloat16": 4e-3}
"""Relative difference of log-probabilities that two programs compute from the same weights, by
`compute_dtype`."""


class PairRows(Sequence[dict[str, NDArray[Any]]]):
    """Rows of pairs with the log-probabilities of their answers under the reference."""

    def __init__(self, rows: RowFiles, reference: NDArray[np.float32] | None) -> None:
        """None as reference = zeros, for programs that only measure time and memory."""
        self._rows, self._reference = rows, reference

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> dict[str, NDArray[Any]]:  # type: ignore[override]
        row = self._rows[index]
        zeros = np.zeros(2 * len(row["kinds"]), np.float32)
        return row | {REFERENCE: zeros if self._reference is None else self._reference[index]}


class Pairs(NamedTuple):
    """The pairs of some rows; arrays [rows, P]."""

    weight: Array
    """Of the loss; 0 = no pair."""
    chosen: Array
    """Log-probability of the chosen answer, in nats."""
    rejected: Array
    reference_chosen: Array
    reference_rejected: Array
    chosen_tokens: Array
    """Tokens of the answer with its terminator; 1 if there is no pair."""
    rejected_tokens: Array
    kind: Array
    """`kind_code` of the kind."""
    turn: Array
    """From 1."""


def answer_logprobs(
    params: Any, batch: Batch, forward: Forward, *, live_capacity: int | None = None
) -> Float[Array, "B answers"]:
    """Summed log-probability of each answer, in nats, float32.

    Args:
      params: The weights.
      batch: Rows of pairs, [rows, T].
      forward: How to run the model.
      live_capacity: See `token_logprobs`.
    """
    targets, weights = next_tokens(batch)
    hidden = forward.hidden(params, batch)
    logprobs = token_logprobs(
        hidden.reshape(-1, hidden.shape[-1]),
        forward.unembedding(params),
        targets.reshape(-1),
        tile=forward.loss_tile,
        live=(weights > 0).reshape(-1),
        live_capacity=live_capacity,
        shards=forward.row_shards,
    )
    return _by_answer(logprobs.reshape(targets.shape), batch)


def _by_answer(values: Float[Array, "B T"], batch: Batch) -> Float[Array, "B answers"]:
    """Sums the values of the live target tokens of each answer."""
    _, weights = next_tokens(batch)
    answers = jnp.arange(1, 2 * batch["kinds"].shape[1] + 1)[None, None]
    # A live token is never the first of its segment, so position and target share it.
    mine = (batch["segment_ids"][..., None] == answers) & (weights > 0)[..., None]
    # A product, because sums over segments add in no fixed order on a GPU.
    return jnp.einsum(
        "BT,BTA->BA", values, mine.astype(jnp.float32), precision=jax.lax.Precision.HIGHEST
    )


def pairs_of(answers: Float[Array, "B answers"], batch: Batch) -> Pairs:
    """The pairs of a batch with their log-probabilities.

    Args:
      answers: From `answer_logprobs`.
      batch: With `reference`, [rows, 2P].
    """
    _, weights = next_tokens(batch)
    tokens = _by_answer((weights > 0).astype(jnp.float32), batch)
    weight = _by_answer(weights, batch)[:, ::2] / jnp.maximum(tokens[:, ::2], 1)
    reference = batch[REFERENCE]
    return Pairs(
        weight=weight,
        chosen=answers[:, ::2],
        rejected=answers[:, 1::2],
        reference_chosen=reference[:, ::2],
        reference_rejected=reference[:, 1::2],
        chosen_tokens=jnp.maximum(tokens[:, ::2], 1),
        rejected_tokens=jnp.maximum(tokens[:, 1::2], 1),
        kind=batch["kinds"],
        turn=batch["turns"],
    )


def pair_losses(pairs: Pairs, config: PreferenceConfig) -> Array:
    """The loss of each pair, [rows, P]."""
    chosen = pairs.chosen - pairs.reference_chosen
    rejected = pairs.rejected - pairs.reference_rejected
    if config.length_normalized:
        chosen, rejected = chosen / pairs.chosen_tokens, rejected / pairs.rejected_tokens
    losses = preference_loss(chosen - rejected, kind=config.loss, beta=config.beta)
    if config.sft_weight:
        losses -= config.sft_weight * pairs.chosen / pairs.chosen_tokens
    return losses


def pair_metrics(pairs: Pairs, config: PreferenceConfig) -> dict[str, Array]:
    """Metrics of each pair by name, [rows, P]; the names are TRL's where it has them."""
    chosen = pairs.chosen - pairs.reference_chosen
    rejected = pairs.rejected - pairs.reference_rejected
    tokens = pairs.chosen_tokens + pairs.rejected_tokens
    return {
        "rewards/chosen": config.beta * chosen,
        "rewards/rejected": config.beta * rejected,
        "rewards/margins": config.beta * (chosen - rejected),
        "rewards/accuracies": (chosen > rejected).astype(jnp.float32),
        "logps/chosen": pairs.chosen,
        "logps/rejected": pairs.rejected,
        "lengths/chosen": pairs.chosen_tokens,
        "lengths/rejected": pairs.rejected_tokens,
        # The mean over tokens that neither model wrote, so an estimate only.
        "kl": -(chosen + rejected) / tokens,
    }


@dataclass(frozen=True)
class PreferenceObjective:
    """A preference loss, averaged over the pairs of a step by their weights."""

    config: PreferenceConfig
    live_capacity: int | None = None
    """As in `RoleMaskedLoss`."""
    kinds: tuple[str, ...] = ()
    """Kinds whose metrics are logged separately."""
    turns: tuple[int, ...] = ()
    """Turns whose metrics are logged separately."""

    def __call__(self, params: Any, batch: Batch, forward: Forward) -> Sums:
        """The summed loss of a micro-batch, the number of its pairs, and metrics."""
        answers = answer_logprobs(params, batch, forward, live_capacity=self.live_capacity)
        pairs = pairs_of(answers, batch)
        losses = pair_losses(pairs, self.config)
        return (pairs.weight * losses).sum(), pairs.weight.sum(), self._extras(pairs)

    def _extras(self, pairs: Pairs) -> Mapping[str, Extra]:
        is_pair = pairs.weight > 0
        groups = {"": is_pair}
        groups |= {f"/{kind}": is_pair & (pairs.kind == kind_code(kind)) for kind in self.kinds}
        groups |= {f"/turn_{turn}": is_pair & (pairs.turn == turn) for turn in self.turns}
        metrics = jax.lax.stop_gradient(pair_metrics(pairs, self.config))
        # All at once: a sum for each of a hundred metrics takes seconds to compile.
        members = jnp.stack(list(groups.values()))
        counts = members.sum((1, 2), dtype=jnp.float32)
        values = jnp.stack(list(metrics.values()))[:, None]
        sums = jnp.where(members[None], values, 0.0).sum((2, 3))
        return {
            name + suffix: (sums[row, column], counts[column])
            for row, name in enumerate(metrics)
            for column, suffix in enumerate(groups)
        }
