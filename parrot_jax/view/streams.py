"""Reads a stream of dialogues into an index; what the index has already is passed over."""

import itertools
import time
from collections.abc import Iterator

from parrot_jax.core.errors import UserError
from parrot_jax.dialogue.readers import ReadRow
from parrot_jax.dialogue.report import ReadReport, SourceCounts
from parrot_jax.dialogue.types import Dialogue
from parrot_jax.view.shown import Shown, show_dialogue
from parrot_jax.view.writing import BYTES_AT_ONCE, ROWS_AT_ONCE, IndexWriter


class RejectingReport(ReadReport):
    """Counts, and keeps the rejected rows until they are saved."""

    def __init__(self) -> None:
        """Starts at zero."""
        super().__init__()
        self.rejected: list[tuple[str, str]] = []

    def count(self, counts: SourceCounts, row: ReadRow) -> None:
        """Adds one row."""
        super().count(counts, row)
        if row.problem is not None:
            self.rejected.append((f"{row.place.source}:{row.place.line}", str(row.problem)))


def read_stream(
    index: IndexWriter, identity: str, dialogues: Iterator[Dialogue], report: RejectingReport
) -> Iterator[None]:
    """Reads a stream of dialogues into an index.

    Args:
      index: If it has another identity, it is started over; else what it has is passed over.
      identity: Identifies the content of the stream; empty = unknown.
      dialogues: The stream.
      report: Filled by it.

    Yields:
      After each step that was saved.

    Raises:
      UserError: See `read_sources`.
    """
    index.belong_to(identity or f"unknown {time.time_ns()}")
    if index.about("is_complete"):
        return
    there = index.num_dialogues()
    for _ in itertools.islice(dialogues, there):
        report.rejected.clear()
    try:
        for block in _blocks(dialogues, report):
            with index.saving():
                for shown in block:
                    index.put(shown)
                _save_rejected(index, report)
            yield
    except UserError:  # not one usable row
        with index.saving():
            _save_rejected(index, report)
        raise
    with index.saving():
        _save_rejected(index, report)
        index.set_about("is_complete", "yes")


def _blocks(dialogues: Iterator[Dialogue], report: RejectingReport) -> Iterator[list[Shown]]:
    """The dialogues in lists that are saved together."""
    block, num_chars = [], 0
    for dialogue in dialogues:
        place = report.place
        assert place is not None  # the row of this dialogue
        block.append(show_dialogue(dialogue, f"{place.source}:{place.line}", place.repairs))
        num_chars += len(block[-1].searched)
        if len(block) == ROWS_AT_ONCE or num_chars >= BYTES_AT_ONCE:
            yield block
            block, num_chars = [], 0
    if block:
        yield block


def _save_rejected(index: IndexWriter, report: RejectingReport) -> None:
    for place, problem in report.rejected:
        index.reject(place, problem)
    report.rejected.clear()
