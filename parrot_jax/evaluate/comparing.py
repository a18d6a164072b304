"""Paired differences between series of scores, and a sentence that is as sure as their interval."""

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from parrot_jax.core.errors import UserError
from parrot_jax.evaluate.scores import Series, clustered_interval

_LEVEL = 0.95


class Difference(NamedTuple):
    """How much better one series is than another, on the turns that both have a score for."""

    mean: float
    """Score of the second minus that of the first."""
    low: float | None
    """Lower end of the interval; None with fewer than two questions."""
    high: float | None
    turns: int
    """Number of turns that both have."""
    questions: int

    @property
    def is_sure(self) -> bool:
        """Whether the interval excludes 0."""
        return self.low is not None and self.high is not None and not self.low <= 0 <= self.high

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return {**self._asdict(), "is_sure": self.is_sure}


class Pair(NamedTuple):
    """Two series by their names, and their difference."""

    first: str
    second: str
    difference: Difference


class Comparison(NamedTuple):
    """Two series in detail."""

    first: str
    second: str
    overall: Difference
    by_turn: dict[int, Difference]
    """Their intervals are corrected for the number of turns."""

    def sentence(self) -> str:
        """Whether the second is better, and at which turns."""
        overall = self.overall
        if overall.low is None or overall.high is None:
            return (
                f"Fewer than two questions have scores of both, so {self.first} and {self.second} "
                "cannot be compared."
            )
        better, worse = self._turns(above=True), self._turns(above=False)
        interval = f"95 % interval {overall.low:+.2f} to {overall.high:+.2f}"
        if overall.is_sure:
            word = "better" if overall.mean > 0 else "worse"
            said = (
                f"{self.second} is {word} than {self.first} by {abs(overall.mean):.2f} ({interval})"
            )
        else:
            said = (
                f"It is not clear which is better: {self.second} scores {overall.mean:+.2f} "
                f"against {self.first} ({interval})"
            )
        parts = []
        if better:
            parts.append(f"better at {_listed(better)}")
        if worse:
            parts.append(f"worse at {_listed(worse)}")
        unclear = len(self.by_turn) - len(better) - len(worse)
        if unclear:
            parts.append(
                f"unclear at {'each turn' if not (better or worse) else f'the other {unclear:,}'}"
            )
        return f"{said}; by turn, corrected for {len(self.by_turn):,} turns: {', '.join(parts)}."

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return {
            "a": self.first,
            "b": self.second,
            "overall": self.overall.to_json(),
            "by_turn": {str(turn): one.to_json() for turn, one in self.by_turn.items()},
            "sentence": self.sentence(),
        }

    def _turns(self, *, above: bool) -> list[int]:
        return [
            turn for turn, one in self.by_turn.items() if one.is_sure and (one.mean > 0) == above
        ]


def difference(
    first: Series, second: Series, *, turn: int | None = None, level: float = _LEVEL
) -> Difference | None:
    """The paired difference on the turns that both have a score for.

    Args:
      first: The baseline.
      second: Its score counts positive.
      turn: Only this turn.
      level: Of the interval.

    Returns:
      None if there is no such turn.
    """
    values = []
    for place, cell in second.cells.items():
        other = first.cells.get(place)
        if other is None or turn not in (None, place.turn):
            continue
        if cell.score is not None and other.score is not None:
            values.append((place.question, cell.score - other.score))
    if not values:
        return None
    low, high = clustered_interval(values, level=level)
    mean = float(np.mean([value for _, value in values]))
    return Difference(mean, low, high, len(values), len({name for name, _ in values}))


def differences(named: Sequence[tuple[str, Series]]) -> list[Pair]:
    """All pairs; the intervals hold for all of them together (Bonferroni).

    Source: O. J. Dunn, Multiple comparisons among means, JASA 56 (1961).
    """
    pairs = list(itertools.combinations(named, 2))
    level = 1 - (1 - _LEVEL) / max(len(pairs), 1)
    found = []
    for (first, one), (second, other) in pairs:
        if (between := difference(one, other, level=level)) is not None:
            found.append(Pair(first, second, between))
    return found


def compare(first: tuple[str, Series], second: tuple[str, Series]) -> Comparison:
    """Compares two series overall and turn by turn.

    Raises:
      UserError: They have no scored turn in common.
    """
    overall = difference(first[1], second[1])
    if overall is None:
        raise UserError(
            f"{first[0]} and {second[0]} have no scored turn in common; judge both on one "
            "benchmark."
        )
    turns = sorted(set(first[1].turns()) & set(second[1].turns()))
    level = 1 - (1 - _LEVEL) / len(turns)
    by_turn = {
        turn: between
        for turn in turns
        if (between := difference(first[1], second[1], turn=turn, level=level)) is not None
    }
    return Comparison(first[0], second[0], overall, by_turn)


def _listed(turns: Sequence[int]) -> str:
    """Turns as words.

    >>> _listed([1]), _listed([5, 7, 8])
    ('turn 1', 'turns 5, 7 and 8')
    """
    if len(turns) == 1:
        return f"turn {turns[0]}"
    return f"turns {', '.join(map(str, turns[:-1]))} and {turns[-1]}"
