"""Reads a file of JSON lines into an index: from where it stopped, and what was appended."""

import hashlib
import itertools
import os
from collections.abc import Iterator
from typing import IO

from parrot_jax.core.errors import UserError
from parrot_jax.dialogue.json_stream import line_rows
from parrot_jax.dialogue.readers import PARSERS, FileKind, ReadRow, WrongKindError, parse_row
from parrot_jax.view.shown import show_dialogue
from parrot_jax.view.writing import BYTES_AT_ONCE, ROWS_AT_ONCE, FileState, IndexWriter, Piece

_CHUNK_BYTES = 1 << 20


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
        if (state.size, state.ctime_ns) == (seen.st_size, seen.st_ctime_ns):
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
                if reader.marked_bytes >= BYTES_AT_ONCE:
                    break
            is_full = len(block) == ROWS_AT_ONCE or reader.marked_bytes >= BYTES_AT_ONCE
            is_end = bool(unfinished) or not is_full
            if block and not state.stop:
                _check_kind(block[0], kind)
            new = FileState(
                seen.st_size if is_end and is_checked else -1,
                seen.st_ctime_ns if is_end and is_checked else -1,
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


def digest_of(file: IO[bytes], start: int, stop: int) -> bytes:
    """SHA-256 of some bytes of a file."""
    digest, left = hashlib.sha256(), stop - start
    file.seek(start)
    while left and (chunk := file.read(min(left, _CHUNK_BYTES))):
        digest.update(chunk)
        left -= len(chunk)
    return digest.digest()
