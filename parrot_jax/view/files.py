"""Finds out what has changed in the files of a path, and reads it into an index.

Of JSON lines, the index knows which bytes were read. Other files (lists, Parquet, compressed ones)
are read as a stream from the beginning.
"""

import hashlib
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import cast

from parrot_jax.core.errors import UserError
from parrot_jax.core.paths import as_path
from parrot_jax.core.remote import RemotePath
from parrot_jax.dialogue.json_stream import holds_lines
from parrot_jax.dialogue.readers import FileKind
from parrot_jax.dialogue.sources import SourceConfig, read_sources, source_files
from parrot_jax.dialogue.types import is_unicode
from parrot_jax.view.lines import digest_of, read_lines
from parrot_jax.view.shown import Shown
from parrot_jax.view.streams import RejectingReport, read_stream
from parrot_jax.view.writing import IndexWriter

_ELSEWHERE = "elsewhere"
_HUB_DIALOGUES = 1000
"""Of a data set of the hub, only the first ones are read."""


class DialogueFiles:
    """The files of a path."""

    kind: str

    def __init__(self, source: SourceConfig) -> None:
        """Takes what `source_of` found at a path."""
        if source.kind == "huggingface":
            source = replace(source, limit=_HUB_DIALOGUES)
        self._source = source
        self._share: float | None = None
        self._seen = ""
        self._grown: set[str] = set()
        """The files that this process has read to their end."""
        self._problem: UserError | None = None
        self.kind = source.kind

    @property
    def key(self) -> str:
        """Identifies the path, as an index does."""
        path = as_path(self._source.path)
        place = path.expanduser().absolute() if isinstance(path, Path) else path
        return f"{self._source.kind}:{place}"

    def live_text(self, shown: Shown) -> None:
        """Files do not say what is trained on."""

    def progress(self) -> float | None:
        """The share that was read; None = unknown."""
        return self._share

    def update(self, index: IndexWriter) -> Iterator[None]:
        """Brings an index up to date; each step is saved.

        Raises:
          UserError: A file cannot be read, or its rows are of another kind.
        """
        files = source_files(self._source)
        if unfit := next((file for file in files if not is_unicode(file)), None):
            raise UserError(f"the file name {unfit!r} is not valid UTF-8; rename the file.")
        stamp = stamp_of(files)
        if stamp == self._seen:
            if self._problem is not None:
                raise self._problem
            return
        self._problem = None
        try:
            yield from self._read(index, files)
        except UserError as error:
            self._problem = error
        # A file that changed meanwhile has another stamp, and is looked at again.
        self._seen, self._share = stamp, 1.0
        if self._problem is not None:
            raise self._problem

    def _read(self, index: IndexWriter, files: list[str]) -> Iterator[None]:
        if self._source.kind != "huggingface" and all(map(_takes_more, files)):
            yield from self._lines(index, files)
        else:
            yield from self._stream(index, files)

    def _lines(self, index: IndexWriter, files: list[str]) -> Iterator[None]:
        index.belong_to("")
        is_same = set(index.files()) <= set(files)
        if not (is_same and all(self._is_still_there(index, file) for file in files)):
            index.start_over()
            self._grown.clear()
        sizes = {file: os.stat(file).st_size for file in files}
        done = {file: index.file(file).stop for file in files}
        for file in files:
            for state in read_lines(
                index,
                file,
                cast(FileKind, self._source.kind),
                is_checked=file not in self._grown,
            ):
                done[file] = state.stop
                self._share = min(1.0, sum(done.values()) / max(sum(sizes.values()), 1))
                yield
            self._grown.add(file)

    def _is_still_there(self, index: IndexWriter, file: str) -> bool:
        """Whether the bytes that were read are unchanged.

        All of them are read if the file seems to differ from what an earlier process saw. While it
        grows under our eyes, the first and the last piece suffice. That is not recorded as seen, so
        the next process reads them all.
        """
        state, pieces = index.file(file), index.pieces(file)
        seen = os.stat(file)
        if (seen.st_size, seen.st_ctime_ns) == (state.size, state.ctime_ns):
            return True
        if seen.st_size < state.stop:
            return False
        if file in self._grown:
            pieces = [*pieces[:1], *pieces[-1:]]
        with open(file, "rb") as raw:
            return all(digest_of(raw, piece.start, piece.stop) == piece.digest for piece in pieces)

    def _stream(self, index: IndexWriter, files: list[str]) -> Iterator[None]:
        report = RejectingReport()
        dialogues = read_sources([self._source], seed=0, report=report)
        yield from read_stream(index, _identity(files), dialogues, report)


def _takes_more(file: str) -> bool:
    path = as_path(file)
    return not isinstance(path, RemotePath) and holds_lines(path)


def stamp_of(files: list[str]) -> str:
    """Changes when a file does; always the same for files that are elsewhere."""
    if any(isinstance(as_path(file), RemotePath) or not os.path.isfile(file) for file in files):
        return _ELSEWHERE
    seen = [(file, os.stat(file)) for file in files]
    return repr([(file, stat.st_size, stat.st_ctime_ns) for file, stat in seen])


def _identity(files: list[str]) -> str:
    """Identifies the content of files; empty for files that are elsewhere."""
    if stamp_of(files) == _ELSEWHERE:
        return ""
    digest = hashlib.sha256()
    for file in files:
        with open(file, "rb") as raw:
            digest.update(f"{file}\n".encode() + digest_of(raw, 0, os.fstat(raw.fileno()).st_size))
    return digest.hexdigest()
