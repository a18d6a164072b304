"""What of an exported collection goes to others: the dialogues in their three forms, and the card.

What stays here: the texts that the filters cut, the numbers, and every file that is not of an
export. A collection itself, with its journal, is never sent.
"""

import json
import os
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path, PureWindowsPath
from typing import Any

from parrot_jax.collect.dataset import PARTS, RECORD
from parrot_jax.collect.folder import journal_path
from parrot_jax.core.errors import UserError
from parrot_jax.weights.hub import Upload

# What the files of a part are called, and what each ends with.
_ENDS = {"data/{}.parquet": b"PAR1", "messages/{}.jsonl": b"\n", "sharegpt/{}.json": b"]\n"}
_AGAIN = "run `parrot collect export` again."


def is_dataset(folder: Path | str) -> bool:
    """Whether `parrot collect` or `parrot collect export` made the folder."""
    return Path(folder, RECORD).exists() or journal_path(folder).exists()


def dataset_upload(folder: Path | str) -> Upload:
    """The files of a dataset that `parrot collect export` made.

    Raises:
      UserError: It is a collection and no export, a file is missing or broken, or a row names a
        path of a machine.
    """
    folder = Path(folder)
    if journal_path(folder).exists():
        raise UserError(
            f"{folder} is a collection with its journal, which is not for others; make a dataset "
            f"of it: parrot collect export {folder} --out FOLDER."
        )
    sent = ["README.md", *sorted(file.name for file in folder.glob("LICENSE*") if file.is_file())]
    try:
        for part, counts in json.loads((folder / RECORD).read_bytes())["parts"].items():
            sent += _checked_part(folder, part, counts["dialogues"])
        (folder / "README.md").read_text(encoding="utf-8")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{folder} is no whole export ({error}): {_AGAIN}") from None
    names = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    return Upload(
        kind="dataset",
        files={name: folder / name for name in sent},
        left_here=[name for name in names if name not in sent],
        replaces=lambda name: any(fnmatch(name, form.format("*")) for form in _ENDS),
    )


def _checked_part(folder: Path, part: str, dialogues: int) -> list[str]:
    """The names of a part's files.

    Raises:
      ValueError: One is broken.
      OSError: One is missing.
      UserError: A row names a path of a machine.
    """
    if part not in PARTS:
        raise ValueError(f"there is no part {part!r}")
    names = [form.format(part) for form in _ENDS]
    for name, end in zip(names, _ENDS.values(), strict=True):
        with open(folder / name, "rb") as file:
            file.seek(-len(end), os.SEEK_END)
            if file.read() != end:
                raise ValueError(f"{name} is cut off")
    _, messages, _ = names
    number = 0
    with open(folder / messages, encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            for key, value in _named(json.loads(line)):
                if Path(value).is_absolute() or PureWindowsPath(value).is_absolute():
                    raise UserError(
                        f"{messages}:{number}: `{key}` is {value}, a path of a machine; {_AGAIN}"
                    )
    if number != dialogues:
        raise ValueError(f"{messages} has {number:,} rows, not {dialogues:,}")
    return names


def _named(value: Any) -> Iterator[tuple[str, str]]:
    """The ids, sources and paths that a row names, outside of what was said."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if key in ("id", "source", "path") and isinstance(inner, str):
                yield key, inner
            elif key != "messages":
                yield from _named(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _named(inner)
