"""Rates by source and their differences, with intervals over dialogues and annotators."""

import itertools
import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from parrot_jax.annotate.items import Item
from parrot_jax.annotate.tasks import SKIP
from parrot_jax.annotate.verdict_file import Annotation, Verdict
from parrot_jax.intervals.crossed import (
    CrossedMean,
    Observations,
    crossed_difference,
    crossed_mean,
    uniform_difference_interval,
)


class Value(NamedTuple):
    """A verdict as a number."""

    sources: tuple[str, ...]
    """The file or the model; two to compare, in the order of the alphabet."""
    item: int
    dialogue: str
    turn: int
    annotator: str
    number: float

    @property
    def label(self) -> str:
        """The name of the source."""
        return label_of(self.sources)


class Estimate(NamedTuple):
    """A mean, or a difference of means, over verdicts."""

    mean: float | None
    """None = nobody judged anything."""
    low: float | None
    """Lower end of the 95 % interval; None with fewer than two dialogues, or equal values of a mean
    that is not a share."""
    high: float | None
    verdicts: int
    """Those that have a value."""
    dialogues: int
    annotators: int

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return self._asdict()


class Difference(NamedTuple):
    """How much higher the mean of one source is than that of another."""

    first: str
    second: str
    estimate: Estimate
    """Second minus first."""
    is_paired: bool
    """Whether only turns that the same person judged in both count."""

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        names = {"first": self.first, "second": self.second, "is_paired": self.is_paired}
        return names | self.estimate.to_json()


def label_of(sources: Sequence[str]) -> str:
    """The name of a source; of two models to compare, in the order of the alphabet."""
    return " against ".join(sorted(sources))


def values_of(annotation: Annotation) -> list[Value]:
    """All verdicts but skips, as numbers; a win is one of the model whose name comes first."""
    return [
        Value(
            tuple(sorted((item := annotation.items[verdict.item - 1]).sources)),
            verdict.item,
            item.dialogue,
            item.turn,
            verdict.annotator,
            _number(annotation, item, verdict),
        )
        for verdict in annotation.verdicts
        if verdict.value != SKIP
    ]


def estimate(values: Sequence[Value], *, is_share: bool) -> Estimate:
    """The mean of values of one source, with its interval.

    Args:
      values: Any number of them.
      is_share: Whether the mean lies within [0, 1].
    """
    if not values:
        return Estimate(None, None, None, 0, 0, 0)
    found = crossed_mean(*_observations(values))
    return _estimate(found, len(values), found.share_interval() if is_share else found.interval())


def differences(values: Sequence[Value], *, is_share: bool) -> Iterator[Difference]:
    """The differences between each two sources that have values.

    Args:
      values: Of all sources.
      is_share: Whether the means are shares. Else they are grades, where equal dialogue ids are the
        same question, so that its grades can be paired.
    """
    by_label: dict[str, list[Value]] = {}
    for value in values:
        by_label.setdefault(value.label, []).append(value)
    for first, second in itertools.combinations(sorted(by_label), 2):
        one, other = by_label[first], by_label[second]
        pairs = [] if is_share else list(_paired(one, other))
        if pairs:
            found, num = crossed_mean(*_observations(pairs)), len(pairs)
            ends = found.interval()
        else:
            samples = _observations(one, other)
            found, num = crossed_difference(*samples), len(one) + len(other)
            ends = found.interval()
            if is_share and found.variance == 0:
                ends = uniform_difference_interval(*map(crossed_mean, samples))
        yield Difference(first, second, _estimate(found, num, ends), bool(pairs))


def _number(annotation: Annotation, item: Item, verdict: Verdict) -> float:
    number = annotation.task.numbers[verdict.value]
    is_mirrored = len(item.sources) == 2 and item.sources[0] > item.sources[1]
    return 1 - number if is_mirrored else number


def _paired(one: Sequence[Value], other: Sequence[Value]) -> Iterator[Value]:
    places = {(value.dialogue, value.turn, value.annotator): value.number for value in one}
    for value in other:
        before = places.get((value.dialogue, value.turn, value.annotator))
        if before is not None:
            yield value._replace(number=value.number - before)


def _observations(*samples: Sequence[Value]) -> list[Observations]:
    """Samples with numbers for names; people have the same number in all samples."""
    dialogues = itertools.count()
    people = itertools.count()
    number_of_dialogue = defaultdict[str, int](lambda: next(dialogues))
    number_of_person = defaultdict[str, int](lambda: next(people))
    return [
        Observations(
            np.array([number_of_dialogue[value.dialogue] for value in values], np.int64),
            np.array([number_of_person[value.annotator] for value in values], np.int64),
            np.array([value.number for value in values], np.float64),
        )
        for values in samples
    ]


def _estimate(found: CrossedMean, num: int, ends: tuple[float, float]) -> Estimate:
    low, high = (None if math.isnan(end) else end for end in ends)
    return Estimate(found.mean, low, high, num, found.clusters, found.raters)
