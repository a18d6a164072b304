"""Reads an index, also while it is written: pages of the list, dialogues, counts."""

import contextlib
import json
import sqlite3
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from parrot_jax.view.index_file import connect_to_read, explain
from parrot_jax.view.query import MARKS, Query
from parrot_jax.view.shown import Shown

PAGE_ROWS = 50


class Row(NamedTuple):
    """A dialogue in the list."""

    number: int
    place: str
    opening: str
    stop: str
    models: Sequence[str]
    flags: Sequence[str]
    turns: int
    words: int
    score: float | None


class RowPage(NamedTuple):
    """Some rows of the list, and whether there are more on either side."""

    rows: Sequence[Row]
    has_before: bool
    has_after: bool


class RejectedRow(NamedTuple):
    """A row that cannot be read."""

    id: int
    place: str
    problem: str


class Totals(NamedTuple):
    """What is in an index."""

    dialogues: int
    rejected: int
    unfinished: Sequence[str]
    """Last rows of files that are not complete, as `file:line: problem`."""
    revision: int
    generation: int


class IndexReader:
    """An index open for reading, in one thread."""

    def __init__(self, path: Path) -> None:
        """Opens the file."""
        self._path = path
        with self._errors():
            self._db = connect_to_read(path)

    def hold(self) -> None:
        """From now on, all reads see the same state."""
        self._read("BEGIN")

    def close(self) -> None:
        """Closes the file."""
        self._db.close()

    def totals(self) -> Totals:
        """Counts of all that is there."""
        about = dict(self._read("SELECT name, value FROM about"))
        ((dialogues,),) = self._read("SELECT count(*) FROM dialogues")
        ((rejected,),) = self._read("SELECT count(*) FROM rejected")
        unfinished = self._read("SELECT unfinished FROM files WHERE unfinished <> ''")
        return Totals(
            dialogues,
            rejected,
            [text for (text,) in unfinished],
            int(about.get("revision", 0)),
            int(about.get("generation", 0)),
        )

    def count(self, query: Query) -> int:
        """The number of dialogues that a query lists."""
        conditions, values = query.conditions()
        ((number,),) = self._read(f"SELECT count(*) FROM dialogues {_where(conditions)}", *values)
        return number

    def without_score(self) -> int:
        """The number of dialogues without a score."""
        ((number,),) = self._read("SELECT count(*) FROM dialogues WHERE score IS NULL")
        return number

    def page(
        self,
        query: Query,
        *,
        after: int | None = None,
        before: int | None = None,
        around: int | None = None,
    ) -> RowPage:
        """A page of the list.

        Args:
          query: What is listed.
          after: The number of the dialogue before the first row; None = from the beginning.
          before: The number of the dialogue after the last row, instead of `after`.
          around: The number of a dialogue in the middle of the page, instead of both.
        """
        if around is not None:
            half = PAGE_ROWS // 2
            earlier = self._around(query, around, backward=True, most=half + 1)
            later = self._around(query, around, backward=False, most=half + 1)
            rows = [*earlier[:half][::-1], *self._only(query, around), *later[:half]]
            return RowPage(rows, len(earlier) > half, len(later) > half)
        backward = before is not None
        anchor = before if backward else after
        rows = self._around(query, anchor, backward=backward, most=PAGE_ROWS + 1)
        more, rows = len(rows) > PAGE_ROWS, rows[:PAGE_ROWS]
        if backward:
            return RowPage(rows[::-1], more, has_after=True)
        return RowPage(rows, anchor is not None, more)

    def neighbours(self, query: Query, number: int) -> tuple[int | None, int | None]:
        """The dialogues before and after one in the list; None = the end of the list."""
        before, after = (
            self._around(query, number, backward=backward, most=1) for backward in (True, False)
        )
        return (before[0].number if before else None, after[0].number if after else None)

    def _around(self, query: Query, anchor: int | None, *, backward: bool, most: int) -> list[Row]:
        """The rows after an anchor, or before it with the nearest first."""
        conditions, values = query.conditions()
        falls = query.is_falling != backward
        column, order = query.column, " DESC" if falls else ""
        if anchor is not None:
            place = "(SELECT number FROM dialogues WHERE number = ?)"
            key = "number"
            if column != "number":
                key, place = (
                    f"({column}, number)",
                    (f"(SELECT {column}, number FROM dialogues WHERE number = ?)"),
                )
            conditions.append(f"{key} {'<' if falls else '>'} {place}")
            values.append(anchor)
        by = f"number{order}" if column == "number" else f"{column}{order}, number{order}"
        return self._rows(f"{_where(conditions)} ORDER BY {by} LIMIT ?", *values, most)

    def _only(self, query: Query, number: int) -> list[Row]:
        conditions, values = query.conditions()
        return self._rows(_where([*conditions, "number = ?"]), *values, number)

    def _rows(self, rest: str, *values: Any) -> list[Row]:
        rows = self._read(
            f"""
            WITH found AS MATERIALIZED (
              SELECT row_number() OVER () AS place_in_list, * FROM (SELECT * FROM dialogues {rest})
            )
            SELECT number, place, opening, stop, models, flags, turns, words, score
            FROM found JOIN lines USING (number) ORDER BY place_in_list
            """,
            *values,
        )
        return [
            Row(number, place, opening, stop, json.loads(models), json.loads(flags), *numbers)
            for number, place, opening, stop, models, flags, *numbers in rows
        ]

    def dialogue(self, number: int) -> Shown | None:
        """A dialogue; None if no dialogue has this number."""
        rows = self._read("SELECT body FROM bodies WHERE number = ?", number)
        return next((Shown.from_json(zlib.decompress(body)) for (body,) in rows), None)

    def version(self, number: int) -> str | None:
        """Identifies the state of a dialogue that can still grow."""
        rows = self._read("SELECT version FROM lines WHERE number = ?", number)
        return next((version for (version,) in rows), None)

    def numbers(self) -> Iterator[int]:
        """The numbers of all dialogues, in order."""
        return (n for (n,) in self._stream("SELECT number FROM dialogues ORDER BY number"))

    def choices(self) -> dict[str, list[tuple[str, int]]]:
        """By kind of mark (stop, model, flag): each name with its number of dialogues."""
        rows = self._read(
            "SELECT * FROM mark_counts WHERE dialogues > 0 ORDER BY dialogues DESC, name"
        )
        return {kind: [(name, n) for of, name, n in rows if of == kind] for kind in MARKS}

    def rejected(self, *, after: int = 0) -> list[RejectedRow]:
        """Some of the rows that cannot be read, in order of their ids."""
        query = "SELECT id, place, problem FROM rejected WHERE id > ? ORDER BY id LIMIT ?"
        return [RejectedRow(*row) for row in self._read(query, after, PAGE_ROWS)]

    def _read(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        return list(self._stream(query, *values))

    def _stream(self, query: str, *values: Any) -> Iterator[tuple[Any, ...]]:
        with self._errors():
            yield from self._db.execute(query, values)

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise explain(error, self._path) from error


def _where(conditions: Sequence[str]) -> str:
    return f"WHERE {' AND '.join(conditions)}" if conditions else ""
