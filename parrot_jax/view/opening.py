"""Finds out what a path of the command is."""

import contextlib
from pathlib import Path

from parrot_jax.api.journal_file import DamagedJournalError
from parrot_jax.api.journal_reader import JournalReader
from parrot_jax.collect.folder import journal_path
from parrot_jax.dialogue.writers import DIALOGUES
from parrot_jax.stats.inputs import labels_of, source_of
from parrot_jax.view.collected import CollectedDialogues
from parrot_jax.view.evaluated import EvaluatedAnswers, is_evaluation
from parrot_jax.view.files import DialogueFiles
from parrot_jax.view.indexing import Part, Source
from parrot_jax.view.trained import TrainingDialogues


def open_paths(paths: list[str], cache_dir: str) -> list[Part]:
    """The parts of a command, in the order of its paths.

    Raises:
      UserError: A path was given twice, or is nothing that can be shown.
    """
    return [
        Part(label, open_path(path), cache_dir)
        for path, label in zip(paths, labels_of(paths), strict=True)
    ]


def open_path(path: str) -> Source:
    """What is at a path.

    Raises:
      UserError: Nothing that can be shown.
    """
    if path.endswith((".yaml", ".yml")):
        return TrainingDialogues(path)
    folder = Path(path).expanduser()
    if folder.is_dir():
        keys = _journal_keys(folder)
        if "beginnings" in keys:
            return CollectedDialogues(path)
        if is_evaluation(folder, keys):
            return EvaluatedAnswers(path)
    return DialogueFiles(source_of(path))


def _journal_keys(folder: Path) -> set[str]:
    """The keys of the config in a folder's journal; empty if there is no journal.

    Raises:
      UserError: The journal is damaged.
    """
    path = journal_path(folder)
    if not path.is_file():
        return set()
    try:
        with contextlib.closing(JournalReader(path)) as reader:
            return set(reader.last_start().config)
    except DamagedJournalError:
        if (folder / DIALOGUES).exists():
            return set()  # its finished dialogues can still be read
        raise
