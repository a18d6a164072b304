"""Paired differences between series of scores, and a sentence that is as sure as their interval."""

import itertools
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from parrot_jax.core.errors import UserError
from parrot_jax.evaluate.scores import Series, clustered_intervals

_LEVEL = 0.95


class Difference(NamedTuple):
    """How much better one series is than another, on the turns that both have a score for."""

    mean: float
    """Score of the second minus that of the first."""
    low: float | None
    """Lower end of the interval; None with too few questions."""
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
    left_out: int
    """Turns without a score of one or of both."""
    judges: tuple[str, str]

    def sentence(self) -> str:
        """Whether the second is better, and at which turns; then what speaks against it."""
        said = [self._verdict()]
        if self.left_out:
            said.append(f"{self.left_out:,} turns lack a score of one or both and do not count.")
        if len(set(self.judges)) > 1:
            judges = " and ".join(judge or "an unnamed judge" for judge in self.judges)
            said.append(f"The judges differ ({judges}), which alone may make a difference.")
        return " ".join(said)

    def _verdict(self) -> str:
        overall = self.overall
        if overall.low is None or overall.high is None:
            fewest = next(n for n in itertools.count(1) if _is_enough(n, _LEVEL))
            return (
                f"Only {overall.questions:,} questions have scores of both; with fewer than "
                f"{fewest}, it is not clear whether {self.first} or {self.second} is better."
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
        if len(self.by_turn) == 1:
            return f"{said}."
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
            "left_out": self.left_out,
            "judges": list(self.judges),
            "sentence": self.sentence(),
        }

    def _turns(self, *, above: bool) -> list[int]:
        return [
            turn for turn, one in self.by_turn.items() if one.is_sure and (one.mean > 0) == above
        ]


def difference(first: Series, second: Series) -> Difference | None:
    """The paired difference on the turns that both have a score for.

    Args:
      first: The baseline.
      second: Its score counts positive.

    Returns:
      None if there is no such turn.
    """
    values = _paired(first, second)
    return _differences([values], _LEVEL)[0] if values else None


def differences(pairs: Iterable[tuple[tuple[str, Series], tuple[str, Series]]]) -> list[Pair]:
    """The differences of pairs of named series; those without a common turn are left out.

    The intervals hold for all of them together (Bonferroni).

    Source: O. J. Dunn, Multiple comparisons among means, JASA 56 (1961).
    """
    paired = {
        (first, second): values
        for (first, one), (second, other) in pairs
        if (values := _paired(one, other))
    }
    found = _differences([*paired.values()], _corrected(len(paired)))
    return [Pair(*names, between) for names, between in zip(paired, found, strict=True)]


def compare(first: tuple[str, Series], second: tuple[str, Series]) -> Comparison:
    """Compares two series overall and turn by turn.

    Raises:
      UserError: They have no scored turn in common, or different scales.
    """
    (name, one), (other_name, other) = first, second
    if one.scale != other.scale:
        scales = " and ".join(f"{low:g} to {high:g}" for low, high in (one.scale, other.scale))
        raise UserError(f"{name} and {other_name} have different scales: {scales}.")
    overall = difference(one, other)
    if overall is None:
        raise UserError(
            f"{name} and {other_name} have no scored turn in common; judge both on one benchmark."
        )
    turns = {turn: _paired(one, other, turn) for turn in one.turns()}
    turns = {turn: values for turn, values in turns.items() if values}
    by_turn = _differences([*turns.values()], _corrected(len(turns)))
    return Comparison(
        first=name,
        second=other_name,
        overall=overall,
        by_turn=dict(zip(turns, by_turn, strict=True)),
        left_out=len(one.cells.keys() | other.cells.keys()) - overall.turns,
        judges=(one.judge, other.judge),
    )


def _paired(first: Series, second: Series, turn: int | None = None) -> list[tuple[str, float]]:
    """Question and difference at each turn, or one turn, that both have a score for."""
    values = []
    for place, cell in second.cells.items():
        other = first.cells.get(place)
        if other is None or turn not in (None, place.turn):
            continue
        if cell.score is not None and other.score is not None:
            values.append((place.question, cell.score - other.score))
    return values


def _differences(columns: Sequence[Sequence[tuple[str, float]]], level: float) -> list[Difference]:
    """One difference for each column of `_paired`; the level is that of the intervals."""
    found = []
    for values, (low, high) in zip(columns, clustered_intervals(columns, level=level), strict=True):
        mean, questions = float(np.mean([value for _, value in values])), len(dict(values))
        if not _is_enough(questions, level):
            low = high = None
        found.append(Difference(mean, low, high, len(values), questions))
    return found


def _is_enough(questions: int, level: float) -> bool:
    """Whether an interval at this level means anything.

    If there is no difference, all questions have the same sign by chance with the probability
    2 ** (1 - questions), and then every bootstrap interval excludes 0.

    >>> _is_enough(5, 0.95), _is_enough(6, 0.95)
    (False, True)
    """
    return 2.0 ** (1 - questions) <= 1 - level


def _corrected(comparisons: int) -> float:
    return 1 - (1 - _LEVEL) / max(comparisons, 1)


def _listed(turns: Sequence[int]) -> str:
    """Turns as words.

    >>> _listed([1]), _listed([5, 7, 8])
    ('turn 1', 'turns 5, 7 and 8')
    """
    if len(turns) == 1:
        return f"turn {turns[0]}"
    return f"turns {', '.join(map(str, turns[:-1]))} and {turns[-1]}"
