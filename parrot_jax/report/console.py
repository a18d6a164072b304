"""Prints tables on the console. Texts from outside are never interpreted as markup."""

from rich import box
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from parrot_jax.core.logs import console, visible
from parrot_jax.report.page import Table

_WIDTH_OF_FILES = 160


def print_table(table: Table, title: str) -> None:
    """Prints a table, folded to the terminal, or with a fixed width into a file or a pipe."""
    out = console if console.is_terminal else Console(width=_WIDTH_OF_FILES, file=console.file)
    shown = RichTable(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for place, name in enumerate(table.columns):
        justify = "left" if place < table.text_columns else "right"
        shown.add_column(Text(visible(name)), justify=justify, overflow="fold")
    for row in table.rows:
        # Intervals go below their values, so that more columns fit side by side.
        shown.add_row(*(Text(visible(cell).replace(" (", "\n(")) for cell in row))
    out.print(shown)
