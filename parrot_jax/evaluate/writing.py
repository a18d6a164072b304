"""Writes a report as JSON, Markdown, an HTML page and figures."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

from parrot_jax.core import markdown
from parrot_jax.core.errors import disk_full_is_a_user_error
from parrot_jax.core.files import atomic_write, write_json
from parrot_jax.evaluate.scores import Series
from parrot_jax.evaluate.summary import (
    Report,
    categories_table,
    differences_table,
    notes,
    overall_table,
    turns_table,
    with_interval,
)
from parrot_jax.report.charts import AxisScale, Line, line_chart
from parrot_jax.report.markdown import markdown_lines
from parrot_jax.report.page import (
    HUES,
    Chart,
    Page,
    Picture,
    Section,
    Table,
    Tile,
    write_page,
)


def write_report(report: Report, out: Path) -> list[Path]:
    """Writes `report.json`, `report.md`, `report.html` and the figures, each atomically.

    Returns:
      The written files.

    Raises:
      DiskFullError: The disk is full.
    """
    pictures = list(_pictures(report))
    names = [f"figure4{f'-{n}' if n > 1 else ''}.svg" for n in range(1, len(pictures) + 1)]
    with disk_full_is_a_user_error(f"the report in {out}"):
        for name, picture in zip(names, pictures, strict=True):
            with atomic_write(out / name) as file:
                file.write(picture.chart.wide)
        for old in out.glob("figure4-[0-9]*.svg"):  # of a report with more models
            if old.name not in names:
                old.unlink()
        write_json(out / "report.json", report.to_json())
        with atomic_write(out / "report.md") as file:
            file.write(_markdown(report, pictures, names))
    write_page(out / "report.html", _page(report, pictures))
    return [out / name for name in ("report.json", "report.md", "report.html", *names)]


def _pictures(report: Report) -> Iterator[Picture]:
    """Figure 4: the curve of each model by turn; then the histories of one model in one chart."""
    ranked = [(label, one) for label, one in _ranked(report) if one.estimate().scored]
    own = [(label, one) for label, one in ranked if one.history == "own"]
    y_range = _range([one for _, one in ranked])
    # More colours than three are hard to distinguish.
    for first in range(0, len(own), len(HUES)):
        part = own[first : first + len(HUES)]
        yield Picture(
            chart=_curves(part, f"Score by turn: {', '.join(label for label, _ in part)}", y_range),
            caption="Figure 4: mean score by turn, with 95 % intervals.",
        )
    by_model: dict[tuple[str, str], list[tuple[str, Series]]] = {}
    for _, one in ranked:
        by_model.setdefault((one.model, one.judge), []).append((f"{one.history} history", one))
    order = {"own history": 0, "reference history": 1, "none history": 2}
    for (model, judge), group in by_model.items():
        if len(group) < 2:
            continue
        group.sort(key=lambda pair: order[pair[0]])
        yield Picture(
            chart=_curves(group, f"Score by turn and history: {model}, judged by {judge}", y_range),
            caption=f"{model}: mean score by turn with its own answers, the reference answers, or "
            "nothing as history.",
        )


def _ranked(report: Report) -> list[tuple[str, Series]]:
    """All series with their labels, the best one first."""

    def badness(item: tuple[str, Series]) -> float:
        mean = item[1].estimate().mean
        return float("inf") if mean is None else -mean

    return sorted(report.named.items(), key=badness)


def _range(series: Sequence[Series]) -> tuple[float, float] | None:
    """The range of all intervals by turn, as whole grades; the same for all charts of a report."""
    found = [one.estimate(turn=turn) for one in series for turn in one.turns()]
    values = [v for e in found for v in (e.low, e.mean, e.high) if v is not None]
    return (math.floor(min(values)), math.ceil(max(values))) if values else None


def _curves(
    named: Sequence[tuple[str, Series]], label: str, y_range: tuple[float, float] | None
) -> Chart:
    lines = []
    scale: AxisScale = "share" if all(one.scale == (0, 1) for _, one in named) else "linear"
    for (name, one), hue in zip(named, HUES, strict=False):
        found = {turn: one.estimate(turn=turn) for turn in one.turns()}
        scored = {turn: e for turn, e in found.items() if e.mean is not None}
        lines.append(
            Line(
                name=name,
                hue=hue,
                points=[(turn, e.mean) for turn, e in scored.items() if e.mean is not None],
                intervals=[
                    (e.mean, e.mean) if e.low is None or e.high is None else (e.low, e.high)
                    for e in scored.values()
                    if e.mean is not None
                ],
            )
        )
    return line_chart(
        lines, label=label, x_label="turn", y_label="mean score", y_scale=scale, y_range=y_range
    )


def _page(report: Report, pictures: Sequence[Picture]) -> Page:
    sections = [
        Section(heading="Overall", text=list(notes(report)), blocks=[overall_table(report)]),
        Section(heading="By turn", text=[], blocks=[*pictures, turns_table(report)]),
    ]
    sections += [
        Section(heading=heading, text=[], blocks=[table]) for heading, table in _more(report)
    ]
    if rejected := report.scores.rejected.lines():
        sections.append(Section(heading="Rejected rows", text=rejected))
    ranked = _ranked(report)
    tiles = [
        Tile(
            "–" if (found := one.estimate()).mean is None else f"{found.mean:.2f}",
            label,
            with_interval(found).partition(" ")[2].strip("()"),
        )
        for label, one in ([pair for pair in ranked if pair[1].history == "own"] or ranked)[:4]
    ]
    return Page(
        title="Evaluation",
        lead=f"{', '.join([*report.named][:6])}: scores by turn, category and history.",
        tiles=tiles,
        sections=sections,
    )


def _more(report: Report) -> Iterator[tuple[str, Table]]:
    if (table := differences_table(report, report.pairs)) is not None:
        yield "Differences between models", table
    if (table := differences_table(report, report.histories)) is not None:
        yield "Differences between histories", table
    if (table := categories_table(report)) is not None:
        yield "By category", table


def _markdown(report: Report, pictures: Sequence[Picture], names: Sequence[str]) -> str:
    blocks = [
        "# Evaluation",
        "## Overall",
        markdown_lines(overall_table(report)),
        *map(markdown.escape, notes(report)),
        "## By turn",
        *(
            f"![{markdown.escape(picture.caption)}]({name})"
            for picture, name in zip(pictures, names, strict=True)
        ),
        markdown_lines(turns_table(report)),
    ]
    for heading, table in _more(report):
        blocks += [f"## {heading}", markdown_lines(table)]
    if rejected := report.scores.rejected.lines():
        blocks += ["## Rejected rows", *map(markdown.escape, rejected)]
    return "\n\n".join(blocks) + "\n"
