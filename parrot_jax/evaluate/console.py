"""Prints reports, comparisons, rescored judgments and win rates on the console."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from parrot_jax.core.logs import console, visible
from parrot_jax.evaluate.comparing import Comparison, Difference
from parrot_jax.evaluate.rescore import Rescored, turns_without_judgment
from parrot_jax.evaluate.rows import Rejected
from parrot_jax.evaluate.summary import (
    Report,
    categories_table,
    differences_table,
    notes,
    overall_table,
    turns_table,
)
from parrot_jax.evaluate.winrate import WinRates
from parrot_jax.report.console import print_table
from parrot_jax.report.page import Table


def print_rescored(found: Rescored) -> None:
    """Prints means by model and turn with intervals, wins of pairs, and what is wrong."""
    models = found.models
    if models:
        turns = sorted({turn for scores in models.values() for turn in scores.turns()})
        rows = [
            [
                name,
                _with_interval(_mean(scores.scores()), scores.interval()),
                *(_with_interval(_mean(scores.scores(turn)), None) for turn in turns),
                f"{len(scores.scores()):,}",
                f"{scores.unscored:,}",
                f"{scores.duplicates:,}",
                f"{scores.disagreeing:,}",
            ]
            for name, scores in models.items()
        ]
        columns = ["model", "mean", *(f"turn {turn}" for turn in turns)]
        columns += ["scored", "unscored", "duplicates", "disagreeing"]
        print_table(Table(columns=columns, rows=rows), "Ratings, parsed from the texts")
    if found.compared:
        rows = [
            [first, second, judge, *map(str, scores.wins), str(scores.ties), str(scores.unscored),
             str(scores.duplicates), str(scores.disagreeing)]
            for (first, second, judge), scores in sorted(found.compared.items())
        ]  # fmt: skip
        columns = ["model 1", "model 2", "judge", "wins 1", "wins 2", "ties", "unscored"]
        columns += ["duplicates", "disagreeing"]
        print_table(Table(columns=columns, rows=rows, text_columns=3), "Pairs, in both orders")
    notes = ["Intervals: 95 %, questions resampled with all their turns."] if models else []
    if lacking := turns_without_judgment(models.values()):
        notes.append(f"{lacking:,} turns were judged for some models and not for others.")
    reasons: Counter[str] = Counter()
    for scores in [*found.graded.values(), *found.compared.values()]:
        reasons.update(scores.reasons)
    if reasons:
        notes.append("texts without a verdict: " + _by_reason(reasons))
    _print_notes(notes, found.examples, found.rejected)


def print_win_rates(found: WinRates) -> None:
    """Prints the win rates with intervals, and what is wrong."""
    rows = [
        [
            name,
            rate.baseline,
            rate.annotator,
            _with_interval(rate.win_rate, rate.interval()),
            f"{len(rate.wins):,}",
            f"{rate.missing:,}",
            f"{rate.duplicates:,}",
        ]
        for name, rate in found.models.items()
    ]
    columns = ["model", "baseline", "annotator", "win rate %", "n", "missing", "duplicates"]
    print_table(Table(columns=columns, rows=rows, text_columns=3), "Win rates")
    notes = ["Intervals: 95 %. Draws count as half; rows without a preference do not count."]
    controlled = {
        name: rate.length_controlled
        for name, rate in found.models.items()
        if rate.length_controlled is not None
    }
    if controlled:
        rows = [
            [name, f"{one.win_rate:.2f}", f"{one.standard_error:.2f}"]
            for name, one in controlled.items()
        ]
        columns = ["model", "win rate %", "standard error"]
        print_table(Table(columns=columns, rows=rows), "Length-controlled win rates")
        notes += [
            f"{name}: the length-controlled win rate is far from the plain one; AlpacaEval calls "
            "that a sign that its regression failed."
            for name, one in controlled.items()
            if one.is_extreme
        ]
    _print_notes(notes, found.examples, found.rejected)


def print_report(report: Report, written: Sequence[Path]) -> None:
    """Prints the tables, the notes, and the written files."""
    print_table(overall_table(report), "Overall")
    print_table(turns_table(report), "By turn")
    for title, pairs in (("models", report.pairs), ("histories", report.histories)):
        if (table := differences_table(report, pairs)) is not None:
            print_table(table, f"Differences between {title}")
    if (table := categories_table(report)) is not None:
        print_table(table, "By category")
    _print_notes(list(notes(report)), [], report.scores.rejected)
    if written:
        console.print(f"wrote {', '.join(map(str, written))}", markup=False)


def print_comparison(found: Comparison, rejected: Rejected) -> None:
    """Prints the differences by turn, rejected rows, and the sentence."""
    rows = [
        ["all" if turn is None else str(turn), _signed(one), "yes" if one.is_sure else "no",
         f"{one.turns:,}"]
        for turn, one in [(None, found.overall), *found.by_turn.items()]
    ]  # fmt: skip
    columns = ["turn", f"{found.second} − {found.first}", "excludes 0", "turns of both"]
    print_table(Table(columns=columns, rows=rows), "Paired differences, 95 % intervals")
    _print_notes([], [], rejected)
    console.print(visible(found.sentence()), markup=False, highlight=False)


def _signed(found: Difference) -> str:
    if found.low is None or found.high is None:
        return f"{found.mean:+.2f}"
    return f"{found.mean:+.2f} ({found.low:+.2f} to {found.high:+.2f})"


def _print_notes(notes: Sequence[str], examples: Sequence[str], rejected: Rejected) -> None:
    for line in [*notes, *(f"  {example}" for example in examples), *rejected.lines()]:
        console.print(visible(line), markup=False, highlight=False)


def _mean(scores: dict[tuple[str, int], float]) -> float | None:
    return sum(scores.values()) / len(scores) if scores else None


def _with_interval(value: float | None, interval: tuple[float, float] | None) -> str:
    if value is None:
        return "-"
    return f"{value:.2f}" + (f" ({interval[0]:.2f} to {interval[1]:.2f})" if interval else "")


def _by_reason(reasons: Counter[str]) -> str:
    return ", ".join(f"{reason} {count:,}" for reason, count in reasons.most_common())
