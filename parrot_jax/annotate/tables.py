"""The figures of an annotation as tables, for the console and a page."""

from collections.abc import Iterator, Sequence

from parrot_jax.annotate.agreement import Parting
from parrot_jax.annotate.estimates import Estimate
from parrot_jax.annotate.results import Line, Results
from parrot_jax.report.charts import Bars, percent, row_chart
from parrot_jax.report.page import Block, Page, Picture, Section, Table, Tile

_MOST_PARTINGS = 30
"""Rows of the list of differences between people and a judge; JSON has all."""


def tables(results: Results) -> Iterator[tuple[str, Table]]:
    """All tables with their titles."""
    figure = results.annotation.task.figure
    yield f"By {_noun(results)}", _lines(results, results.sources, _noun(results))
    yield "By annotator", _lines(results, results.annotators, "annotator")
    if results.differences:
        rows = [
            [f"{one.second} − {one.first}", "yes" if one.is_paired else "no",
             _shown(results, one.estimate, signed=True), _excludes_zero(one.estimate)]
            for one in results.differences
        ]  # fmt: skip
        columns = ["difference", "paired", figure, "excludes 0"]
        yield "Differences", Table(columns=columns, rows=rows, text_columns=2)
    one = results.agreement
    row = ["annotators with each other", one.scale, _number(one.alpha), _share(one.same)]
    row += [f"{one.pairs:,}", f"{one.items:,}"]
    columns = ["agreement", "scale", "Krippendorff's alpha", "same verdict", "pairs", "items"]
    yield "Agreement", Table(columns=columns, rows=[row], text_columns=2)
    if results.judges:
        yield "People against judges", _judges(results)
    for judge in results.judges:
        if judge.partings:
            yield f"Where people and {judge.judge} part", _partings(judge.partings)


def notes(results: Results) -> Iterator[str]:
    """What a reader must know about the figures."""
    yield ("Intervals: 95 %, for other dialogues and other annotators (docs/annotating.md).")
    if len(results.annotators) == 1:
        yield (
            "There is one annotator: the intervals do not include how people differ, and nothing "
            "tells their agreement."
        )
    if results.annotation.task.name == "compare":
        yield "A win rate is that of the model named first; a tie counts as half."
    for judge in results.judges:
        if judge.not_judged:
            yield (
                f"{judge.judge} has no verdict on what {judge.not_judged:,} verdicts of people are "
                "about; they do not count against it."
            )
    if results.judgments is not None:
        for judge, number in results.judgments.unclear.items():
            yield f"{number:,} judgments of {judge} have no clear verdict; they do not count."
        for judge, number in results.judgments.copies.items():
            if number:
                yield f"{number:,} judgments of {judge} are further ones of the same; averaged."
        yield from results.judgments.rejected.lines()


def make_page(results: Results) -> Page:
    """The report as a page."""
    annotation = results.annotation
    found = results.to_json()
    blocks: dict[str, Sequence[Block]] = {title: [table] for title, table in tables(results)}
    first = next(iter(blocks))
    shown = [line for line in results.sources if line.estimate.mean is not None]
    if results.is_share and shown:
        bars = Bars(
            name=annotation.task.figure,
            hue="accent",
            values=[line.estimate.mean or 0.0 for line in shown],
        )
        categories = [(line.name, f"{line.estimate.verdicts:,} verdicts") for line in shown]
        chart = row_chart(categories, [bars], label=f"{annotation.task.figure} by {_noun(results)}")
        picture = Picture(chart=chart, caption=f"{annotation.task.figure}, by {_noun(results)}")
        blocks[first] = [picture, *blocks[first]]
    return Page(
        title="People's judgment",
        lead=annotation.task.question,
        tiles=[
            Tile(f"{found['judged']:,}", "verdicts", f"{found['skipped']:,} skipped"),
            Tile(f"{len(results.annotators):,}", "annotators", f"{found['missing']:,} missing"),
            Tile(_number(results.agreement.alpha), "Krippendorff's alpha", results.agreement.scale),
        ],
        sections=[Section(heading=title, text=[], blocks=part) for title, part in blocks.items()]
        + [Section(heading="Notes", text=list(notes(results)))],
    )


def _noun(results: Results) -> str:
    names = {"grade": "model", "compare": "pair of models"}
    return names.get(results.annotation.task.name, "file")


def _lines(results: Results, lines: Sequence[Line], noun: str) -> Table:
    rows = [
        [line.name, _shown(results, line.estimate), f"{line.estimate.verdicts:,}",
         f"{line.skipped:,}", f"{line.missing:,}", f"{line.estimate.dialogues:,}"]
        for line in lines
    ]  # fmt: skip
    columns = [noun, results.annotation.task.figure, "judged", "skipped", "missing", "dialogues"]
    return Table(columns=columns, rows=rows)


def _judges(results: Results) -> Table:
    is_grade = not results.is_share
    rows = []
    for one in results.judges:
        row = [one.judge, _shown(results, one.same, is_share=True)]
        row += [_share(one.near), _shown(results, one.excess, signed=True)] if is_grade else []
        rows.append([*row, _number(one.kappa), f"{one.same.verdicts:,}"])
    columns = ["judge", "same verdict as a person"]
    columns += ["at most 1 away", "judge − person"] if is_grade else []
    return Table(columns=[*columns, "Cohen's kappa", "verdicts"], rows=rows)


def _partings(partings: Sequence[Parting]) -> Table:
    rows = [
        [" against ".join(one.place.models), one.place.question, str(one.place.turn),
         f"{one.people:.2f}", f"{one.judge:.2f}", f"{one.verdicts:,}"]
        for one in partings[:_MOST_PARTINGS]
    ]  # fmt: skip
    if len(partings) > _MOST_PARTINGS:
        rows.append([f"and {len(partings) - _MOST_PARTINGS:,} more, in --json", *[""] * 5])
    columns = ["model", "question", "turn", "people", "judge", "verdicts"]
    return Table(columns=columns, rows=rows, text_columns=2)


def _shown(
    results: Results, one: Estimate, *, signed: bool = False, is_share: bool | None = None
) -> str:
    """A figure with its interval: in percent (or percentage points) if it is a share."""
    is_share = results.is_share if is_share is None else is_share
    sign = "+" if signed else ""
    if one.mean is None:
        return "-"
    numbers = [one.mean, *(end for end in (one.low, one.high) if end is not None)]
    texts = [f"{100 * n:{sign}.1f}" if is_share else f"{n:{sign}.2f}" for n in numbers]
    unit = ""
    if is_share:
        unit = " points" if signed else " %"
    interval = f" ({texts[1]} to {texts[2]})" if len(texts) == 3 else ""
    return f"{texts[0]}{unit}{interval}"


def _excludes_zero(one: Estimate) -> str:
    if one.low is None or one.high is None:
        return "-"
    return "no" if one.low <= 0 <= one.high else "yes"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _share(value: float | None) -> str:
    return "-" if value is None else percent(value, 1)
