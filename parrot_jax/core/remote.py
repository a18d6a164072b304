"""Paths in buckets, such as `gs://bucket/runs/a`: the one place that knows fsspec.

An object is put whole or not at all, and streamed when it is read.
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
    """A path in a bucket, with the part of `pathlib.Path` that we use.

    It is no `os.PathLike`: what knows only local files refuses it, instead of making a folder
    named `gs:`. A missing object is a `FileNotFoundError`, as it is on a disk; what else goes wrong
    on the way is a `UserError`.
    """

    url: str
    """As the user wrote it, e.g. `gs://bucket/runs/a`."""

    def __str__(self) -> str:
        return self.url

    def __truediv__(self, name: str) -> "RemotePath":
        return RemotePath(f"{self.url.rstrip('/')}/{name}")

    @property
    def scheme(self) -> str:
        """What stands before `://`."""
        return self.url.partition("://")[0]

    @property
    def name(self) -> str:
        """The last part."""
        return self.url.rstrip("/").rpartition("/")[2]

    @property
    def suffix(self) -> str:
        """The last part from its last dot on."""
        return Path(self.name).suffix

    def absolute(self) -> "RemotePath":
        """Itself."""
        return self

    resolve = expanduser = absolute

    def exists(self) -> bool:
        """Whether there is an object, or there are objects below it."""
        return self._kind() is not None

    def is_file(self) -> bool:
        """Whether there is an object."""
        return self._kind() == "file"

    def is_dir(self) -> bool:
        """Whether there are objects below it."""
        return self._kind() == "directory"

    def mkdir(self, *, parents: bool = False, exist_ok: bool = False) -> None:
        """Does nothing: a bucket has no folders, only objects with slashes in their names."""

    def open(self, mode: str = "r", *, encoding: str | None = None) -> Any:
        """Opens the object for reading, as text or, with mode `"rb"`, as bytes; it is streamed."""
        with self._clear_errors("read"):
            stream = _Stream(self, self._store().open(self.url, "rb"))
        # The stores' own files know no `readline` with a limit.
        file = io.BufferedReader(stream, _READ_BYTES)
        return file if "b" in mode else io.TextIOWrapper(file, encoding)

    def read_bytes(self) -> bytes:
        """The whole object."""
        with self.open("rb") as file:
            return file.read()

    def read_text(self, encoding: str = "utf-8") -> str:
        """The whole object as text."""
        return self.read_bytes().decode(encoding)

    def put(self, file: Path) -> None:
        """Makes a local file the content of the object, in one step."""
        try:
            with self._clear_errors("write"):
                self._store().put_file(str(file), self.url)
        except FileNotFoundError:
            raise UserError(
                f"cannot write {self}: there is no such bucket; make it, or correct the path."
            ) from None

    def matches(self) -> list[str]:
        """The objects whose names match, `*`, `?`, `[]` and `**` being what they are in a glob."""
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
            # Other processes write here too: what a listing said before may not be true any more.
            return fsspec.filesystem(self.scheme, use_listings_cache=False)
        except (ImportError, ValueError) as error:  # a missing library, an unknown scheme
            hint = _EXTRAS.get(self.scheme, "install what it names, or correct the path")
            raise UserError(f"cannot use {self}: {error}; {hint}.") from error

    @contextlib.contextmanager
    def _clear_errors(self, doing: str) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError as error:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self)) from error
        except ParrotError:
            raise
        except Exception as error:  # the libraries behind fsspec have no common base for theirs
            reason = " ".join(str(error).split()) or type(error).__name__
            raise UserError(
                f"cannot {doing} {self}: {reason[:300]}; check the path, the network, and whether "
                f"your account may {doing} there."
            ) from error


class _Stream(io.RawIOBase):
    """An object that is being read."""

    mode = "rb"  # this and the name are what `typing.IO` has besides

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
