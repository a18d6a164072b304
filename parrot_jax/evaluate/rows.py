"""Rows of JSON files; rejected rows are counted by reason and reported with file and line."""

import json
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from parrot_jax.core.errors import UserError
from parrot_jax.core.paths import as_path
from parrot_jax.dialogue.json_stream import stream_rows
from parrot_jax.dialogue.raw_rows import BrokenRowError, printable
from parrot_jax.dialogue.types import is_unicode

_MAX_EXAMPLES = 10
_MOST = 100_000
"""Higher turns are a mistake."""

Row = TypeVar("Row")
Item = TypeVar("Item")


@dataclass
class Rejected:
    """Counts of rejected rows."""

    reasons: Counter[str] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)
    """The first ones, as `file:line: reason`."""

    def add(self, path: Path | str, line: int, problem: BrokenRowError) -> None:
        """Counts a row."""
        self.reasons[problem.reason] += 1
        if len(self.examples) < _MAX_EXAMPLES:
            self.examples.append(f"{printable(str(path))}:{line}: {problem}")

    def update(self, other: "Rejected") -> None:
        """Adds the rows of other files."""
        self.reasons.update(other.reasons)
        self.examples = [*self.examples, *other.examples][:_MAX_EXAMPLES]

    def first(self) -> str:
        """The first rejected row, or a text that says that no row has content."""
        return self.examples[0] if self.examples else "no row has any content"

    def lines(self) -> list[str]:
        """What to tell the user; empty if no row was rejected."""
        if not self.reasons:
            return []
        counts = ", ".join(f"{reason} {count:,}" for reason, count in self.reasons.most_common())
        return [f"rejected rows: {counts}", *(f"  {example}" for example in self.examples)]


def by_name(items: Iterable[tuple[str, Item]]) -> dict[str, Item]:
    """Items by name; where a name is taken, with a number, so that none is lost.

    >>> by_name([("m", 1), ("n", 2), ("m", 3)])
    {'m': 1, 'n': 2, 'm (2)': 3}
    """
    found: dict[str, Item] = {}
    for name, item in items:
        label, number = name, 1
        while label in found:
            number += 1
            label = f"{name} ({number})"
        found[label] = item
    return found


def print_json(found: Mapping[str, Any], rejected: Rejected) -> None:
    """Prints a result as the only line of standard output, and rejected rows on standard error."""
    print(json.dumps(found, ensure_ascii=False, allow_nan=False))
    for line in rejected.lines():
        print(line, file=sys.stderr)


def check_paths(paths: Sequence[Path | str]) -> None:
    """Checks the files of a command.

    Raises:
      UserError: A path was given twice, or is a folder.
    """
    for path, times in Counter(map(str, paths)).items():
        if times > 1:
            raise UserError(f"{path} was given twice; give each file once.")
        if as_path(path).is_dir():
            raise UserError(f"{path} is a folder; name its files.")


def read_rows(
    path: Path | str, parse: Callable[[dict[str, Any]], Row], rejected: Rejected
) -> Iterator[Row]:
    """Reads the objects of a file: JSON lines, or one JSON list, also compressed; NaN is null.

    Args:
      path: The file.
      parse: Parses a row; raises `BrokenRowError` if it is invalid.
      rejected: Counts what is invalid.

    Raises:
      UserError: The file cannot be opened.
    """
    for row in stream_rows(path, nan_is_null=True):
        problem = row.problem
        if problem is None:
            try:
                if not isinstance(row.value, dict):
                    raise BrokenRowError("not an object", printable(repr(row.value), 60))
                parsed = parse(row.value)
            except BrokenRowError as error:
                problem = error
            else:
                yield parsed
                continue
        rejected.add(path, row.line, problem)


def read_files(
    paths: Sequence[Path | str], parse: Callable[[dict[str, Any]], Row], rejected: Rejected
) -> Iterator[tuple[Path | str, Row]]:
    """Reads the rows of several files, each with its file; a file without any row is reported.

    Args:
      paths: The files.
      parse: As in `read_rows`.
      rejected: Counts what is invalid, and files without rows.

    Raises:
      UserError: A file cannot be opened.
    """
    for path in paths:
        rows, before = 0, rejected.reasons.total()
        for row in read_rows(path, parse, rejected):
            rows += 1
            yield path, row
        if not rows and rejected.reasons.total() == before:
            rejected.add(path, 1, BrokenRowError("a file without rows"))


def text_at(row: dict[str, Any], key: str) -> str:
    """The text under a key.

    Raises:
      BrokenRowError: It is absent, something else, or not valid Unicode.
    """
    if not isinstance(row.get(key), str):
        raise BrokenRowError(f"no text in `{key}`", _shown(row, key))
    return unicode_at(key, row[key])


def optional_text(row: dict[str, Any], key: str) -> str:
    """The text under a key; empty if it is absent or null.

    Raises:
      BrokenRowError: It is something else, or not valid Unicode.
    """
    return "" if row.get(key) is None else text_at(row, key)


def unicode_at(key: str, text: str) -> str:
    """The text itself.

    Raises:
      BrokenRowError: It has half of a surrogate pair, which JSON allows, but no file and no request
        can hold.
    """
    if not is_unicode(text):
        raise BrokenRowError(f"half of a surrogate pair in `{key}`", printable(repr(text), 60))
    return text


def name_at(row: dict[str, Any], key: str) -> str:
    """The name under a key: a text that is not empty, or an integer.

    Raises:
      BrokenRowError: It is absent, something else, or not valid Unicode.
    """
    value = row.get(key)
    if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
        raise BrokenRowError(f"no `{key}`", _shown(row, key))
    return unicode_at(key, str(value))


def count_at(row: dict[str, Any], key: str) -> int:
    """The integer under a key, from 1 to 100,000.

    Raises:
      BrokenRowError: It is absent or something else.
    """
    value = row.get(key)
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise BrokenRowError(f"no positive integer in `{key}`", _shown(row, key))
    if value > _MOST:
        raise BrokenRowError(f"`{key}` is above {_MOST:,}", _shown(row, key))
    return value


def number_at(row: dict[str, Any], key: str) -> float | None:
    """The number under a key; None if the key is absent or null.

    Raises:
      BrokenRowError: It is something else.
    """
    value = row.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise BrokenRowError(f"no number in `{key}`", _shown(row, key))
    try:
        return float(value)
    except OverflowError:
        raise BrokenRowError(f"no number in `{key}`", "it is too large") from None


def _shown(row: dict[str, Any], key: str) -> str:
    return f"found {printable(repr(row[key]), 60)}" if key in row else "the key is missing"
