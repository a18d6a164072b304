"""The file of selected questions: which question, and why. It has no texts."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from parrot_jax.core.errors import UserError
from parrot_jax.core.files import atomic_write
from parrot_jax.evaluate.rows import Rejected, count_at, name_at, read_rows, text_at

SELECTED = "selected.jsonl"


@dataclass(frozen=True, kw_only=True)
class Selected:
    """A row of the file."""

    dialogue: str
    """The dialogue's id."""
    turn: int
    """From 2."""
    why: str
    """The name of a rule, `judge` or `measured`."""
    sha256: str
    """The hash of the messages up to the question, so that a changed dialogue is noticed."""
    rule: str | None = None
    """The rule, if a judge confirmed it."""
    similarity: float | None = None
    """ROUGE-L times 100 of the answers with and without the dialogue, if it was measured."""


def write_selection(path: Path, rows: Sequence[Selected]) -> None:
    """Writes the file atomically, in the order of the rows."""
    with atomic_write(path) as file:
        for row in rows:
            values = {key: value for key, value in asdict(row).items() if value is not None}
            file.write(json.dumps(values, ensure_ascii=False) + "\n")


def read_selection(path: str) -> tuple[list[Selected], Rejected]:
    """Reads the file; rejected rows are counted.

    Raises:
      UserError: It cannot be read, or has no valid row.
    """
    rejected = Rejected()
    rows = list(read_rows(path, _parse, rejected))
    if not rows:
        raise UserError(f"{path} selects no question: {rejected.first()}; check the path.")
    return rows, rejected


def _parse(row: dict[str, Any]) -> Selected:
    return Selected(
        dialogue=name_at(row, "dialogue"),
        turn=count_at(row, "turn"),
        why=text_at(row, "why"),
        sha256=text_at(row, "sha256"),
    )
