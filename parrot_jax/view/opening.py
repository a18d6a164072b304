"""Finds out what a path of the command is."""

from parrot_jax.stats.inputs import labels_of, source_of
from parrot_jax.view.files import DialogueFiles
from parrot_jax.view.indexing import Part, Source


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
    return DialogueFiles(source_of(path))
