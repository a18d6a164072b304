"""Files written whole or not at all, content hashes, and the one place that knows of buckets.

A reader never sees half a file: the bytes go to a temporary name beside the target, are flushed to
the disk, and take the target's name in one step. A kill in between leaves the old file.

A path with a scheme, such as `gs://bucket/runs/a`, names an object in a bucket. An object is put
whole or not at all, so what is written is collected in a local file and put when it is complete.
"""

import contextlib
import errno
import glob
import hashlib
import io
import json
import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeAlias, TypeVar, cast

from parrot_jax.core.errors import ParrotError, UserError
from parrot_jax.core.shipped import shipped_file

if TYPE_CHECKING:
    import numpy

_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*://")
_EXTRAS = {"gs": "install it with `pip install 'parrot-jax[gcs]'`"}
_READ_BYTES = 1 << 20

MAX_JSON_BYTES = 200 * 2**20
"""Of a JSON file that is read whole: the largest tokenizers take 35 MB."""


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


AnyPath: TypeAlias = Path | RemotePath
"""A path on a disk or in a bucket."""

PathT = TypeVar("PathT", bound=AnyPath)


def as_path(path: AnyPath | str) -> AnyPath:
    """The path that a text names; one with a scheme is in a bucket.

    >>> as_path("runs/a") / "config.yaml"
    PosixPath('runs/a/config.yaml')
    >>> as_path("gs://bucket/runs/a") / "config.yaml"
    RemotePath(url='gs://bucket/runs/a/config.yaml')
    """
    if isinstance(path, str) and _SCHEME.match(path):
        return RemotePath(path)
    return path if isinstance(path, RemotePath) else Path(path)


def require_local(path: str, what: str) -> None:
    """Refuses a path in a bucket.

    Args:
      path: What the user gave.
      what: What it is, e.g. `"data.cache_dir"`.

    Raises:
      UserError: It has a scheme.
    """
    if isinstance(as_path(path), RemotePath):
        raise UserError(f"{what} is {path}; it must be on a local disk, not in a bucket.")


def require_local_folder(path: str, what: str) -> None:
    """Refuses what cannot become a folder, before hours are spent on what it is to hold.

    Args:
      path: What the user gave.
      what: What it is, e.g. `"out"`.

    Raises:
      UserError: It is in a bucket, or a file stands in its way.
    """
    require_local(path, what)
    folder = Path(path)
    for place in (folder, *folder.parents):
        if place.is_dir():
            return
        if place.exists() or place.is_symlink():
            raise UserError(f"{what} is {path}, but {place} is no folder; choose another one.")


_PUBLIC_SCHEMES = ("hf://", "http://", "https://")
_LIKE_A_PATH = re.compile(
    r"""[/\\]                     # /home, \\host\share
    | ~[\w.-]*[/\\]              # ~/data, ~ann/data
    | \.{1,2}[/\\] | [a-z]:[/\\]
    | .*[/\\].*\.(jsonl?|gz|zst|parquet|csv|txt|arrow)$
    | file: | [a-z0-9+.-]+://""",
    re.I | re.X,
)


def without_folders(path: str) -> str:
    """What may be published of a path: its last part, or all of an address that others can open.

    >>> [without_folders(path) for path in ("/home/ann/people.jsonl", "hf://allenai/WildChat")]
    ['people.jsonl', 'hf://allenai/WildChat']
    """
    if path.startswith(_PUBLIC_SCHEMES):
        return path
    return re.split(r"[/\\]", path.rstrip("/\\"))[-1] or path


def name_to_publish(text: str) -> str:
    """A text that may be a path, such as the name of a model: without folders where it is one.

    A text of several lines is not a path.

    >>> [name_to_publish(name) for name in ("/srv/llama-3", "meta-llama/Llama-3", "a/b.jsonl")]
    ['llama-3', 'meta-llama/Llama-3', 'b.jsonl']
    """
    name = text.strip()
    return without_folders(name) if "\n" not in name and _LIKE_A_PATH.match(name) else text


def value_to_publish(value: Any) -> Any:
    r"""A JSON value with `name_to_publish` of each text in it, keys included.

    >>> value_to_publish({"file": "/home/ann/a.json", "turns": [2, "C:\\data\\b"]})
    {'file': 'a.json', 'turns': [2, 'b']}
    """
    if isinstance(value, str):
        return name_to_publish(value)
    if isinstance(value, Mapping):
        published: dict[str, Any] = {}
        for key, inner in value.items():
            name = name_to_publish(key)
            while name in published:  # two folders may hold files of one name
                name += "+"
            published[name] = value_to_publish(inner)
        return published
    if isinstance(value, list | tuple):
        return [value_to_publish(inner) for inner in value]
    return value


def matching_files(pattern: AnyPath) -> list[str]:
    """The files that a pattern names, sorted; `**` stands for any folders.

    A file with several names among them, as in a folder that links to itself, comes once.

    Raises:
      UserError: A folder in which files may match cannot be listed.
    """
    if isinstance(pattern, RemotePath):
        return pattern.matches()
    for folder in _listed_folders(pattern):
        # `glob` itself leaves out what it may not read, without a word.
        if not os.access(folder, os.R_OK | os.X_OK):
            raise UserError(
                f"cannot list the folder {folder}, where files may match {pattern}; check your "
                "rights, or name the files otherwise."
            )
    found: dict[str, str] = {}
    for name in sorted(glob.glob(str(pattern), recursive=True), key=lambda n: (len(n), n)):
        if Path(name).is_file():
            found.setdefault(os.path.realpath(name), name)
    return sorted(found.values())


def _listed_folders(pattern: Path) -> Iterator[str]:
    """The folders whose entries `glob` compares with a part of the pattern."""
    for place, part in enumerate(pattern.parts):
        if glob.has_magic(part):
            inside = "**" if part == "**" else ""
            folders = str(Path(*pattern.parts[:place], inside))
            yield from filter(os.path.isdir, glob.iglob(folders, recursive=True))


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


def file_in(folder: PathT, name: str) -> PathT:
    """The path of a file in a folder that others made.

    Raises:
      UserError: `name` is no plain file name, or a link that leads out of the folder.
    """
    if name != Path(name).name or name in ("", ".", "..") or "\0" in name:
        raise UserError(f"{folder} names the file {name!r}; only files in it itself are read.")
    path: Any = folder / name
    if isinstance(path, Path) and isinstance(folder, Path):
        root = folder.resolve()
        # The hub's cache keeps the files of all revisions in one folder, and links to them.
        roots = [root, root.parents[1] / "blobs"] if root.parent.name == "snapshots" else [root]
        target = path.resolve()
        if not any(target.is_relative_to(each) for each in roots):
            raise UserError(
                f"{path} is a link to {target}, outside its folder; put the file itself there."
            )
        if path.exists() and not path.is_file():
            raise UserError(f"{path} is no file; check the path.")
    return cast(PathT, path)


def require_folder(path: AnyPath | str, what: str) -> None:
    """Refuses a path at which no folder can be made.

    Args:
      path: Where a folder is or will be made.
      what: What it is, e.g. `"OUT"`.

    Raises:
      UserError: It is a file, or below one.
    """
    path = as_path(path)
    if isinstance(path, RemotePath):
        if path.is_file():
            raise UserError(f"{what} is {path}, which is a file; name a folder.")
        return
    for place in (path, *path.parents):
        if place.is_dir():
            return
        if place.exists() or place.is_symlink():
            raise UserError(f"{what} is {path}, but {place} is no folder; name another.")


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
