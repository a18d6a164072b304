"""Files written whole or not at all, JSON in both directions, and hashes of contents.

A reader never sees half a file: the bytes go to a temporary name beside the target, are flushed to
the disk, and take the target's name in one step. A kill in between leaves the old file. An object
in a bucket is put whole, so what is written is collected in a local file and put when complete.
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
"""Of a JSON file that is read whole: the largest tokenizers take 35 MB."""


@contextlib.contextmanager
def atomic_write(path: AnyPath | str, mode: str = "w") -> Iterator[IO[Any]]:
    """Opens a file that takes the name `path` only when the block ends without an error.

    Args:
      path: The target; its folder is made where it is missing.
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
    """Refuses what the disk has no room for; a bucket has room.

    Args:
      path: A folder that is there.
      needed: Bytes.
      what: What is to be written, e.g. `"a checkpoint"`.

    Raises:
      DiskFullError: Fewer bytes are free.
    """
    if isinstance(path, RemotePath):
        return
    free = shutil.disk_usage(path).free
    if free < needed:
        raise DiskFullError(
            f"no room left on the disk for {what} in {path}: it takes {needed:,} bytes and "
            f"{free:,} are free; free some space and run again."
        )


def write_json(path: AnyPath | str, value: Any) -> None:
    """Writes `value` as indented JSON, atomically; keys keep their order."""
    with atomic_write(path) as file:
        json.dump(value, file, indent=2, ensure_ascii=False)
        file.write("\n")


def read_json(path: AnyPath | str, *, max_bytes: int = MAX_JSON_BYTES) -> Any:
    """The value of a JSON file that others wrote.

    Args:
      path: The file.
      max_bytes: What is larger is not read.

    Raises:
      UserError: It cannot be read, is too large, or is no JSON.
    """
    if isinstance(path := as_path(path), Path) and path.exists() and not path.is_file():
        raise UserError(f"{path} is no file; check the path.")
    with open_input(path, "rb") as file:
        content = file.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise UserError(f"{path} is larger than {max_bytes:,} bytes, too large for what it is.")
    try:
        return json.loads(content.decode("utf-8"))
    except RecursionError:
        raise UserError(f"{path} is no valid JSON: it is nested too deeply.") from None
    except ValueError as error:
        raise UserError(f"{path} is no valid JSON: {error}.") from None


def read_object(path: AnyPath) -> dict[str, Any]:
    """The value of a file that `write_json` wrote as an object.

    Raises:
      UserError: It cannot be read, or its content is damaged.
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
        problem = "is no JSON object"
    raise UserError(
        f"{path} is damaged: it {problem}; put back a copy, or remove it and run the command that "
        "wrote it again."
    )


def write_array(path: AnyPath | str, array: "numpy.ndarray") -> None:
    """Writes an array as `.npy`, atomically."""
    import numpy as np

    # Through memory: numpy's own way into a file loses the reason of a failure (a full disk).
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    with atomic_write(path, "wb") as file:
        file.write(buffer.getbuffer())


def hash_file(path: AnyPath | str) -> str:
    """SHA-256 of a file's bytes, as 64 hex digits; reads it in pieces."""
    with open_input(path, "rb") as file:
        return hashlib.file_digest(cast(io.BufferedReader, file), "sha256").hexdigest()


def hash_json(value: Any) -> str:
    """SHA-256 of a JSON value that does not depend on the order of keys, as 64 hex digits."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


@contextlib.contextmanager
def open_input(path: AnyPath | str, mode: str = "r") -> Iterator[IO[Any]]:
    """Opens a file that the user named, for reading.

    A path under `configs/` that is not in the working folder is the file that the package ships.

    Raises:
      UserError: There is no such file, it is a folder, or it may not be read.
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
