"""Agreement of annotators with each other, and with a judge."""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import krippendorff
import numpy as np

from parrot_jax.annotate.estimates import Estimate, Value, estimate
from parrot_jax.annotate.judgments import Place
from parrot_jax.evaluate.verdicts import SCALE

Scale = Literal["nominal", "interval"]


class Agreement(NamedTuple):
    """How much annotators agree with each other."""

    alpha: float | None
    """Krippendorff's; None if nothing was judged twice, or all verdicts are equal."""
    scale: Scale
    """`interval` for grades."""
    same: float | None
    """Share of equal verdicts, over all pairs of verdicts on one item."""
    pairs: int
    items: int
    """Items that at least two people judged."""

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return self._asdict()


class Parting(NamedTuple):
    """An item where people and a judge differ."""

    place: Place
    people: float
    """The mean of their verdicts."""
    judge: float
    verdicts: int


class JudgeAgreement(NamedTuple):
    """How much the annotators agree with a judge."""

    judge: str
    same: Estimate
    """Share of people's verdicts that equal the judge's: its accuracy."""
    near: float | None
    """For grades: share of them that are at most one point away."""
    kappa: float | None
    """Cohen's, with quadratic weights for grades; None if all verdicts are equal."""
    excess: Estimate
    """For grades: the judge's grade minus the people's."""
    not_judged: int
    """People's verdicts on what the judge has no verdict on; they do not count."""
    partings: list[Parting]
    """The largest differences first."""

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return {
            "judge": self.judge,
            "same": self.same.to_json(),
            "near": self.near,
            "kappa": self.kappa,
            "excess": self.excess.to_json(),
            "not_judged": self.not_judged,
            "partings": [
                {
                    "models": one.place.models,
                    "question": one.place.question,
                    "turn": one.place.turn,
                    "people": one.people,
                    "judge": one.judge,
                    "verdicts": one.verdicts,
                }
                for one in self.partings
            ],
        }


def agreement(values: Sequence[Value], task: str) -> Agreement:
    """The agreement of annotators.

    Source: K. Krippendorff, Content analysis, 4th edition, 2019, chapter 12.
    """
    scale: Scale = "interval" if task == "grade" else "nominal"
    by_item = list(_by_item(values).values())
    several = [numbers for numbers in by_item if len(numbers) > 1]
    pairs = [pair for numbers in several for pair in itertools.combinations(numbers.values(), 2)]
    return Agreement(
        alpha=_alpha(several, scale),
        scale=scale,
        same=sum(one == other for one, other in pairs) / len(pairs) if pairs else None,
        pairs=len(pairs),
        items=len(several),
    )


def judge_agreement(
    values: Sequence[Value], judge: str, verdicts: Mapping[Place, float], task: str
) -> JudgeAgreement:
    """The agreement of the annotators with a judge, over each verdict of each person.

    Args:
      values: What people said.
      judge: Its name.
      verdicts: What it said.
      task: `grade` or `compare`.
    """
    both = [
        (value, place, verdicts[place]) for value in values if (place := _place(value)) in verdicts
    ]
    is_grade = task == "grade"
    # A mean of several verdicts of the judge is compared as the nearest grade, or as who won more.
    as_one = _nearest_grade if is_grade else _winner
    pairs = [(value.number, as_one(said)) for value, _, said in both]
    same = [
        value._replace(number=float(person == said))
        for (value, _, _), (person, said) in zip(both, pairs, strict=True)
    ]
    excess = [value._replace(number=said - value.number) for value, _, said in both]
    by_place: dict[Place, list[float]] = {}
    for value, place, _ in both:
        by_place.setdefault(place, []).append(value.number)
    partings = [
        Parting(place, float(np.mean(numbers)), verdicts[place], len(numbers))
        for place, numbers in by_place.items()
    ]
    near = [abs(person - said) <= 1 for person, said in pairs]
    return JudgeAgreement(
        judge=judge,
        same=estimate(same, is_share=True),
        near=sum(near) / len(near) if near and is_grade else None,
        kappa=_kappa(pairs, "quadratic" if is_grade else None),
        excess=estimate(excess if is_grade else [], is_share=False),
        not_judged=len(values) - len(both),
        partings=sorted(
            (one for one in partings if one.people != one.judge),
            key=lambda one: (-abs(one.people - one.judge), one.place),
        ),
    )


def _by_item(values: Sequence[Value]) -> dict[int, dict[str, float]]:
    found: dict[int, dict[str, float]] = {}
    for value in values:
        found.setdefault(value.item, {})[value.annotator] = value.number
    return found


def _alpha(items: Sequence[Mapping[str, float]], scale: Scale) -> float | None:
    if len({number for numbers in items for number in numbers.values()}) < 2:
        return None
    names = sorted({name for numbers in items for name in numbers})
    table = [[numbers.get(name, math.nan) for numbers in items] for name in names]
    return float(krippendorff.alpha(np.array(table), level_of_measurement=scale))


def _kappa(pairs: Sequence[tuple[float, float]], weights: str | None) -> float | None:
    if len({number for pair in pairs for number in pair}) < 2:
        return None
    from sklearn.metrics import cohen_kappa_score  # takes a second to load

    # Whole numbers, since halves are ties. The weights are of places among the labels, so all
    # numbers up to the highest grade are labels.
    people, judge = (np.rint(2 * np.array(side)).astype(int) for side in zip(*pairs, strict=True))
    labels = np.arange(2 * int(SCALE[1]) + 1)
    return float(cohen_kappa_score(people, judge, labels=labels, weights=weights))


def _place(value: Value) -> Place:
    return Place(value.sources, value.dialogue, value.turn)


def _nearest_grade(mean: float) -> float:
    return math.floor(mean + 0.5)


def _winner(mean: float) -> float:
    return 0.5 + 0.5 * float(np.sign(mean - 0.5))
