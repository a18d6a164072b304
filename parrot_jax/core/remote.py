"""Paths in buckets, e.g. `gs://bucket/runs/a`. The only file that uses fsspec.

Objects are uploaded atomically and streamed when read.
"""

import contextlib
import errno
import io
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from parrot_jax.core.errors import ParrotError, UserError

_EXTRAS = {"gs": "install it with `pip install 'parrot-jax[gcs]'`"}
_READ_BYTES = 1 << 20


@dataclass(frozen=True)
class RemotePath:
    """A path in a bucket, with the methods of `pathlib.Path` that we use.

    It is not an `os.PathLike`, so code for local files rejects it instead of creating a folder
    named `gs:`. A missing object raises `FileNotFoundError`, as on a disk; other failures raise
    `UserError`.
    """

    url: str
    """As the user wrote it, e.g. `gs://bucket/runs/a`."""

    def __str__(self) -> str:
        return self.url

    def __truediv__(self, name: str) -> "RemotePath":
        return RemotePath(f"{self.url.rstrip('/')}/{name}")

    @property
    def scheme(self) -> str:
        """The part before `://`."""
        return self.url.partition("://")[0]

    @property
    def name(self) -> str:
        """The last component."""
        return self.url.rstrip("/").rpartition("/")[2]

    @property
    def suffix(self) -> str:
        """The file extension, with its dot."""
        return Path(self.name).suffix

    def absolute(self) -> "RemotePath":
        """Returns itself: a URL is always absolute."""
        return self

    resolve = expanduser = absolute

    def exists(self) -> bool:
        """Whether there is an object at this path, or any below it."""
        return self._kind() is not None

    def is_file(self) -> bool:
        """Whether there is an object at this path."""
        return self._kind() == "file"

    def is_dir(self) -> bool:
        """Whether there are objects below this path."""
        return self._kind() == "directory"

    def mkdir(self, *, parents: bool = False, exist_ok: bool = False) -> None:
        """Does nothing: a bucket has no folders, only objects with slashes in their names."""

    def open(self, mode: str = "r", *, encoding: str | None = None) -> Any:
        """Opens the object for reading, as text or, with mode `"rb"`, as bytes; streams it."""
        with self._clear_errors("read"):
            stream = _Stream(self, self._store().open(self.url, "rb"))
        # The file objects of fsspec do not support a size limit in `readline`.
        file = io.BufferedReader(stream, _READ_BYTES)
        return file if "b" in mode else io.TextIOWrapper(file, encoding)

    def read_bytes(self) -> bytes:
        """Returns the whole object."""
        with self.open("rb") as file:
            return file.read()

    def read_text(self, encoding: str = "utf-8") -> str:
        """Returns the whole object as text."""
        return self.read_bytes().decode(encoding)

    def put(self, file: Path) -> None:
        """Uploads a local file to this path, atomically."""
        try:
            with self._clear_errors("write"):
                self._store().put_file(str(file), self.url)
        except FileNotFoundError:
            raise UserError(
                f"cannot write {self}: there is no such bucket; create it or correct the path."
            ) from None

    def matches(self) -> list[str]:
        """Returns the objects that match this path as a glob (`*`, `?`, `[]`, `**`), sorted."""
        with self._clear_errors("read"):
            store = self._store()
            found = store.glob(self.url, detail=True)
            return sorted(
                store.unstrip_protocol(name)
                for name, info in found.items()
                if info["type"] == "file"
            )

    def _kind(self) -> str | None:
        try:
            with self._clear_errors("read"):
                return self._store().info(self.url)["type"]
        except FileNotFoundError:
            return None

    def _store(self) -> Any:
        import fsspec

        try:
            # Other processes write here too, so a cached listing may be stale.
            return fsspec.filesystem(self.scheme, use_listings_cache=False)
        except (ImportError, ValueError) as error:  # a missing library, an unknown scheme
            hint = _EXTRAS.get(self.scheme, "install the package it names or correct the path")
            raise UserError(f"cannot use {self}: {error}; {hint}.") from error

    @contextlib.contextmanager
    def _clear_errors(self, doing: str) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError as error:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self)) from error
        except ParrotError:
            raise
        except Exception as error:  # fsspec's backends share no base class of exceptions
            reason = " ".join(str(error).split()) or type(error).__name__
            raise UserError(
                f"cannot {doing} {self}: {reason[:300]}; check the path, the network, and that "
                f"your account may {doing} there."
            ) from error


class _Stream(io.RawIOBase):
    """An object opened for reading."""

    mode = "rb"  # `typing.IO` has `mode` and `name`, `io.RawIOBase` does not

    def __init__(self, path: RemotePath, file: Any) -> None:
        self._path, self._file = path, file
        self.name = str(path)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        with self._path._clear_errors("read"):
            return self._file.readinto(buffer)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def close(self) -> None:
        self._file.close()
        super().close()
