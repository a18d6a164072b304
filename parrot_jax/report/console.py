"""Prints tables on the console. Texts from outside are never interpreted as markup."""

from collections.abc import Iterator, Sequence

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from parrot_jax.core.logs import console, visible
from parrot_jax.report.page import Table

_WIDTH_OF_FILES = 160
_BETWEEN = 3
"""Spaces between two columns."""


def print_table(table: Table, title: str) -> None:
    """Prints a table, folded to the terminal, or with a fixed width into a file or a pipe.

    Columns that do not fit side by side follow below, with the text columns again.
    """
    out = console if console.is_terminal else Console(width=_WIDTH_OF_FILES, file=console.file)
    # Intervals go below their values, so that more columns fit side by side.
    rows = [[visible(cell).replace(" (", "\n(") for cell in row] for row in table.rows]
    names = [visible(name) for name in table.columns]
    widths = [
        max(cell_len(line) for text in texts for line in text.split("\n"))
        for texts in zip(names, *rows, strict=True)
    ]
    for part in _parts(widths, table.text_columns, out.width):
        shown = RichTable(title=title or None, title_justify="left", box=box.SIMPLE_HEAD,
                          pad_edge=False)  # fmt: skip
        for place in part:
            justify = "left" if place < table.text_columns else "right"
            shown.add_column(Text(names[place]), justify=justify, overflow="fold")
        for row in rows:
            shown.add_row(*(Text(row[place]) for place in part))
        out.print(shown)
        title = ""


def _parts(widths: Sequence[int], text_columns: int, room: int) -> Iterator[list[int]]:
    """The columns of each part of a table.

    >>> list(_parts([5, 4, 4, 4], 1, 21))
    [[0, 1, 2], [0, 3]]
    """
    texts = [*range(text_columns)]
    # Long names are folded, or no number would fit beside them.
    left = room - min(sum(widths[place] + _BETWEEN for place in texts), room // 2)
    part, used = list[int](), 0
    for place in range(text_columns, len(widths)):
        needed = widths[place] + _BETWEEN
        if part and used + needed > left + 1:
            yield [*texts, *part]
            part, used = [], 0
        part.append(place)
        used += needed
    yield [*texts, *part]
