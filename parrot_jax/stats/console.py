"""Prints statistics on the console."""

from collections.abc import Sequence
from pathlib import Path

from parrot_jax.core.logs import console, visible
from parrot_jax.report.console import print_table
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


def print_statistics(statistics: Statistics, written: Sequence[Path]) -> None:
    """Prints the tables, the notes, and the written files."""
    print_table(table_1(statistics, intervals=True), "Table 1")
    print_table(_turns_with_bars(statistics), "Figure 3: sessions by turns")
    print_table(measures_table(statistics), "All measures")
    if (judged := judged_table(statistics)) is not None:
        print_table(judged, "Judged sessions")
    for file in statistics.files:
        console.print(visible(file.report.summary()))
    console.print("\n".join(notes(statistics)))
    if written:
        console.print(f"wrote {', '.join(map(str, written))}")


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
