"""Perplexity of people's questions by turn, from the losses that a model gave them."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from parrot_jax.intervals.bootstrap import ratio_intervals
from parrot_jax.stats.measure_file import Estimate


class Loss(NamedTuple):
    """The loss of one question."""

    dialogue: int
    turn: int
    """Number of the question, from 1."""
    tokens: int
    nats: float
    """Summed over the tokens."""


def perplexities(losses: Sequence[Loss], *, seed: int = 0) -> dict[int | None, Estimate]:
    """The perplexity of each turn, and of all questions after the first under the key None.

    It is exp(sum of losses / number of tokens). Intervals resample dialogues.

    Args:
      losses: Of people's questions.
      seed: Of the bootstrap.

    >>> found = perplexities([Loss(0, 2, 10, 10.0), Loss(0, 3, 10, 30.0)])
    >>> {turn: round(estimate.value, 3) for turn, estimate in found.items()}
    {2: 2.718, 3: 20.086, None: 7.389}
    """
    found = {}
    for turn in [*sorted({loss.turn for loss in losses}), None]:
        some = [loss for loss in losses if (loss.turn == turn if turn else loss.turn > 1)]
        if not some:
            continue
        owners = sorted({loss.dialogue for loss in some})
        sums = np.zeros((len(owners), 2))
        place = {owner: number for number, owner in enumerate(owners)}
        for loss in some:
            sums[place[loss.dialogue]] += (loss.nats, loss.tokens)
        nats, tokens = sums[:, :1], sums[:, 1:]
        low, high = ratio_intervals(nats, tokens, seed=seed)[0]
        has_interval = low < high
        found[turn] = Estimate(
            math.exp(nats.sum() / tokens.sum()),
            math.exp(low) if has_interval else None,
            math.exp(high) if has_interval else None,
            num=float(tokens.sum()),
        )
    return found
