"""What of an exported collection goes to others: the dialogues in their three forms, and the card.

What stays here: the texts that the filters cut, the numbers, and every file that is not of an
export. A collection itself, with its journal, is never sent.
"""

import json
import os
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from parrot_jax.collect.dataset import CARD, FORMS, PARTS, RECORD, published_files
from parrot_jax.collect.folder import journal_path
from parrot_jax.core.errors import UserError
from parrot_jax.core.files import hash_file
from parrot_jax.core.logs import console
from parrot_jax.core.published_names import name_to_publish
from parrot_jax.weights.hub import Upload

_ENDS = dict(zip(FORMS, (b"PAR1", b"\n", b"]\n"), strict=True))
"""What a whole file of each form ends with."""
_AGAIN = "run `parrot collect export` again."


def is_dataset(folder: Path | str) -> bool:
    """Whether `parrot collect` or `parrot collect export` made the folder."""
    return Path(folder, RECORD).exists() or journal_path(folder).exists()


def dataset_upload(folder: Path | str) -> Upload:
    """The files of a dataset that `parrot collect export` made.

    Raises:
      UserError: It is a collection and no export, a file is missing, broken or was changed, or a
        row names a path of a machine.
    """
    folder = Path(folder)
    if journal_path(folder).exists():
        raise UserError(
            f"{folder} is a collection with its journal, which is not for others; make a dataset "
            f"of it: parrot collect export {folder} --out FOLDER."
        )
    licenses = sorted(file.name for file in folder.glob("LICENSE*") if file.is_file())
    try:
        record = json.loads((folder / RECORD).read_bytes())
        for part, counts in record["parts"].items():
            _check_part(folder, part, counts["dialogues"])
        (folder / CARD).read_text(encoding="utf-8")
        files = published_files(record["parts"])
        _check_hashes(folder, files, record)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{folder} is no whole export ({error}): {_AGAIN}") from None
    sent = [*files, *licenses]
    names = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    return Upload(
        kind="dataset",
        files={name: folder / name for name in sent},
        left_here=[name for name in names if name not in sent],
        replaces=lambda name: any(fnmatch(name, form.format("*")) for form in _ENDS),
    )


def _check_hashes(folder: Path, files: list[str], record: dict[str, Any]) -> None:
    """Compares the files with the hashes that the export wrote.

    Raises:
      ValueError: The hashes are damaged.
      UserError: A file was changed, and it is not the card, which people edit.
    """
    if "sha256" not in record:
        console.print(
            f"{folder / RECORD} is of an earlier version and has no hashes: whether the files were "
            "changed since is not known"
        )
        return
    hashes = record["sha256"]
    for name in files:
        if hashes[name] == hash_file(folder / name):
            continue
        if name != CARD:
            raise UserError(f"{folder / name} was changed after it was exported; {_AGAIN}")
        console.print(f"{folder / name} was changed after it was exported; it is sent as it is")


def _check_part(folder: Path, part: str, dialogues: int) -> None:
    """Checks that the files of a part are whole.

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
                if name_to_publish(value) != value:
                    raise UserError(
                        f"{messages}:{number}: `{key}` is {value}, a path of a machine; {_AGAIN}"
                    )
    if number != dialogues:
        raise ValueError(f"{messages} has {number:,} rows, not {dialogues:,}")


def _named(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """The texts of a row with their keys, outside of what was said."""
    if isinstance(value, str):
        yield key, value
    elif isinstance(value, dict):
        for name, inner in value.items():
            yield "key", name
            if name != "messages" or key:
                yield from _named(inner, name)
    elif isinstance(value, list):
        for inner in value:
            yield from _named(inner, key)
