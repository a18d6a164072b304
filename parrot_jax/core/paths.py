"""Paths on a disk or in a bucket: what a text or a pattern names, and which paths are refused."""

import glob
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeAlias, TypeVar, cast

from parrot_jax.core.errors import UserError
from parrot_jax.core.remote import RemotePath

_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*://")

AnyPath: TypeAlias = Path | RemotePath
"""A path on a disk or in a bucket."""

PathT = TypeVar("PathT", bound=AnyPath)


def as_path(path: AnyPath | str) -> AnyPath:
    """The path that a text names; one with a scheme is in a bucket.

    >>> as_path("runs/a") / "config.yaml"
    PosixPath('runs/a/config.yaml')
    >>> as_path("gs://bucket/runs/a") / "config.yaml"
    RemotePath(url='gs://bucket/runs/a/config.yaml')

    Raises:
      UserError: It is neither a text nor a path.
    """
    if not isinstance(path, str | Path | RemotePath):
        raise UserError(f"a path is {path!r}; give a text or a pathlib.Path.")
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
    require_folder(path, what)


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
            raise UserError(f"{what} is {path}, but {place} is no folder; choose another one.")


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
