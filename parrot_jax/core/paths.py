"""Paths on a disk or in a bucket: parsing, checks, and files that match a pattern."""

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
    """Parses a path; one with a scheme is in a bucket.

    >>> as_path("runs/a") / "config.yaml"
    PosixPath('runs/a/config.yaml')
    >>> as_path("gs://bucket/runs/a") / "config.yaml"
    RemotePath(url='gs://bucket/runs/a/config.yaml')

    Raises:
      UserError: It is neither a string nor a path.
    """
    if not isinstance(path, str | Path | RemotePath):
        raise UserError(f"a path is {path!r}; give a text or a pathlib.Path.")
    if isinstance(path, str) and _SCHEME.match(path):
        return RemotePath(path)
    return path if isinstance(path, RemotePath) else Path(path)


def require_local(path: str, what: str) -> None:
    """Rejects a path in a bucket.

    Args:
      path: The user's path.
      what: The name of the setting, e.g. `"data.cache_dir"`.

    Raises:
      UserError: The path has a scheme.
    """
    if isinstance(as_path(path), RemotePath):
        raise UserError(f"{what} is {path}; it must be on a local disk, not in a bucket.")


def require_page(path: str, what: str) -> None:
    """Rejects a path for a page that may be a data file, which the page would replace.

    Args:
      path: The user's path.
      what: The name of the setting, e.g. `"--out"`.

    Raises:
      UserError: The path is in a bucket, or does not end in `.html`.
    """
    require_local(path, what)
    if not path.endswith(".html"):
        raise UserError(f"{what} is {path}; the name of a page must end in .html.")


def require_local_folder(path: str, what: str) -> None:
    """Rejects a path that cannot become a local folder, before hours of work that would fill it.

    Args:
      path: The user's path.
      what: The name of the setting, e.g. `"out"`.

    Raises:
      UserError: The path is in a bucket, or the path or a parent is a file.
    """
    require_local(path, what)
    require_folder(path, what)


def require_folder(path: AnyPath | str, what: str) -> None:
    """Rejects a path where no folder can be created.

    Args:
      path: A folder that exists or will be created.
      what: The name of the setting, e.g. `"OUT"`.

    Raises:
      UserError: The path or a parent is a file.
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
            raise UserError(f"{what} is {path}, but {place} is not a folder; choose another path.")


def file_in(folder: PathT, name: str) -> PathT:
    """Returns the path of a file in an untrusted folder.

    Raises:
      UserError: `name` is not a plain file name, or is a link that leads out of the folder.
    """
    if name != Path(name).name or name in ("", ".", "..") or "\0" in name:
        raise UserError(
            f"{folder} refers to the file {name!r}; only files directly in the folder are read."
        )
    path: Any = folder / name
    if isinstance(path, Path) and isinstance(folder, Path):
        root = folder.resolve()
        # The hub's cache keeps the files of all revisions in one folder and links to them.
        roots = [root, root.parents[1] / "blobs"] if root.parent.name == "snapshots" else [root]
        target = path.resolve()
        if not any(target.is_relative_to(each) for each in roots):
            raise UserError(
                f"{path} is a link to {target}, outside its folder; replace it by the file itself."
            )
        if path.exists() and not path.is_file():
            raise UserError(f"{path} is not a file; check the path.")
    return cast(PathT, path)


def matching_files(pattern: AnyPath) -> list[str]:
    """Returns the files that match a pattern, sorted; `**` matches any folders.

    A file that matches under several names, e.g. through links, is returned once.

    Raises:
      UserError: A folder that may contain matches cannot be listed.
    """
    if isinstance(pattern, RemotePath):
        return pattern.matches()
    for folder in _listed_folders(pattern):
        # `glob` silently skips folders that it may not read.
        if not os.access(folder, os.R_OK | os.X_OK):
            raise UserError(
                f"cannot list the folder {folder}, where files may match {pattern}; check its "
                "permissions or change the pattern."
            )
    found: dict[str, str] = {}
    for name in sorted(glob.glob(str(pattern), recursive=True), key=lambda n: (len(n), n)):
        if Path(name).is_file():
            found.setdefault(os.path.realpath(name), name)
    return sorted(found.values())


def _listed_folders(pattern: Path) -> Iterator[str]:
    """Yields the folders that `glob` lists for this pattern."""
    for place, part in enumerate(pattern.parts):
        if glob.has_magic(part):
            inside = "**" if part == "**" else ""
            folders = str(Path(*pattern.parts[:place], inside))
            yield from filter(os.path.isdir, glob.iglob(folders, recursive=True))
