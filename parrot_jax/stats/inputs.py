"""Resolves a path from the command line to a source with a format, and makes labels."""

import itertools
import os
from collections.abc import Mapping
from typing import Any, cast

from parrot_jax.core.errors import UserError
from parrot_jax.core.paths import as_path
from parrot_jax.dialogue.hub import SCHEME
from parrot_jax.dialogue.json_stream import stream_rows
from parrot_jax.dialogue.readers import detect_kind
from parrot_jax.dialogue.sources import READERS, SourceConfig, SourceKind, source_files
from parrot_jax.dialogue.writers import DIALOGUES

_ROWS_LOOKED_AT = 100


def source_of(path: str) -> SourceConfig:
    """Resolves a path to a source.

    `kind:path` sets the format; otherwise it is detected from the first rows. A folder must be a
    collection, whose finished dialogues are used.

    Args:
      path: A file, a glob, a folder or `hf://owner/name`, optionally with the prefix `kind:`.

    Raises:
      UserError: The path does not exist, or the format cannot be detected.
    """
    kind, _, rest = path.partition(":")
    if kind in READERS and not rest.startswith("//"):
        return SourceConfig(kind=cast(SourceKind, kind), path=rest)
    if path.startswith(SCHEME):
        return SourceConfig(kind="huggingface", path=path)
    if as_path(path).expanduser().is_dir():
        return SourceConfig(kind="messages", path=_of_collection(path))
    (first, *_) = source_files(SourceConfig(kind="messages", path=path))
    return SourceConfig(kind=_detect(first), path=path)


def labels_of(paths: list[str]) -> list[str]:
    """Returns a unique column name for each path, as short as possible.

    >>> labels_of(["a/people.jsonl", "runs/x/", "runs/y"])
    ['people', 'x', 'y']
    >>> labels_of(["a/people.jsonl", "b/people.jsonl"])
    ['a/people.jsonl', 'b/people.jsonl']
    >>> labels_of(["/home/ann/a/people.jsonl", "/home/ann/b/people.jsonl"])
    ['a/people.jsonl', 'b/people.jsonl']

    Raises:
      UserError: A path was given twice.
    """
    real = list(map(_real, paths))
    for number, path in enumerate(real):
        if path in real[:number]:
            raise UserError(f"{paths[number]} was given twice; pass each path once.")
    bare = [path.rstrip("/").removeprefix(_kind_of(path)) for path in paths]
    short = [path.rsplit("/", 1)[-1] for path in bare]
    for ending in (".gz", ".jsonl", ".json"):
        short = [name.removesuffix(ending) or name for name in short]
    most = max(path.count("/") for path in bare)
    parts = 1
    while len(set(short)) < len(paths) and parts <= most:
        # Labels are published, so include no more folders than needed.
        parts += 1
        short = ["/".join(path.strip("/").rsplit("/", parts)[-parts:]) for path in bare]
    if len(set(short)) < len(paths):  # the same file in two formats
        short = [_kind_of(path) + name for path, name in zip(paths, short, strict=True)]
    return short


def _real(path: str) -> str:
    """The same text for all spellings of a local path."""
    if "://" in path:
        return path
    kind = _kind_of(path)
    return kind + os.path.realpath(os.path.expanduser(path.removeprefix(kind)))


def _kind_of(path: str) -> str:
    """Returns the format prefix of a path, with its colon; empty if it has no prefix."""
    kind, colon, rest = path.partition(":")
    return kind + colon if kind in READERS and not rest.startswith("//") else ""


def _of_collection(path: str) -> str:
    dialogues = as_path(path).expanduser() / DIALOGUES
    if dialogues.exists():
        return str(dialogues)
    if (as_path(path).expanduser() / "journal.sqlite").exists():
        raise UserError(
            f"{path} is a collection without finished dialogues yet: {DIALOGUES} is missing; "
            "resume it with `parrot collect`."
        )
    raise UserError(
        f"{path} is not a collection folder ({DIALOGUES} is missing); pass its files, e.g. "
        f"{path.rstrip('/')}/**/*.jsonl, or huggingface:{path} for a data set."
    )


def _detect(file: str) -> SourceKind:
    """Detects the format of a file from its first row that is an object."""
    first = None
    for row in itertools.islice(stream_rows(file), _ROWS_LOOKED_AT):
        if isinstance(row.value, Mapping):
            break
        first = first or row
    else:
        if first is None:
            raise UserError(f"{file} has no rows; check the path.")
        problem = first.problem or f"row is not a JSON object: but {type(first.value).__name__}"
        raise UserError(f"{file}:{first.line}: no dialogue: {problem}.")
    values: Mapping[str, Any] = row.value
    kind = detect_kind(values)
    if kind is None:
        keys = ", ".join(map(repr, values)) or "none"
        raise UserError(
            f"{file}:{row.line}: cannot detect the format from the keys {keys} (no known dialogue "
            f"format has them); pass kind:path, where kind is one of {', '.join(READERS)}, e.g. "
            f"sharegpt:{file}."
        )
    return kind
