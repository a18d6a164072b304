"""Which checkpoint a folder is the export of, told from small files alone. Loads no jax."""

import re
from pathlib import Path
from typing import Any, get_args

from parrot_jax.core.errors import UserError
from parrot_jax.core.files import hash_file, hash_json, read_json
from parrot_jax.core.paths import AnyPath, as_path, file_in
from parrot_jax.weights.dtypes import Dtype

RECORD = "parrot_export.json"
"""Says what a folder is the export of, so that one that was killed can be continued."""


def checkpoint_identity(checkpoint: AnyPath | str) -> str:
    """64 hex digits of a checkpoint: of the moment in which it was saved, and of its shapes.

    Args:
      checkpoint: Its own folder, `checkpoints/<step>`.
    """
    folder = as_path(checkpoint)
    files = (folder / "_CHECKPOINT_METADATA", folder / "params" / "_METADATA")
    return hash_json([hash_file(file) for file in files])


def newest_step(checkpoints: Path) -> int | None:
    """Step of the newest complete checkpoint on a disk, or None.

    A save takes its number for a name when it is whole, and not before.
    """
    if not checkpoints.is_dir():
        return None
    return max(
        (int(each.name) for each in checkpoints.iterdir() if each.name.isdigit()), default=None
    )


def read_record(folder: Path) -> dict[str, Any] | None:
    """The record of an export; None = the folder has none, so it is not an export of ours.

    Returns:
      `checkpoint`, `dtype`, `shards` (their tensors, by file), `tokenizer` (its fingerprint; None =
      there is none) and `sha256` (of files, by name; older exports have none, or only of shards).

    Raises:
      UserError: The record is damaged.
    """
    path = folder / RECORD
    if not path.exists():
        return None
    advice = "put it back from a copy, or delete the folder and export again."
    try:
        record = read_json(path)
    except UserError as error:
        raise UserError(
            f"the record of the export is damaged: {error} To mend it, {advice}"
        ) from None
    if problem := _problem(record):
        raise UserError(f"{path}, the record of the export, is damaged: {problem}; {advice}")
    return {"tokenizer": None, "sha256": {}} | record


def _problem(record: Any) -> str:
    """What is wrong with a record; empty = nothing."""
    if not isinstance(record, dict):
        return f"it holds {type(record).__name__}, not an object"
    checks = {
        "checkpoint": lambda value: isinstance(value, str) and value,
        "dtype": lambda value: value in get_args(Dtype),
        "shards": lambda value: isinstance(value, dict) and value,
        "tokenizer": lambda value: value is None or (isinstance(value, str) and value),
        "sha256": lambda value: isinstance(value, dict) and all(map(_is_hash, value.values())),
    }
    for name, is_right in checks.items():
        value = record.get(name)
        may_lack = name in ("tokenizer", "sha256") and name not in record
        if not may_lack and not is_right(value):
            return f"`{name}` is {ascii(value)[:60]}" if name in record else f"`{name}` is missing"
    return ""


def _is_hash(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value) is not None


def is_whole_export(folder: Path, identity: str, dtype: Dtype) -> bool:
    """Whether a folder is the finished export of a checkpoint in a type.

    `config.json` is written last: what was killed before has none.

    Raises:
      UserError: The record of the export is damaged.
    """
    if not (folder / "config.json").exists():
        return False
    record = read_record(folder)
    return record is not None and (record["checkpoint"], record["dtype"]) == (identity, dtype)


def known_hashes(folder: Path) -> dict[Path, str]:
    """SHA-256 that the files of an export must have; empty for folders of others.

    Raises:
      UserError: The record is damaged.
    """
    record = read_record(folder)
    hashes = record["sha256"] if record else {}
    lost = [name for name in (record["shards"] if record and hashes else ()) if name not in hashes]
    if lost:
        raise UserError(
            f"{folder / RECORD}, the record of the export, has no hash of {ascii(lost[0])[:80]}; "
            "run `parrot convert flax-to-hf` again, which continues the export."
        )
    return {file_in(folder, name): digest for name, digest in hashes.items()}


def check_small_files(folder: Path) -> None:
    """Refuses an export whose config or tokenizer was changed since; the weights are not read.

    Raises:
      UserError: One was changed or is missing, or the record is damaged.
    """
    for file, digest in known_hashes(folder).items():
        if file.suffix != ".safetensors":
            check_hash(file, digest)


def check_hash(file: Path, digest: str) -> None:
    """Refuses a file that is not what was written.

    Raises:
      UserError: It is missing, or has another hash.
    """
    if not file.exists():
        raise UserError(f"{file} is missing; restore it, or export again.")
    if hash_file(file) != digest:
        raise UserError(
            f"{file} is damaged: it is not what was written or downloaded; delete it "
            f"({file.resolve()}) and make or download it again."
        )


def check_export_tokenizer(folder: Path, fingerprint: str) -> None:
    """Refuses an export whose tokenizer is not the one that was written with its weights.

    Args:
      folder: The export; one of others, which has no record, passes.
      fingerprint: Of the tokenizer in it.

    Raises:
      UserError: It is another, or the record is damaged.
    """
    record = read_record(folder)
    written = record["tokenizer"] if record else None
    if written not in (None, fingerprint):
        raise UserError(
            f"the weights in {folder} were exported with the tokenizer {str(written)[:12]}, but "
            f"the one there is {fingerprint[:12]}; export the run again into a new folder."
        )
