"""Files written whole or not at all, and content hashes.

A reader never sees half a file: the bytes go to a temporary name beside the target, are flushed to
the disk, and take the target's name in one step. A kill in between leaves the old file.
"""

import contextlib
import hashlib
import io
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, cast

from parrot_jax.core.errors import UserError

if TYPE_CHECKING:
    import numpy


@contextlib.contextmanager
def atomic_write(path: Path | str, mode: str = "w") -> Iterator[IO[Any]]:
    """Opens a file that takes the name `path` only when the block ends without an error.

    Args:
      path: The target; its folder is made where it is missing.
      mode: `"w"` for UTF-8 text, `"wb"` for bytes.

    Yields:
      The open temporary file. It is removed when the block raises.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.tmp-{os.getpid()}")
    try:
        with open(temporary, mode, encoding=None if "b" in mode else "utf-8") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path | str, value: Any) -> None:
    """Writes `value` as indented JSON, atomically; keys keep their order."""
    with atomic_write(path) as file:
        json.dump(value, file, indent=2, ensure_ascii=False)
        file.write("\n")


def write_array(path: Path | str, array: "numpy.ndarray") -> None:
    """Writes an array as `.npy`, atomically."""
    import numpy as np

    # Through memory: numpy's own way into a file loses the reason of a failure (a full disk).
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    with atomic_write(path, "wb") as file:
        file.write(buffer.getbuffer())


def hash_file(path: Path | str) -> str:
    """SHA-256 of a file's bytes, as 64 hex digits; reads it in pieces."""
    with open_input(path, "rb") as file:
        return hashlib.file_digest(cast(io.BufferedReader, file), "sha256").hexdigest()


def hash_json(value: Any) -> str:
    """SHA-256 of a JSON value that does not depend on the order of keys, as 64 hex digits."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


@contextlib.contextmanager
def open_input(path: Path | str, mode: str = "r") -> Iterator[IO[Any]]:
    """Opens a file that the user named, for reading.

    Raises:
      UserError: There is no such file, it is a folder, or it may not be read.
    """
    try:
        file = open(path, mode, encoding=None if "b" in mode else "utf-8")  # noqa: SIM115
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; check the path.") from error
    with file:
        yield file
