"""Writes statistics as JSON, Markdown, an HTML page and figures."""

from collections.abc import Sequence
from pathlib import Path

from parrot_jax.core import markdown
from parrot_jax.core.errors import disk_full_is_a_user_error
from parrot_jax.core.files import atomic_write, write_json
from parrot_jax.report.charts import Bars, column_chart
from parrot_jax.report.markdown import markdown_lines
from parrot_jax.report.page import HUES, Chart, Page, Picture, Section, Tile, write_page
from parrot_jax.stats.measure_file import FileStats
from parrot_jax.stats.summary import (
    Statistics,
    definitions_table,
    examples,
    judged_table,
    measures_table,
    notes,
    reading_table,
    table_1,
    turns_shares,
    turns_table,
)

_CAPTION = "Figure 3: share of sessions by number of questions."


def write_statistics(statistics: Statistics, out: Path) -> list[Path]:
    """Writes `stats.json`, `stats.md`, `stats.html` and the figures, each atomically.

    Returns:
      The written files.

    Raises:
      DiskFullError: The disk is full.
    """
    charts = _charts(statistics.files)
    pictures = [f"figure3{f'-{n}' if n > 1 else ''}.svg" for n in range(1, len(charts) + 1)]
    with disk_full_is_a_user_error(f"the statistics in {out}"):
        for name, (chart, _) in zip(pictures, charts, strict=True):
            with atomic_write(out / name) as file:
                file.write(chart.wide)
        write_json(out / "stats.json", statistics.to_json())
        with atomic_write(out / "stats.md") as file:
            file.write(_markdown(statistics, pictures))
    write_page(out / "stats.html", _page(statistics, charts))
    return [out / name for name in ("stats.json", "stats.md", "stats.html", *pictures)]


def _charts(files: Sequence[FileStats]) -> list[tuple[Chart, Sequence[FileStats]]]:
    """Returns one figure for every three files, since more colours are hard to distinguish."""
    categories, shares = turns_shares(files)
    charts = []
    for first in range(0, len(files), len(HUES)):
        part = files[first : first + len(HUES)]
        bars = [
            Bars(name=file.label, hue=hue, values=values)
            for file, hue, values in zip(part, HUES, shares[first:], strict=False)
        ]
        label = f"Distribution of turns: {', '.join(file.label for file in part)}"
        chart = column_chart(
            categories, bars, label=label, x_label="turns of a session", y_label="share of sessions"
        )
        charts.append((chart, part))
    return charts


def _page(statistics: Statistics, charts: Sequence[tuple[Chart, Sequence[FileStats]]]) -> Page:
    pictures = [
        Picture(chart=chart, caption=_CAPTION, numbers=turns_table(part)) for chart, part in charts
    ]
    sections = [
        Section(
            heading="Table 1", text=notes(statistics), blocks=[table_1(statistics, intervals=False)]
        ),
        Section(heading="Turns per session", text=[], blocks=pictures),
        Section(
            heading="All measures, with intervals", text=[], blocks=[measures_table(statistics)]
        ),
    ]
    if (judged := judged_table(statistics)) is not None:
        sections.append(Section(heading="Judged sessions", text=[], blocks=[judged]))
    broken = [f"Rejected: {example}" for f in statistics.files for example in examples(f.report)]
    sections += [
        Section(heading="Input files", text=broken, blocks=[reading_table(statistics.files)]),
        Section(heading="Definitions", text=[], blocks=[definitions_table()]),
    ]
    tiles = [
        Tile(f"{file.estimates['turns'].value:.2f}", file.label, "turns per session")
        for file in statistics.files[:4]
    ]
    names = ", ".join(file.label for file in statistics.files)
    return Page(
        title="Dialogue statistics",
        lead=f"{names}, measured as in Table 1 and Figure 3 of the Parrot papers.",
        tiles=tiles,
        sections=sections,
    )


def _markdown(statistics: Statistics, pictures: Sequence[str]) -> str:
    judged = judged_table(statistics)
    blocks = [
        "# Dialogue statistics",
        "## Table 1",
        markdown_lines(table_1(statistics, intervals=True)),
        *notes(statistics),
        "## Distribution of turns",
        *(f"![{_CAPTION}]({name})" for name in pictures),
        markdown_lines(turns_table(statistics.files)),
        "## All measures",
        markdown_lines(measures_table(statistics)),
        *(["## Judged sessions", markdown_lines(judged)] if judged else []),
        "## Input files",
        markdown_lines(reading_table(statistics.files)),
        *(f"Rejected: {markdown.escape(e)}" for f in statistics.files for e in examples(f.report)),
        "## Definitions",
        markdown_lines(definitions_table()),
    ]
    return "\n\n".join(blocks) + "\n"
