"""The report as tables and JSON, without formatting."""

import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from parrot_jax.evaluate.answer_config import History
from parrot_jax.evaluate.comparing import Pair, differences
from parrot_jax.evaluate.scores import Estimate, Scores, Series, reasons
from parrot_jax.report.page import Table
from parrot_jax.version import __version__

NOTHING = "–"
_INTERVALS = "95 % bootstrap over questions with all their turns"


@dataclass(frozen=True, kw_only=True)
class Report:
    """All figures of some runs."""

    named: dict[str, Series]
    """By label."""
    scores: Scores
    pairs: list[Pair]
    """Differences between models with the same kind of history; corrected intervals."""
    histories: list[Pair]
    """Differences of other histories to the model's own; corrected intervals."""

    def to_json(self) -> dict[str, Any]:
        """All figures as a JSON object."""
        return {
            "version": __version__,
            "intervals": _INTERVALS,
            "models": {label: _series_to_json(one) for label, one in self.named.items()},
            "differences": [_pair_to_json(pair) for pair in self.pairs],
            "histories": [_pair_to_json(pair) for pair in self.histories],
            "reasons": {name: dict(counts) for name, counts in reasons([*self.named.values()])},
            "rejected": dict(self.scores.rejected.reasons),
        }


def make_report(scores: Scores) -> Report:
    """Computes all differences."""
    named = scores.labels()
    pairs = [
        pair
        for history in get_args(History)
        for pair in itertools.combinations(named.items(), 2)
        if all(one.history == history for _, one in pair) and _are_alike(*pair)
    ]
    histories = [
        (own, other)
        for own, other in itertools.product(named.items(), named.items())
        if own[1].history == "own" != other[1].history
        and own[1].model == other[1].model
        and _are_alike(own, other)
    ]
    return Report(
        named=named, scores=scores, pairs=differences(pairs), histories=differences(histories)
    )


def _are_alike(first: tuple[str, Series], second: tuple[str, Series]) -> bool:
    """Whether scores can be compared: by the same judge, on the same scale."""
    return first[1].judge == second[1].judge and first[1].scale == second[1].scale


def overall_table(report: Report) -> Table:
    """Means over all turns, with intervals, bounds and counts."""
    rows = []
    for label, one in report.named.items():
        found = one.estimate()
        noise = one.noise()
        rows.append(
            [
                label,
                with_interval(found),
                bounds(found),
                f"{found.scored:,}",
                f"{found.unscored:,}",
                f"{found.failed:,}",
                NOTHING if noise is None else f"{noise:.3f}",
            ]
        )
    columns = ["model", "mean", "bounds", "scored", "unscored", "no answer", "judge's noise"]
    return Table(columns=columns, rows=rows)


def turns_table(report: Report) -> Table:
    """Means by turn, with intervals."""
    turns = sorted({turn for one in report.named.values() for turn in one.turns()})
    rows = [
        [label, *(with_interval(one.estimate(turn=turn)) for turn in turns)]
        for label, one in report.named.items()
    ]
    return Table(columns=["model", *(f"turn {turn}" for turn in turns)], rows=rows)


def categories_table(report: Report) -> Table | None:
    """Means by category, with intervals; None with fewer than two categories."""
    categories = sorted({c for one in report.named.values() for c in one.categories.values()})
    if len(categories) < 2:
        return None
    rows = [
        [label, *(with_interval(one.estimate(category=category)) for category in categories)]
        for label, one in report.named.items()
    ]
    return Table(columns=["model", *(c or "none" for c in categories)], rows=rows)


def differences_table(report: Report, pairs: Sequence[Pair]) -> Table | None:
    """Paired differences; None without pairs."""
    if not pairs:
        return None
    rows = []
    for first, second, found in pairs:
        noises = [report.named[label].noise() for label in (first, second)]
        noise = None if None in noises else sum(n**2 for n in noises if n is not None) ** 0.5
        rows.append(
            [
                f"{second} − {first}",
                f"{found.mean:+.2f}"
                + (
                    ""
                    if found.low is None or found.high is None
                    else f" ({found.low:+.2f} to {found.high:+.2f})"
                ),
                "yes" if found.is_sure else "no",
                NOTHING if noise is None else f"{noise:.3f}",
                f"{found.turns:,}",
            ]
        )
    columns = ["difference", "mean", "excludes 0", "judge's noise", "turns of both"]
    return Table(columns=columns, rows=rows)


def notes(report: Report) -> Iterator[str]:
    """What a reader must know to read the tables."""
    yield f"Intervals: {_INTERVALS}."
    if any(cell.score is None for one in report.named.values() for cell in one.cells.values()):
        yield (
            "Turns without a score do not count in the means. Bounds: the mean if all of them had "
            "the lowest score, and if they had the highest."
        )
    for name, counts in reasons([*report.named.values()]):
        listed = ", ".join(f"{reason} {count:,}" for reason, count in counts.most_common())
        yield f"Turns with {name}: {listed}."
    for label, one in report.named.items():
        if one.asker_stops:
            counts = Counter(one.asker_stops.values()).most_common()
            listed = ", ".join(f"{reason} {count:,}" for reason, count in counts)
            yield (
                f"{label}: the asker ended {len(one.asker_stops):,} dialogues, which does not "
                f"count against the model: {listed}."
            )
    if report.pairs or report.histories:
        yield (
            "Differences are paired: over the turns that both have. Their intervals are corrected "
            "for the number of comparisons (Bonferroni)."
        )
    if all(one.noise() is None for one in report.named.values()):
        yield "The judge's noise is unknown: each answer was judged once."
    else:
        yield (
            "The judge's noise is the standard error of a mean that comes from the judge alone, "
            "if it judges the same answers again."
        )


def with_interval(found: Estimate) -> str:
    """A mean and its interval."""
    if found.mean is None:
        return NOTHING
    if found.low is None or found.high is None:
        return f"{found.mean:.2f}"
    return f"{found.mean:.2f} ({found.low:.2f} to {found.high:.2f})"


def bounds(found: Estimate) -> str:
    """The bounds of a mean; nothing if no score is missing."""
    if found.least is None or found.most is None or not found.unscored + found.failed:
        return NOTHING
    return f"{found.least:.2f} to {found.most:.2f}"


def _series_to_json(one: Series) -> dict[str, Any]:
    categories = sorted(set(one.categories.values()))
    return {
        "model": one.model,
        "history": one.history,
        "judge": one.judge,
        "scale": list(one.scale),
        "overall": one.estimate().to_json(),
        "by_turn": {str(turn): one.estimate(turn=turn).to_json() for turn in one.turns()},
        "by_category": {c: one.estimate(category=c).to_json() for c in categories},
        "judge_noise": one.noise(),
        "asker_stops": dict(Counter(one.asker_stops.values())),
    }


def _pair_to_json(pair: Pair) -> dict[str, Any]:
    return {"a": pair.first, "b": pair.second, **pair.difference.to_json()}
