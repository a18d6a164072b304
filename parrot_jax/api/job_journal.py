"""Opens the journal of a job, new or to resume."""

import contextlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from parrot_jax.api.journal import JournalWriter, Start
from parrot_jax.api.journal_file import upgrade
from parrot_jax.api.journal_reader import JournalReader


def open_journal(
    path: Path, start: Start, inputs: Callable[[JournalReader | None], Iterable[str]]
) -> JournalWriter:
    """Opens a job's journal, new or to resume.

    Args:
      path: An SQLite file.
      start: The config and prompts of this run.
      inputs: Returns the inputs of items that the journal lacks; all of them if called with None.
        Raises `UserError` if this run may not resume the journal.

    Raises:
      UserError: Also if the folder cannot be written or another process writes the journal.
    """
    upgrade(path)
    journal = JournalWriter(path)
    try:
        if journal.is_new:
            journal.begin(start, inputs(None))
        else:
            with contextlib.closing(JournalReader(path)) as reader:
                more = list(inputs(reader))  # may refuse before anything is written
            journal.resume(start, more)
    except BaseException:
        journal.close()
        raise
    return journal


def open_items(
    path: Path, start: Start, inputs: Sequence[str], check_same: Callable[[Start], None]
) -> JournalWriter:
    """Opens the journal of a job whose items every run names; adds those that it lacks.

    Args:
      path: An SQLite file.
      start: The config and prompts of this run.
      inputs: The input of each item.
      check_same: Called with the last start if the journal has a reply; raises `UserError` if this
        run would give other replies. Without a reply, every setting may change.

    Raises:
      UserError: As in `open_journal`.
    """

    def missing(old: JournalReader | None) -> Iterable[str]:
        if old is None:
            return inputs
        if any(counts.answered for counts in old.counts().speakers.values()):
            check_same(old.last_start())
        known = set(old.items())
        return [text for text in inputs if text not in known]

    return open_journal(path, start, missing)
