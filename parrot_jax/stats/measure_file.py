"""Measures one file of dialogues: streams it and keeps a few numbers per session."""

import itertools
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from parrot_jax.dialogue.language import language_of
from parrot_jax.dialogue.report import ReadReport
from parrot_jax.dialogue.sources import SourceConfig, read_sources
from parrot_jax.dialogue.types import Dialogue
from parrot_jax.intervals.bootstrap import ratio_intervals
from parrot_jax.stats.measures import LANGUAGE_CHARS, MEASURES, Amount, Unit, measure_session

_DIALOGUES_AT_ONCE = 64

CountTokens = Callable[[Sequence[str]], list[int]]
"""Maps texts to their numbers of tokens."""


class Estimate(NamedTuple):
    """A mean or a share with its confidence interval."""

    value: float
    low: float | None
    """The 95 % interval; None for too few sessions or identical values, whose resampling would show
    no variation, which is misleading."""
    high: float | None
    num: float
    """Number of sessions or questions of the mean."""

    def shown(self, unit: Unit = "number") -> str:
        """The value with its interval, as text.

        >>> Estimate(0.5, 0.25, 0.75, 8).shown("share")
        '50.0 % (25.0–75.0)'
        """
        scale = 1 if unit == "number" else 100
        large = unit == "number" and self.value >= 100
        value, low, high = (
            None if end is None else f"{scale * end:,.{0 if large else 2 if scale == 1 else 1}f}"
            for end in self[:3]
        )
        sign = " %" if unit == "share" else ""
        return f"{value}{sign}" if low is None else f"{value}{sign} ({low}–{high})"


@dataclass(frozen=True, kw_only=True)
class FileStats:
    """The measures of one file."""

    label: str
    source: SourceConfig
    report: ReadReport
    """Counts of rows, rejected rows and repairs."""
    sessions: int
    turns: Mapping[int, int]
    """Number of sessions by number of turns: Figure 3."""
    later_lengths: Mapping[int, int]
    """Number of later questions by number of words."""
    languages: Mapping[str, int]
    """Number of sessions by language, most frequent first; `?` = too short to detect."""
    estimates: Mapping[str, Estimate]
    """By measure, without those that have no data in this file."""

    def later_length(self, share: float) -> int | None:
        """Returns a quantile of the words of later questions; 0.5 = the median."""
        return quantile(self.later_lengths, share)


def measure_file(
    label: str,
    source: SourceConfig,
    *,
    count_tokens: CountTokens | None,
    seed: int,
    advance: Callable[[], None],
) -> FileStats:
    """Reads a file once and measures it.

    Needs some hundred bytes of memory per session, independent of its length.

    Args:
      label: The name of its column in tables.
      source: The file.
      count_tokens: Counts tokens; None = tokens are not counted.
      seed: Seed of the intervals.
      advance: Called for each dialogue.

    Raises:
      UserError: See `read_sources`.
    """
    report = ReadReport()
    keys = [key for key in MEASURES if key != "tokens" or count_tokens]
    columns = _Columns(keys)
    turns: Counter[int] = Counter()
    lengths: Counter[int] = Counter()
    languages: Counter[str] = Counter()
    name_language = language_of(max_chars=LANGUAGE_CHARS)
    stream = read_sources([source], seed=0, report=report)
    for dialogues in _batched(stream, _DIALOGUES_AT_ONCE):
        tokens = _tokens_of(dialogues, count_tokens) if count_tokens else []
        for place, dialogue in enumerate(dialogues):
            questions = dialogue.questions()
            # More than `LANGUAGE_CHARS`, since the detection ignores code blocks.
            opening = "\n".join(q[: 4 * LANGUAGE_CHARS] for q in questions)[: 4 * LANGUAGE_CHARS]
            language = name_language(opening)
            measured = measure_session(dialogue, language[0] if language else None)
            if tokens:
                measured.parts["tokens"] = Amount(tokens[place], 1)
            columns.add(measured.parts)
            turns[measured.turns] += 1
            lengths.update(measured.later_lengths)
            languages[measured.language or "?"] += 1
            advance()
    return FileStats(
        label=label,
        source=source,
        report=report,
        sessions=turns.total(),
        turns=dict(sorted(turns.items())),
        later_lengths=dict(sorted(lengths.items())),
        languages=dict(languages.most_common()),
        estimates=columns.estimates(seed),
    )


def estimates_of(sessions: Sequence[Mapping[str, Amount]], seed: int) -> dict[str, Estimate]:
    """Returns the mean or share of each measure over some sessions.

    >>> sessions = [{"turns": Amount(2.0, 1)}, {"turns": Amount(4.0, 1)}]
    >>> estimates_of(sessions, 0)
    {'turns': Estimate(value=3.0, low=2.0, high=4.0, num=2.0)}
    """
    columns = _Columns(sorted({key for parts in sessions for key in parts}))
    for parts in sessions:
        columns.add(parts)
    return columns.estimates(seed)


def quantile(counts: Mapping[int, int], share: float) -> int | None:
    """Returns the smallest value whose cumulative share reaches `share`; None without counts.

    >>> quantile({1: 2, 5: 2}, 0.5), quantile({1: 2, 5: 2}, 0.9)
    (1, 5)
    """
    below, total = 0, sum(counts.values())
    for value in sorted(counts):
        below += counts[value]
        if below >= share * total:
            return value
    return None


class _Columns:
    """The parts of all sessions, as flat arrays."""

    def __init__(self, keys: Sequence[str]) -> None:
        self._keys = keys
        self._amounts, self._counts = array("d"), array("d")

    def add(self, parts: Mapping[str, Amount]) -> None:
        nothing = Amount(0, 0)
        for key in self._keys:
            amount, count = parts.get(key, nothing)
            self._amounts.append(amount)
            self._counts.append(count)

    def estimates(self, seed: int) -> dict[str, Estimate]:
        shape = (-1, len(self._keys))
        if not len(self._amounts):
            return {}
        amounts, counts = (
            np.frombuffer(column).reshape(shape) for column in (self._amounts, self._counts)
        )
        ends = ratio_intervals(amounts, counts, seed=seed)
        totals, num = amounts.sum(axis=0), counts.sum(axis=0)
        return {
            key: Estimate(
                float(totals[place] / num[place]),
                *_interval(*ends[place]),
                num=float(num[place]),
            )
            for place, key in enumerate(self._keys)
            if num[place]
        }


def _interval(low: float, high: float) -> tuple[float, float] | tuple[None, None]:
    return (float(low), float(high)) if low < high else (None, None)


def _tokens_of(dialogues: Sequence[Dialogue], count_tokens: CountTokens) -> list[int]:
    """Counts the tokens of each dialogue; one call for all texts uses all cores."""
    counts = iter(count_tokens([turn.text for d in dialogues for turn in d.turns]))
    return [sum(itertools.islice(counts, len(d.turns))) for d in dialogues]


def _batched(stream: Iterable[Dialogue], size: int) -> Iterator[list[Dialogue]]:
    iterator = iter(stream)
    while batch := list(itertools.islice(iterator, size)):
        yield batch
