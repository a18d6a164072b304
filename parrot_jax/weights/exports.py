"""Which checkpoint a folder is the export of, told from small files alone. Loads no jax."""

from pathlib import Path

from parrot_jax.core.errors import UserError
from parrot_jax.core.files import AnyPath, as_path, hash_file, hash_json, read_json
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
    """Step of the newest whole checkpoint on a disk; None = there is none.

    A save takes its number for a name when it is whole, and not before.
    """
    if not checkpoints.is_dir():
        return None
    return max(
        (int(each.name) for each in checkpoints.iterdir() if each.name.isdigit()), default=None
    )


def is_whole_export(folder: Path, identity: str, dtype: Dtype) -> bool:
    """Whether a folder is the finished export of a checkpoint in a type.

    `config.json` is written last: what was killed before has none.
    """
    if not ((folder / RECORD).exists() and (folder / "config.json").exists()):
        return False
    record = read_json(folder / RECORD)
    return isinstance(record, dict) and (
        (record.get("checkpoint"), record.get("dtype")) == (identity, dtype)
    )


def check_export_tokenizer(folder: Path, fingerprint: str) -> None:
    """Refuses an export whose tokenizer is not the one that was written with its weights.

    Args:
      folder: The export; one of others, which has no record, passes.
      fingerprint: Of the tokenizer in it.

    Raises:
      UserError: It is another.
    """
    record = read_json(folder / RECORD) if (folder / RECORD).exists() else {}
    written = record.get("tokenizer") if isinstance(record, dict) else None
    if written not in (None, fingerprint):
        raise UserError(
            f"the weights in {folder} were exported with the tokenizer {str(written)[:12]}, but "
            f"the one there is {fingerprint[:12]}; export the run again into a new folder."
        )
