"""The record of an export: its checkpoint, dtype and file hashes. Does not import jax."""

import re
from pathlib import Path
from typing import Any, get_args

from parrot_jax.core.errors import UserError
from parrot_jax.core.files import hash_file, hash_json, read_json
from parrot_jax.core.paths import AnyPath, as_path, file_in
from parrot_jax.weights.dtypes import Dtype

RECORD = "parrot_export.json"
"""File that says which checkpoint was exported, so that an interrupted export can resume."""


def checkpoint_identity(checkpoint: AnyPath | str) -> str:
    """Returns 64 hex digits that identify a checkpoint: a hash of its save time and its shapes.

    Args:
      checkpoint: Its folder, `checkpoints/<step>`.
    """
    folder = as_path(checkpoint)
    files = (folder / "_CHECKPOINT_METADATA", folder / "params" / "_METADATA")
    return hash_json([hash_file(file) for file in files])


def newest_step(checkpoints: Path) -> int | None:
    """Returns the step of the newest complete checkpoint on a local disk; None = no checkpoint.

    Unfinished saves have other names: a folder gets its number only when the save is complete.
    """
    if not checkpoints.is_dir():
        return None
    return max(
        (int(each.name) for each in checkpoints.iterdir() if each.name.isdigit()), default=None
    )


def read_record(folder: Path) -> dict[str, Any] | None:
    """Reads the record of an export; None if the folder was not exported by parrot_jax.

    Returns:
      `checkpoint`, `dtype`, `shards` (tensor names by file), `tokenizer` (fingerprint, or None) and
      `sha256` (of files, by name; older exports have no hashes, or only those of shards).

    Raises:
      UserError: The record is damaged.
    """
    path = folder / RECORD
    if not path.exists():
        return None
    advice = "restore it from a copy, or delete the folder and export again."
    try:
        record = read_json(path)
    except UserError as error:
        raise UserError(
            f"the record of the export is damaged: {error} To repair it, {advice}"
        ) from None
    if problem := _problem(record):
        raise UserError(f"{path}, the record of the export, is damaged: {problem}; {advice}")
    return {"tokenizer": None, "sha256": {}} | record


def _problem(record: Any) -> str:
    """Returns what is wrong with a record; empty = nothing."""
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
    """Whether a folder is the finished export of a checkpoint in a dtype.

    `config.json` is written last, so an interrupted export lacks it.

    Raises:
      UserError: The record of the export is damaged.
    """
    if not (folder / "config.json").exists():
        return False
    record = read_record(folder)
    return record is not None and (record["checkpoint"], record["dtype"]) == (identity, dtype)


def known_hashes(folder: Path) -> dict[Path, str]:
    """Returns the recorded SHA-256 of an export's files; empty for other folders.

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
    """Rejects an export whose config or tokenizer has changed; does not read the weights.

    Raises:
      UserError: A file has changed or is missing, or the record is damaged.
    """
    for file, digest in known_hashes(folder).items():
        if file.suffix != ".safetensors":
            check_hash(file, digest)


def check_hash(file: Path, digest: str) -> None:
    """Rejects a file that has changed since it was written.

    Raises:
      UserError: The file is missing or has another hash.
    """
    if not file.exists():
        raise UserError(f"{file} is missing; restore it, or export again.")
    if hash_file(file) != digest:
        raise UserError(
            f"{file} is damaged: its SHA-256 is not the recorded one; delete it "
            f"({file.resolve()}) and export or download it again."
        )


def check_export_tokenizer(folder: Path, fingerprint: str) -> None:
    """Rejects an export whose tokenizer is not the one that was exported with its weights.

    Args:
      folder: The export; a folder without a record passes.
      fingerprint: Of the tokenizer in the folder.

    Raises:
      UserError: The tokenizer differs, or the record is damaged.
    """
    record = read_record(folder)
    written = record["tokenizer"] if record else None
    if written not in (None, fingerprint):
        raise UserError(
            f"the weights in {folder} were exported with tokenizer {str(written)[:12]}, but the "
            f"folder has tokenizer {fingerprint[:12]}; export the run again into a new folder."
        )
