"""Selects the files of an export to upload: the dialogues in three forms, and the card.

Texts that the filters cut, the counts, and all files that are not part of an export stay local. A
collection itself, with its journal, is never uploaded.
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
"""The last bytes of a complete file of each form."""
_AGAIN = "run `parrot collect export` again."


def is_dataset(folder: Path | str) -> bool:
    """Whether `parrot collect` or `parrot collect export` made the folder."""
    return Path(folder, RECORD).exists() or journal_path(folder).exists()


def dataset_upload(folder: Path | str) -> Upload:
    """The files to upload of a dataset made by `parrot collect export`.

    Raises:
      UserError: It is a collection, not an export; a file is missing, damaged or was changed; or a
        row contains a local path.
    """
    folder = Path(folder)
    if journal_path(folder).exists():
        raise UserError(
            f"{folder} is a collection with its journal, which must not be shared; export "
            f"it first: parrot collect export {folder} --out FOLDER."
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
        raise UserError(f"{folder} is not a complete export ({error}): {_AGAIN}") from None
    sent = [*files, *licenses]
    names = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    return Upload(
        kind="dataset",
        files={name: folder / name for name in sent},
        left_here=[name for name in names if name not in sent],
        replaces=lambda name: any(fnmatch(name, form.format("*")) for form in _ENDS),
    )


def _check_hashes(folder: Path, files: list[str], record: dict[str, Any]) -> None:
    """Compares the files with the hashes recorded by the export.

    Raises:
      ValueError: The hashes are damaged.
      UserError: A file other than the card was changed.
    """
    if "sha256" not in record:
        console.print(
            f"{folder / RECORD} is from an earlier version and has no hashes: cannot check whether "
            "the files were changed"
        )
        return
    hashes = record["sha256"]
    for name in files:
        if hashes[name] == hash_file(folder / name):
            continue
        if name != CARD:
            raise UserError(f"{folder / name} was changed after it was exported; {_AGAIN}")
        console.print(f"{folder / name} was changed after it was exported; uploading it as it is")


def _check_part(folder: Path, part: str, dialogues: int) -> None:
    """Checks that the files of a part are complete.

    Raises:
      ValueError: A file is damaged.
      OSError: A file is missing.
      UserError: A row contains a local path.
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
                        f"{messages}:{number}: `{key}` is {value}, a local path; {_AGAIN}"
                    )
    if number != dialogues:
        raise ValueError(f"{messages} has {number:,} rows, not {dialogues:,}")


def _named(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """The strings of a row with their keys, except the messages."""
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
