"""A row of a file before it is interpreted: its JSON value, or why it is rejected."""

from dataclasses import dataclass
from typing import Any


class BrokenRowError(ValueError):
    """A row that is rejected.

    Args:
      reason: A short phrase by which rejected rows are counted, e.g. `"not valid JSON"`.
      detail: Details of this row.
    """

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = printable(reason)
        self.detail = printable(detail)


@dataclass(frozen=True, slots=True)
class JsonRow:
    """One row of a file: its JSON value, or the problem."""

    line: int
    """The line where the row starts, from 1."""
    value: Any = None
    problem: BrokenRowError | None = None
    repair: str = ""
    """What was repaired in the bytes; empty = nothing."""


def printable(text: str, limit: int = 200) -> str:
    r"""Shortens `text` for a message and escapes unprintable characters.

    >>> printable("caf\ud800 \x1b[2J")
    'caf\\ud800 \\x1b[2J'
    """
    short = text if len(text) <= limit else text[: limit - 1] + "…"
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in short)
