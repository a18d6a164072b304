"""A row of a file before anybody has asked what it means: its value, or why it has none."""

from dataclasses import dataclass
from typing import Any


class BrokenRowError(ValueError):
    """A row that cannot be used.

    Args:
      reason: A short phrase under which such rows are counted, e.g. `"not valid JSON"`.
      detail: What is particular to this row.
    """

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = printable(reason)
        self.detail = printable(detail)


@dataclass(frozen=True, slots=True)
class JsonRow:
    """One row of a file: its JSON value, or why there is none."""

    line: int
    """Where the row starts, counted from 1."""
    value: Any = None
    problem: BrokenRowError | None = None
    repair: str = ""
    """What was mended in the bytes; empty = nothing."""


def printable(text: str, limit: int = 200) -> str:
    r"""Shortens `text` for a message and writes out what cannot be printed or is not seen.

    >>> printable("caf\ud800 \x1b[2J")
    'caf\\ud800 \\x1b[2J'
    """
    short = text if len(text) <= limit else text[: limit - 1] + "…"
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in short)
