"""Opens files as byte streams and decompresses them; the first bytes decide, not the name.

The output is read in pieces, so a small file with a huge row costs no more memory than a large one.
"""

import contextlib
import io
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from parrot_jax.core.errors import UserError
from parrot_jax.core.files import open_input
from parrot_jax.core.paths import AnyPath, as_path

PARQUET = b"PAR1"
_GZIP, _ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
_ZSTD_SKIPPED = tuple(bytes([kind, 0x2A, 0x4D, 0x18]) for kind in range(0x50, 0x60))
"""Magic numbers of skippable Zstandard frames; RFC 8878, section 3.1.2."""
_UNREAD = {
    b"PK\x03\x04": "a zip file; unpack it",
    b"BZh": "a bzip2 file; unpack it with `bunzip2`, or compress it with gzip or zstd",
    b"\xfd7zXZ": "an xz file; unpack it with `unxz`, or compress it with gzip or zstd",
    b"SQLite format 3": "an SQLite database; export its dialogues first",
    b"ARROW1": "an Arrow file; save it as Parquet",
}
_BUFFER_BYTES = 1 << 16


class DamagedFileError(Exception):
    """A compressed file is truncated or damaged."""


def first_bytes(path: AnyPath | str) -> bytes:
    """The first 16 bytes of a file.

    Raises:
      UserError: The file cannot be opened, or its format is not supported.
    """
    if isinstance(path := as_path(path), Path) and path.exists() and not path.is_file():
        # Files are read more than once, which a pipe does not allow.
        raise UserError(f"{path} is a pipe, a folder or a device; save the rows to a file first.")
    with open_input(path, "rb") as file:
        start = file.read(16)
    for mark, what in _UNREAD.items():
        if start.startswith(mark):
            raise UserError(f"{path} is {what}.")
    return start


def is_packed(start: bytes) -> bool:
    """Whether a file that begins with these bytes is compressed with gzip or Zstandard."""
    return start.startswith((_GZIP, _ZSTD, *_ZSTD_SKIPPED))


@contextlib.contextmanager
def open_unpacked(path: AnyPath | str) -> Iterator[IO[bytes]]:
    """Opens a file for reading; decompresses gzip and Zstandard.

    Raises:
      UserError: See `first_bytes`.
      DamagedFileError: While reading, if the compressed data is truncated or damaged.
    """
    start = first_bytes(path)
    with open_input(path, "rb") as file:
        if start.startswith(_GZIP):
            import gzip

            unpacked = _Unpacked(gzip.GzipFile(fileobj=file, mode="rb"), (OSError, zlib.error))
        elif start.startswith((_ZSTD, *_ZSTD_SKIPPED)):
            zstd = _zstd()
            unpacked = _Unpacked(zstd.ZstdFile(file, mode="rb"), (OSError, zstd.ZstdError))
        else:
            yield file
            return
        yield io.BufferedReader(unpacked, _BUFFER_BYTES)


class _Unpacked(io.RawIOBase):
    """Wraps a decompressor and unifies its errors."""

    mode, name = "rb", ""  # for `typing.IO`

    def __init__(self, file: Any, errors: tuple[type[Exception], ...]) -> None:
        self._file, self._errors = file, errors

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            piece = self._file.read(len(buffer))
        except EOFError:
            raise DamagedFileError("the compressed file ends too early") from None
        except self._errors as error:
            raise DamagedFileError(f"the compressed data is damaged: {error}") from None
        buffer[: len(piece)] = piece
        return len(piece)


def _zstd() -> Any:
    if sys.version_info >= (3, 14):
        from compression import zstd
    else:
        from backports import zstd
    return zstd
