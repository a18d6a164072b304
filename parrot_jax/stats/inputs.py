"""What a user typed as a path: which file it names, and in which format its dialogues are."""

import itertools
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
    """The source that a path names.

    `kind:path` says the format. Otherwise the first rows tell it; a folder is that of a collection,
    whose finished dialogues are meant.

    Args:
      path: As typed: a file, a glob, a folder, `hf://owner/name`, or any of them behind `kind:`.

    Raises:
      UserError: Nothing is there, or the rows do not tell their format.
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
    """A name for each path to head its column: as short as tells them apart.

    >>> labels_of(["a/people.jsonl", "runs/x/", "runs/y"])
    ['people', 'x', 'y']
    >>> labels_of(["a/people.jsonl", "b/people.jsonl"])
    ['a/people.jsonl', 'b/people.jsonl']
    >>> labels_of(["/home/ann/a/people.jsonl", "/home/ann/b/people.jsonl"])
    ['a/people.jsonl', 'b/people.jsonl']

    Raises:
      UserError: A path was given twice.
    """
    if len(set(paths)) < len(paths):
        twice = next(path for path in paths if paths.count(path) > 1)
        raise UserError(f"{twice} was given twice; give each path once.")
    bare = [path.rstrip("/").removeprefix(_kind_of(path)) for path in paths]
    short = [path.rsplit("/", 1)[-1] for path in bare]
    for ending in (".gz", ".jsonl", ".json"):
        short = [name.removesuffix(ending) or name for name in short]
    most = max(path.count("/") for path in bare)
    parts = 1
    while len(set(short)) < len(paths) and parts <= most:
        # Labels are published: no more folders than tell the files apart.
        parts += 1
        short = ["/".join(path.strip("/").rsplit("/", parts)[-parts:]) for path in bare]
    if len(set(short)) < len(paths):  # one file in two formats
        short = [_kind_of(path) + name for path, name in zip(paths, short, strict=True)]
    return short


def _kind_of(path: str) -> str:
    """The format that is typed before a path, with its colon; else nothing."""
    kind, colon, rest = path.partition(":")
    return kind + colon if kind in READERS and not rest.startswith("//") else ""


def _of_collection(path: str) -> str:
    dialogues = as_path(path).expanduser() / DIALOGUES
    if dialogues.exists():
        return str(dialogues)
    if (as_path(path).expanduser() / "journal.sqlite").exists():
        raise UserError(
            f"{path} is a collection without finished dialogues yet: {DIALOGUES} is missing; "
            "go on with `parrot collect`."
        )
    raise UserError(
        f"{path} is a folder, and none of a collection ({DIALOGUES} is missing); name its "
        f"files, e.g. {path.rstrip('/')}/**/*.jsonl, or huggingface:{path} for a data set."
    )


def _detect(file: str) -> SourceKind:
    """The format of a file by its first row that is an object."""
    first = None
    for row in itertools.islice(stream_rows(file), _ROWS_LOOKED_AT):
        if isinstance(row.value, Mapping):
            break
        first = first or row
    else:
        if first is None:
            raise UserError(f"{file} holds no rows; check the path.")
        problem = first.problem or f"row is no JSON object: but {type(first.value).__name__}"
        raise UserError(f"{file}:{first.line}: no dialogue: {problem}.")
    values: Mapping[str, Any] = row.value
    kind = detect_kind(values)
    is_pairs = {"chosen", "rejected"} <= values.keys()
    if kind is None or is_pairs:
        keys = ", ".join(map(repr, values)) or "none"
        reason = (
            "it holds preference pairs" if is_pairs else "no known format of dialogues has them"
        )
        kinds = ", ".join(READERS)
        raise UserError(
            f"{file}:{row.line}: the format cannot be told from the keys {keys} ({reason}); write "
            f"kind:path, where kind is one of {kinds}, e.g. sharegpt:{file}."
        )
    return kind
