"""Writes the report of training runs, or of collections."""

from collections.abc import Sequence
from pathlib import Path

from parrot_jax.core.errors import UserError
from parrot_jax.report.page import Page, write_page
from parrot_jax.runs.collection_page import collection_page
from parrot_jax.runs.training_files import is_training_run, read_training_run
from parrot_jax.runs.training_page import training_page


def write_report(folders: Sequence[str], path: Path) -> None:
    """Writes the report of some runs, also while they are running.

    Args:
      folders: Of `parrot train`, or all of `parrot collect`.
      path: The HTML file.

    Raises:
      UserError: A folder has no run, or a file of it is missing or damaged.
      DiskFullError: The disk is full.
    """
    write_page(path, _page(folders))


def _page(folders: Sequence[str]) -> Page:
    are_training = set(map(is_training_run, folders))
    if are_training == {True}:
        return training_page([read_training_run(folder) for folder in folders])
    if are_training == {False}:
        return collection_page(folders)
    raise UserError("some of these folders are training runs and some are not; report one kind.")
