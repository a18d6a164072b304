"""Reads files of dialogues into an index: from where it stopped, and what was appended.

Of JSON lines, the index knows which bytes were read. Other files (lists, Parquet, compressed ones)
are read as a stream from the beginning; what the index has already is passed over.
"""

import hashlib
import itertools
import os
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import IO, cast

from parrot_jax.core.errors import UserError
from parrot_jax.core.paths import as_path
from parrot_jax.core.remote import RemotePath
from parrot_jax.dialogue.json_stream import holds_lines, line_rows
from parrot_jax.dialogue.readers import PARSERS, FileKind, ReadRow, WrongKindError, parse_row
from parrot_jax.dialogue.report import ReadReport, SourceCounts
from parrot_jax.dialogue.sources import SourceConfig, read_sources, source_files
from parrot_jax.dialogue.types import Dialogue
from parrot_jax.view.shown import Shown, show_dialogue
from parrot_jax.view.writing import FileState, IndexWriter, Piece

ROWS_AT_ONCE = 500
"""Rows that are saved together."""

_CHUNK_BYTES = 1 << 20
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
        if (seen.st_size, seen.st_mtime_ns) == (state.size, state.mtime_ns):
            return True
        if seen.st_size < state.stop:
            return False
        if file in self._grown:
            pieces = [*pieces[:1], *pieces[-1:]]
        with open(file, "rb") as raw:
            return all(_digest(raw, piece.start, piece.stop) == piece.digest for piece in pieces)

    def _stream(self, index: IndexWriter, files: list[str]) -> Iterator[None]:
        report = RejectingReport()
        dialogues = read_sources([self._source], seed=0, report=report)
        yield from read_stream(index, _identity(files), dialogues, report)


class RejectingReport(ReadReport):
    """Counts, and keeps the rejected rows until they are saved."""

    def __init__(self) -> None:
        """Starts at zero."""
        super().__init__()
        self.rejected: list[tuple[str, str]] = []

    def count(self, counts: SourceCounts, row: ReadRow) -> None:
        """Adds one row."""
        super().count(counts, row)
        if row.problem is not None:
            self.rejected.append((f"{row.place.source}:{row.place.line}", str(row.problem)))


def read_stream(
    index: IndexWriter, identity: str, dialogues: Iterator[Dialogue], report: RejectingReport
) -> Iterator[None]:
    """Reads a stream of dialogues into an index.

    Args:
      index: If it has another identity, it is started over; else what it has is passed over.
      identity: Identifies the content of the stream; empty = unknown.
      dialogues: The stream.
      report: Filled by it.

    Yields:
      After each step that was saved.

    Raises:
      UserError: See `read_sources`.
    """
    index.belong_to(identity or f"unknown {time.time_ns()}")
    if index.about("is_complete"):
        return
    there = index.num_dialogues()
    for _ in itertools.islice(dialogues, there):
        report.rejected.clear()
    try:
        while block := list(itertools.islice(_placed(dialogues, report), ROWS_AT_ONCE)):
            with index.saving():
                for dialogue, place, repairs in block:
                    index.put(show_dialogue(dialogue, place, repairs))
                _save_rejected(index, report)
            yield
    except UserError:  # not one usable row
        with index.saving():
            _save_rejected(index, report)
        raise
    with index.saving():
        _save_rejected(index, report)
        index.set_about("is_complete", "yes")


def _placed(
    dialogues: Iterator[Dialogue], report: RejectingReport
) -> Iterator[tuple[Dialogue, str, dict[str, int]]]:
    for dialogue in dialogues:
        place = report.place
        assert place is not None  # the row of this dialogue
        yield dialogue, f"{place.source}:{place.line}", dict(place.repairs)


def _save_rejected(index: IndexWriter, report: RejectingReport) -> None:
    for place, problem in report.rejected:
        index.reject(place, problem)
    report.rejected.clear()


def read_lines(
    index: IndexWriter, file: str, kind: FileKind, *, is_checked: bool
) -> Iterator[FileState]:
    """Reads what is new in a file of JSON lines.

    Args:
      index: Knows how far the file was read.
      file: Its path.
      kind: The format of its rows.
      is_checked: Whether all bytes that were read are known to be unchanged.

    Yields:
      How far it was read, after each step that was saved.

    Raises:
      UserError: The file cannot be opened, or its first row is of another kind.
    """
    state = index.file(file)
    with open(file, "rb") as raw:
        seen = os.fstat(raw.fileno())
        if (state.size, state.mtime_ns) == (seen.st_size, seen.st_mtime_ns):
            return
        while True:
            raw.seek(state.stop)
            reader = _Hashed(raw)
            rows = line_rows(reader.readline, first_line=state.lines + 1)
            block, unfinished = [], ""
            for row in itertools.islice(rows, ROWS_AT_ONCE):
                if row.problem is not None and not reader.at_line_end:
                    unfinished = f"{file}:{row.line}: {row.problem}"
                    break
                block.append(parse_row(row, file, PARSERS[kind]))
                reader.mark()
            is_end = bool(unfinished) or len(block) < ROWS_AT_ONCE
            if block and not state.stop:
                _check_kind(block[0], kind)
            new = FileState(
                seen.st_size if is_end and is_checked else -1,
                seen.st_mtime_ns if is_end and is_checked else -1,
                state.stop + reader.marked_bytes,
                state.lines + reader.marked_lines,
                unfinished,
            )
            piece = Piece(state.stop, new.stop, reader.marked_digest) if block else None
            with index.saving():
                for read in block:
                    _save(index, read)
                index.set_file(file, new, piece)
            state = new
            yield state
            if is_end:
                return


def _save(index: IndexWriter, row: ReadRow) -> None:
    place = f"{row.place.source}:{row.place.line}"
    if row.problem is not None:
        index.reject(place, str(row.problem))
    for dialogue in row.dialogues:
        index.put(show_dialogue(dialogue, place, row.place.repairs))


def _check_kind(row: ReadRow, kind: str) -> None:
    if isinstance(row.problem, WrongKindError):
        raise UserError(
            f"{row.place.source}:{row.place.line}: not a row of kind {kind!r}: {row.problem}."
        )


class _Hashed:
    """A file that is read by lines; counts and hashes the bytes up to a mark."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._digest = hashlib.sha256()
        self._bytes = self._lines = 0
        self.at_line_end = True
        self.mark()

    def readline(self, most: int) -> bytes:
        line = self._file.readline(most)
        if line:
            self._digest.update(line)
            self._bytes += len(line)
            self.at_line_end = line.endswith(b"\n")
            self._lines += self.at_line_end
        return line

    def mark(self) -> None:
        self.marked_bytes, self.marked_lines = self._bytes, self._lines
        self.marked_digest = self._digest.digest()


def _takes_more(file: str) -> bool:
    path = as_path(file)
    return not isinstance(path, RemotePath) and holds_lines(path)


def _digest(file: IO[bytes], start: int, stop: int) -> bytes:
    digest, left = hashlib.sha256(), stop - start
    file.seek(start)
    while left and (chunk := file.read(min(left, _CHUNK_BYTES))):
        digest.update(chunk)
        left -= len(chunk)
    return digest.digest()


def stamp_of(files: list[str]) -> str:
    """Changes when a file does; always the same for files that are elsewhere."""
    if any(isinstance(as_path(file), RemotePath) or not os.path.isfile(file) for file in files):
        return _ELSEWHERE
    seen = [(file, os.stat(file)) for file in files]
    return repr([(file, stat.st_size, stat.st_mtime_ns) for file, stat in seen])


def _identity(files: list[str]) -> str:
    """Identifies the content of files; empty for files that are elsewhere."""
    if stamp_of(files) == _ELSEWHERE:
        return ""
    digest = hashlib.sha256()
    for file in files:
        with open(file, "rb") as raw:
            digest.update(f"{file}\n".encode() + _digest(raw, 0, os.fstat(raw.fileno()).st_size))
    return digest.hexdigest()
