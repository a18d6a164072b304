"""Finds the elements of one big JSON list without parsing them.

It reads only quotes, brackets and commas, so one malformed element does not affect the others.
"""

import re
from collections.abc import Iterator
from typing import IO, Literal

_STRUCTURE = re.compile(rb'["\[\]{},]')
# Stops at the closing quote, at the end of the data, or at a raw newline, which is illegal in a
# JSON string and means that an earlier quote was not escaped.
_STRING_REST = re.compile(rb'[^"\\\n]*(?:\\[^\n][^"\\\n]*)*')

PieceEnd = Literal["comma", "list", "after list", "file", "too long"]


def list_pieces(
    file: IO[bytes], chunk_bytes: int, max_row_bytes: int
) -> Iterator[tuple[bytes, PieceEnd]]:
    """Cuts a file that is one JSON list into the bytes of its elements.

    Args:
      file: At its start, before white space and the opening bracket.
      chunk_bytes: Bytes to read at once, >= 1.
      max_row_bytes: Reading stops at an element that is longer by more than a chunk, >= 1.

    Yields:
      The bytes between two commas, including white space, and what ended them. The pieces contain
      all newlines of the file, so that lines can be counted.
    """
    cutter = _ListCutter()
    while chunk := file.read(chunk_bytes):
        cutter.data += chunk
        for raw, end in cutter.pieces():
            yield raw, end
            if end == "list":
                yield bytes(cutter.data + file.read(chunk_bytes)), "after list"
                return
        if len(cutter.data) > max_row_bytes:
            yield bytes(cutter.data), "too long"
            return
    yield bytes(cutter.data), "file"


class _ListCutter:
    """Finds the ends of list elements in chunks of bytes, visiting each byte once."""

    def __init__(self) -> None:
        self.data = bytearray()
        """The bytes from the start of the current element; the caller appends to it."""
        self._position = 0
        self._depth = 0
        self._in_string = False
        self._opened = False
        self._next_row: re.Pattern[bytes] | None = None

    def pieces(self) -> Iterator[tuple[bytes, PieceEnd]]:
        """Yields the elements that end in the data so far."""
        while self._find_structure():
            mark = self.data[self._position - 1 : self._position]
            if not self._opened:  # the bracket that opens the list
                self._opened = True
                self._position -= 1
                del self.data[self._position : self._position + 1]
            elif mark == b"\n":  # the row after one with unreliable brackets
                yield self._cut(), "comma"
            elif mark == b'"':
                self._in_string = True
            elif mark in b"[{":
                self._depth += 1
            elif self._depth > 0:
                if mark != b",":
                    self._depth -= 1
            elif mark in b",]":
                yield self._cut(), "comma" if mark == b"," else "list"

    def _cut(self) -> bytes:
        newline = self.data[self._position - 1] == ord("\n")
        piece = bytes(self.data[: self._position - 1])
        # The newline stays with the next row, whose indentation it starts.
        del self.data[: self._position - newline]
        self._position = self._depth = 0
        self._next_row = None
        return piece

    def _find_structure(self) -> bool:
        """Moves past the next structural byte; returns false if more data is needed."""
        if self._in_string and not self._leave_string():
            return False
        found = (self._next_row or _STRUCTURE).search(self.data, self._position)
        if found is None:
            overlap = 0 if self._next_row is None else len(self._next_row.pattern)
            self._position = max(self._position, len(self.data) - overlap)
            return False
        self._position = found.start() + 1
        return True

    def _leave_string(self) -> bool:
        """Moves past the string; returns false if the data ends first."""
        data = self.data
        while True:
            end = _STRING_REST.match(data, self._position).end()  # type: ignore[union-attr]
            self._position = end
            if end == len(data) or (data[end] == ord("\\") and end + 1 == len(data)):
                return False
            self._position = end + 1
            if data[end] == ord("\\"):
                continue
            self._in_string = False
            if data[end] == ord("\n"):
                self._give_up_row(end)
            return True

    def _give_up_row(self, newline: int) -> None:
        """After an unescaped quote, finds the next row by the indentation of this one."""
        lead = bytes(self.data[: len(self.data) - len(self.data.lstrip())])
        if b"\n" in lead:
            indentation = lead[lead.rindex(b"\n") :]
            self._next_row = re.compile(re.escape(indentation) + rb"(?=\{)")
            self._position = newline
