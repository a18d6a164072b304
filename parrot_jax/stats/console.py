"""Prints statistics on the console. Texts from files are never interpreted as markup."""

from collections.abc import Sequence
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from parrot_jax.core.logs import console, visible
from parrot_jax.report.page import Table
from parrot_jax.stats.summary import (
    Statistics,
    judged_table,
    measures_table,
    notes,
    table_1,
    turns_shares,
)

_BAR = 20
_WIDTH_OF_FILES = 160


def print_statistics(statistics: Statistics, written: Sequence[Path]) -> None:
    """Prints the tables, the notes, and the written files."""
    _print(table_1(statistics, intervals=True), "Table 1")
    _print(_turns_with_bars(statistics), "Figure 3: sessions by turns")
    _print(measures_table(statistics), "All measures")
    if (judged := judged_table(statistics)) is not None:
        _print(judged, "Judged sessions")
    for file in statistics.files:
        console.print(visible(file.report.summary()))
    console.print("\n".join(notes(statistics)))
    if written:
        console.print(f"wrote {', '.join(map(str, written))}")


def _print(table: Table, title: str) -> None:
    # In a file or a pipe, a fixed width, to avoid folded lines.
    out = console if console.is_terminal else Console(width=_WIDTH_OF_FILES, file=console.file)
    out.print(_shown(table, title))


def _turns_with_bars(statistics: Statistics) -> Table:
    categories, shares = turns_shares(statistics.files)
    longest = max(max(share) for share in shares)
    rows = [
        [
            turns,
            *(
                f"{100 * share[place]:5.1f} % {'█' * round(_BAR * share[place] / longest):{_BAR}}"
                for share in shares
            ),
        ]
        for place, turns in enumerate(categories)
    ]
    return Table(columns=["turns", *(file.label for file in statistics.files)], rows=rows)


def _shown(table: Table, title: str) -> RichTable:
    shown = RichTable(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for place, name in enumerate(table.columns):
        justify = "left" if place < table.text_columns else "right"
        shown.add_column(Text(visible(name)), justify=justify, overflow="fold")
    for row in table.rows:
        # Intervals go below their values, so that more files fit side by side.
        shown.add_row(*(Text(visible(cell).replace(" (", "\n(")) for cell in row))
    return shown
