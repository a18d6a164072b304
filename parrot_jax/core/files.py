"""Atomic writes, reading and writing of JSON, and content hashes.

A reader never sees a partial file: data is written to a temporary file in the same folder, flushed
to disk and renamed to the target. If the process is killed before the rename, the old file remains.
For an object in a bucket, data is written to a local file and uploaded when complete.
"""

import contextlib
import hashlib
import io
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, cast

from parrot_jax.core.errors import DiskFullError, UserError
from parrot_jax.core.paths import AnyPath, as_path
from parrot_jax.core.remote import RemotePath
from parrot_jax.core.shipped import shipped_file

if TYPE_CHECKING:
    import numpy

MAX_JSON_BYTES = 200 * 2**20
"""The largest JSON file that is read. The largest tokenizers have 35 MB."""


@contextlib.contextmanager
def atomic_write(path: AnyPath | str, mode: str = "w") -> Iterator[IO[Any]]:
    """Opens a temporary file that replaces `path` when the block ends without an error.

    Args:
      path: The target; its folder is created if missing.
      mode: `"w"` for UTF-8 text, `"wb"` for bytes.

    Yields:
      The open temporary file. It is removed when the block raises.

    Raises:
      UserError: The target is in a bucket that cannot be written.
    """
    path = as_path(path)
    encoding = None if "b" in mode else "utf-8"
    if isinstance(path, RemotePath):
        with tempfile.TemporaryDirectory(prefix="parrot-") as folder:
            complete = Path(folder, path.name)
            with open(complete, mode, encoding=encoding) as file:
                yield file
            path.put(complete)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.tmp-{os.getpid()}")
    try:
        with open(temporary, mode, encoding=encoding) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def check_room(path: AnyPath, needed: int, what: str) -> None:
    """Checks the free space of a disk; a bucket always passes.

    Args:
      path: An existing folder.
      needed: Bytes needed.
      what: What will be written, e.g. `"a checkpoint"`.

    Raises:
      DiskFullError: Fewer bytes are free.
    """
    if isinstance(path, RemotePath):
        return
    free = shutil.disk_usage(path).free
    if free < needed:
        raise DiskFullError(
            f"no room left on the disk for {what} in {path}: it needs {needed:,} bytes and "
            f"{free:,} are free; free some space and run again."
        )


def write_json(path: AnyPath | str, value: Any) -> None:
    """Writes `value` as indented JSON, atomically; keys keep their order."""
    with atomic_write(path) as file:
        json.dump(value, file, indent=2, ensure_ascii=False)
        file.write("\n")


def read_json(path: AnyPath | str, *, max_bytes: int = MAX_JSON_BYTES) -> Any:
    """Reads a JSON file that another program may have written.

    Args:
      path: The file.
      max_bytes: Larger files are rejected.

    Raises:
      UserError: The file cannot be read, is too large or is not JSON.
    """
    if isinstance(path := as_path(path), Path) and path.exists() and not path.is_file():
        raise UserError(f"{path} is not a file; check the path.")
    with open_input(path, "rb") as file:
        content = file.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise UserError(f"{path} is larger than {max_bytes:,} bytes, the limit; check the path.")
    try:
        return json.loads(content.decode("utf-8"))
    except RecursionError:
        raise UserError(f"{path} is not valid JSON: it is nested too deeply.") from None
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON: {error}.") from None


def read_object(path: AnyPath) -> dict[str, Any]:
    """Reads a JSON object that `write_json` wrote.

    Raises:
      UserError: The file cannot be read or is damaged.
    """
    try:
        value = read_json(path)
    except UserError as error:
        if not path.exists():
            raise
        problem = str(error).removeprefix(f"{path} ").rstrip(".")
    else:
        if isinstance(value, dict):
            return value
        problem = "is not a JSON object"
    raise UserError(
        f"{path} is damaged: it {problem}; restore a copy, or delete it and rerun the command that "
        "wrote it."
    )


def write_array(path: AnyPath | str, array: "numpy.ndarray") -> None:
    """Writes an array as `.npy`, atomically."""
    import numpy as np

    # Via memory: when numpy writes a file itself, its error hides the reason (e.g. a full disk).
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    with atomic_write(path, "wb") as file:
        file.write(buffer.getbuffer())


def hash_file(path: AnyPath | str) -> str:
    """Returns the SHA-256 of a file as 64 hex digits; reads it in chunks."""
    with open_input(path, "rb") as file:
        return hashlib.file_digest(cast(io.BufferedReader, file), "sha256").hexdigest()


def hash_json(value: Any) -> str:
    """Returns the SHA-256 of a JSON value as 64 hex digits, independent of the order of keys."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


@contextlib.contextmanager
def open_input(path: AnyPath | str, mode: str = "r") -> Iterator[IO[Any]]:
    """Opens a file of the user for reading.

    If a path under `configs/` does not exist, the file that the package ships is opened.

    Raises:
      UserError: The file does not exist, is a folder or is not readable.
    """
    encoding = None if "b" in mode else "utf-8"
    try:
        try:
            file = as_path(path).open(mode, encoding=encoding)
        except FileNotFoundError:
            shipped = shipped_file(str(path))
            if shipped is None:
                raise
            file = shipped.open(mode, encoding=encoding)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; check the path.") from error
    with file:
        yield file
