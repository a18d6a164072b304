"""Streams rows of JSON lines, of one big JSON list or of objects, with their line numbers.

This is the bytes-to-rows part of reading; `readers.py` interprets the rows. It works on bytes, so
that invalid UTF-8 affects only its own row.
"""

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NoReturn

from parrot_jax.dialogue.json_list import list_pieces
from parrot_jax.dialogue.parquet import parquet_rows
from parrot_jax.dialogue.raw_rows import BrokenRowError, JsonRow, printable
from parrot_jax.dialogue.unpack import (
    PARQUET,
    DamagedFileError,
    first_bytes,
    is_packed,
    open_unpacked,
)

CHUNK_BYTES = 1 << 18
MAX_ROW_BYTES = 1 << 26
"""Longer rows (64 MiB) are rejected: most likely their brackets never close."""

NOT_JSON = "not valid JSON"

_STRING = re.compile(rb'"(?:[^"\\]|\\.)*+"')
_UTF8_MARK = b"\xef\xbb\xbf"
_UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")


def _refuse_constant(name: str) -> NoReturn:
    raise BrokenRowError(f"{name} is not JSON")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen = set[str]()
        # `add` returns None, so this finds the first repeated key.
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))
        raise BrokenRowError(f"the key {printable(twice, 60)!r} appears twice in one object")
    return found


def _nan_is_null(name: str) -> None:
    if name != "NaN":
        _refuse_constant(name)


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant, object_pairs_hook=_object)
_NAN_DECODER = json.JSONDecoder(parse_constant=_nan_is_null, object_pairs_hook=_object)


def parse_json(raw: bytes, *, nan_is_null: bool = False) -> Any:
    """Parses one JSON value strictly: UTF-8 only, no NaN, no Infinity, no duplicate keys.

    Args:
      raw: The bytes.
      nan_is_null: Read NaN as null. Python writes it for a missing value of pandas.

    Raises:
      BrokenRowError: It is not valid; the detail says where.
    """
    try:
        return (_NAN_DECODER if nan_is_null else _DECODER).decode(raw.decode("utf-8"))
    except UnicodeDecodeError as error:
        detail = f"byte {raw[error.start]:#04x} at offset {error.start} of the row"
        raise BrokenRowError("not valid UTF-8", detail) from None
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno} of the row"
        raise BrokenRowError(NOT_JSON, f"{error.msg} at {where}") from None
    except RecursionError:
        raise BrokenRowError("JSON nested too deeply") from None
    except BrokenRowError:
        raise
    except ValueError as error:  # a number with more digits than Python parses
        raise BrokenRowError(NOT_JSON, str(error)) from None


def stream_rows(
    path: Path | str,
    *,
    chunk_bytes: int = CHUNK_BYTES,
    max_row_bytes: int = MAX_ROW_BYTES,
    nan_is_null: bool = False,
) -> Iterator[JsonRow]:
    """Reads a file of rows, row by row.

    The file is JSON lines, one JSON list, or objects over several lines, optionally compressed with
    gzip or Zstandard; or a Parquet file. The content decides, not the name. Memory holds one chunk
    and one row; time is linear in the length.

    Args:
      path: The file.
      chunk_bytes: Bytes to read at once, >= 1.
      max_row_bytes: Longer rows are rejected, >= 1.
      nan_is_null: As in `parse_json`.

    Yields:
      Every row in order, rejected ones with their problem. Blank lines are skipped.

    Raises:
      UserError: The file cannot be opened.
    """
    if first_bytes(path).startswith(PARQUET):
        yield from parquet_rows(path, max_row_bytes=max_row_bytes)
        return
    line = 0
    try:
        for row in _Reader(chunk_bytes, max_row_bytes, nan_is_null).rows(path):
            line = row.line
            yield row
    except DamagedFileError as error:
        detail = f"{error}; nothing after line {line} was read"
        yield JsonRow(line + 1, problem=BrokenRowError("damaged file", detail))


def holds_lines(path: Path) -> bool:
    """Whether a local file is JSON lines as they are, so that rows can be appended to it.

    Raises:
      UserError: The file cannot be opened.
    """
    start = first_bytes(path)
    if start.startswith((PARQUET, _UTF8_MARK, *_UTF16_MARKS)) or is_packed(start):
        return False
    with open(path, "rb") as file:
        return _READER.holds_lines(file)


def line_rows(readline: Callable[[int], bytes], *, first_line: int = 1) -> Iterator[JsonRow]:
    """Reads the rest of a file of JSON lines, without reading ahead.

    Args:
      readline: Of a file at the start of a line; at each row it is at the end of that row's line.
      first_line: The number of that line.

    Yields:
      As `stream_rows`.
    """
    return _READER.line_rows(readline, first_line)


@dataclass(frozen=True)
class _Reader:
    """How to read a file; the arguments of `stream_rows`."""

    chunk_bytes: int
    max_row_bytes: int
    nan_is_null: bool

    def rows(self, path: Path | str) -> Iterator[JsonRow]:
        """All rows of a file."""
        with open_unpacked(path) as file:
            mark = file.read(3)
        if mark.startswith(_UTF16_MARKS):
            detail = "the file is UTF-16 or UTF-32; save it as UTF-8"
            yield JsonRow(1, problem=BrokenRowError("not valid UTF-8", detail))
            return
        start = len(_UTF8_MARK) if mark == _UTF8_MARK else 0
        repair = "byte order mark dropped" if start else ""
        with open_unpacked(path) as file:
            file.read(start)
            read = self._form_of(file)
        with open_unpacked(path) as file:
            file.read(start)
            for row in read(file):
                yield JsonRow(row.line, row.value, row.problem, repair) if repair else row
                repair = ""

    def _form_of(self, file: IO[bytes]) -> Callable[[IO[bytes]], Iterator[JsonRow]]:
        """Chooses how to read a file, by its beginning.

        If the first line is an incomplete object, the file has objects over several lines; unless
        the second line also begins an object, which means that the first row is malformed.
        """
        first = self._next_line(file)
        if first.startswith(b"["):
            return self._list_rows
        if self._begins_lines(first, file):
            return lambda file: self.line_rows(file.readline)
        return self._object_rows

    def holds_lines(self, file: IO[bytes]) -> bool:
        """Whether a file begins with JSON lines; see `_form_of`."""
        first = self._next_line(file)
        return not first.startswith(b"[") and self._begins_lines(first, file)

    def _begins_lines(self, first: bytes, file: IO[bytes]) -> bool:
        is_whole = len(first) > self.max_row_bytes or self._row(1, first).problem is None
        if first.startswith(b"{") and not is_whole:
            second = self._next_line(file)
            return not second or second.startswith(b"{")
        return True

    def _next_line(self, file: IO[bytes]) -> bytes:
        """The next non-blank line (or its beginning), stripped; empty at the end."""
        while raw := file.readline(self.max_row_bytes + 1):
            if stripped := raw.strip():
                return stripped
        return b""

    def _row(self, line: int, raw: bytes) -> JsonRow:
        try:
            return JsonRow(line, parse_json(raw, nan_is_null=self.nan_is_null))
        except BrokenRowError as problem:
            return JsonRow(line, problem=problem)

    def _too_long(self, line: int, what_follows: str) -> JsonRow:
        detail = f"over {self.max_row_bytes:,} bytes; {what_follows}"
        return JsonRow(line, problem=BrokenRowError("row too long", detail))

    def line_rows(self, readline: Callable[[int], bytes], first_line: int = 1) -> Iterator[JsonRow]:
        """Reads one row per line."""
        line = first_line - 1
        while raw := readline(self.max_row_bytes + 1):
            line += 1
            if len(raw) > self.max_row_bytes and not raw.endswith(b"\n"):
                while raw and not raw.endswith(b"\n"):
                    raw = readline(self.max_row_bytes)
                yield self._too_long(line, "the line was skipped")
                continue
            if raw.isspace():
                continue
            row = self._row(line, raw)
            if row.problem and row.problem.reason == NOT_JSON and not raw.endswith(b"\n"):
                row = JsonRow(
                    line, problem=BrokenRowError("cut off", "the file ends inside this row")
                )
            yield row

    def _object_rows(self, file: IO[bytes]) -> Iterator[JsonRow]:
        """Reads objects over several lines; each ends when its brackets are closed."""
        pending = bytearray()
        line, start, depth = 0, 1, 0
        while raw := file.readline(self.max_row_bytes + 1):
            line += 1
            # A complete object at the start of a line is a new row, even if the last one never
            # closed.
            if pending and raw.startswith(b"{") and self._row(line, raw).problem is None:
                yield self._row(start, bytes(pending))
                pending.clear()
            if not pending:
                start, depth = line, 0
                if raw.isspace():
                    continue
            pending += raw
            if len(pending) > self.max_row_bytes:
                yield self._too_long(start, "the rest of the file was not read")
                return
            bare = _STRING.sub(b"", raw)
            depth += sum(map(bare.count, (b"{", b"["))) - sum(map(bare.count, (b"}", b"]")))
            if depth <= 0:
                yield self._row(start, bytes(pending))
                pending.clear()
        if pending:
            yield JsonRow(start, problem=BrokenRowError("cut off", "the file ends inside this row"))

    def _list_rows(self, file: IO[bytes]) -> Iterator[JsonRow]:
        line = 1
        after_comma = False
        for raw, end in list_pieces(file, self.chunk_bytes, self.max_row_bytes):
            element = raw.strip()
            row_line = line + raw[: len(raw) - len(raw.lstrip())].count(b"\n")
            line += raw.count(b"\n")
            if end == "too long":
                yield self._too_long(row_line, "the rest of the file was not read")
            elif end == "file":
                detail = "the file ends before its list does; nothing after this line was read"
                yield JsonRow(row_line, problem=BrokenRowError("cut off", detail))
            elif end == "after list":
                if element:
                    problem = BrokenRowError(NOT_JSON, "text after the end of the list; not read")
                    yield JsonRow(row_line, problem=problem)
            elif element:
                yield self._row(row_line, element)
            elif after_comma or end == "comma":
                yield JsonRow(
                    row_line, problem=BrokenRowError(NOT_JSON, "empty element beside a comma")
                )
            after_comma = end == "comma"


_READER = _Reader(CHUNK_BYTES, MAX_ROW_BYTES, nan_is_null=False)
