"""Writes an index: dialogues, rejected rows, and what was read."""

import contextlib
import json
import sqlite3
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from parrot_jax.view.index_file import SCHEMA, connect_to_write, is_damage, program, remove
from parrot_jax.view.searching import spaced
from parrot_jax.view.shown import Shown

ROWS_AT_ONCE = 500
"""Rows of a file that are saved together, at most."""
BYTES_AT_ONCE = 16 << 20
"""No more rows are added after this many bytes, so that long rows do not fill the memory."""

_COMPRESSION = 3
_TABLES = (
    *("about", "dialogues", "lines", "bodies", "marks", "mark_counts", "texts"),
    *("rejected", "files", "pieces"),
)
_LARGEST_LOG_BYTES = 64 << 20
"""SQLite's log is emptied when it is larger; readers may keep SQLite from doing it by itself."""
# Bytes of new entries that FTS5 holds in memory, and parts of its index that it merges at once.
# Larger is faster.
_SEARCH_SETTINGS = (("hashsize", 16 << 20), ("automerge", 16))


class FileState(NamedTuple):
    """How far a file of JSON lines was read."""

    size: int = -1
    """In bytes, when its end was reached; -1 = it was not."""
    ctime_ns: int = -1
    stop: int = 0
    """Bytes read."""
    lines: int = 0
    """Lines read."""
    unfinished: str = ""
    """The last row, as `file:line: problem`, if it was not complete; empty = it was."""


class Piece(NamedTuple):
    """Bytes that were read at once."""

    start: int
    stop: int
    digest: bytes
    """SHA-256."""


class IndexWriter:
    """An index open for writing. All changes are made within `saving`."""

    def __init__(self, path: Path) -> None:
        """Opens the file; one that is damaged, or made by other code, is started over."""
        self._path = path
        try:
            self._open()
        except sqlite3.DatabaseError as error:
            if not is_damage(error):
                raise
            remove(path)
            self._open()

    def _open(self) -> None:
        self._db = connect_to_write(self._path)
        try:
            (tables,) = self._db.execute("SELECT count(*) FROM sqlite_schema").fetchone()
            if not tables or self.about("program") != program():
                self.start_over()
        except BaseException:
            self._db.close()
            raise

    def close(self) -> None:
        """Closes the file."""
        self._db.close()

    def belong_to(self, identity: str) -> None:
        """Starts over, unless the index was made from what this text identifies.

        Args:
          identity: Empty = files of JSON lines, which are known by their bytes.
        """
        if self.about("identity") == identity:
            return
        if self.num_dialogues() or self.files() or self.about("identity"):
            self.start_over()
        with self.saving():
            self.set_about("identity", identity)

    @contextlib.contextmanager
    def saving(self) -> Iterator[None]:
        """Makes the changes of the block one transaction, and raises the revision."""
        with self._transaction():
            yield
            self._raise("revision")
        log = self._path.with_name(f"{self._path.name}-wal")
        if log.exists() and log.stat().st_size > _LARGEST_LOG_BYTES:
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            # SQLite has rolled back by itself where the disk is full.
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    def _raise(self, name: str, before: str | None = None) -> None:
        before = self.about(name) if before is None else before
        self.set_about(name, str(int(before or 0) + 1))

    def start_over(self) -> None:
        """Empties the index, because what it was made from has changed."""
        before = {name: self.about(name) for name in ("generation", "revision")}
        with self._transaction():
            for name in _TABLES:
                self._db.execute(f"DROP TABLE IF EXISTS {name}")
            for statement in SCHEMA.split(";\n"):
                self._db.execute(statement)
            self._db.executemany("INSERT INTO texts (texts, rank) VALUES (?, ?)", _SEARCH_SETTINGS)
            self.set_about("program", program())
            for name, value in before.items():
                self._raise(name, value)

    def about(self, name: str) -> str:
        """A value about the index; empty = none."""
        try:
            row = self._db.execute("SELECT value FROM about WHERE name = ?", (name,)).fetchone()
        except sqlite3.OperationalError:  # an empty file, or the tables of another version
            return ""
        return row[0] if row else ""

    def set_about(self, name: str, value: str) -> None:
        """Sets such a value."""
        self._db.execute("INSERT OR REPLACE INTO about VALUES (?, ?)", (name, value))

    def num_dialogues(self) -> int:
        """The number of dialogues, if they are numbered without gaps."""
        (number,) = self._db.execute("SELECT max(number) FROM dialogues").fetchone()
        return 0 if number is None else number + 1

    def versions(self) -> Iterator[tuple[int, str]]:
        """Number and version of each dialogue, in order."""
        return iter(self._db.execute("SELECT number, version FROM lines ORDER BY number"))

    def put(self, shown: Shown, *, number: int | None = None, version: str = "") -> None:
        """Adds a dialogue, or replaces it.

        Args:
          shown: The dialogue.
          number: None = the next number.
          version: Identifies its state, where it can still grow.
        """
        if number is None:
            number = self.num_dialogues()
        else:
            self._remove(number)
        self._db.execute(
            "INSERT INTO dialogues VALUES (?, ?, ?, ?)",
            (number, shown.num_questions, shown.num_words, shown.score),
        )
        self._db.execute(
            "INSERT INTO lines VALUES (?, ?, ?, ?, ?, ?, ?)",
            (
                number, version, shown.place, shown.opening, shown.stop,
                json.dumps(shown.models), json.dumps(shown.flags),
            ),
        )  # fmt: skip
        body = zlib.compress(shown.to_json(), _COMPRESSION)
        self._db.execute("INSERT INTO bodies VALUES (?, ?)", (number, body))
        self._db.execute(
            "INSERT INTO texts (rowid, text) VALUES (?, ?)", (number, spaced(shown.searched))
        )
        marks = _marks(shown)
        self._db.executemany(
            "INSERT INTO marks VALUES (?, ?, ?)", [(*mark, number) for mark in marks]
        )
        self._db.executemany(
            "INSERT INTO mark_counts VALUES (?, ?, 1) "
            "ON CONFLICT DO UPDATE SET dialogues = dialogues + 1",
            marks,
        )

    def _remove(self, number: int) -> None:
        row = self._db.execute("SELECT body FROM bodies WHERE number = ?", (number,)).fetchone()
        if row is None:
            return
        old = Shown.from_json(zlib.decompress(row[0]))
        # A table without content forgets a text only if it is told which one.
        self._db.execute(
            "INSERT INTO texts (texts, rowid, text) VALUES ('delete', ?, ?)",
            (number, spaced(old.searched)),
        )
        for mark in _marks(old):
            where = "WHERE kind = ? AND name = ?"
            self._db.execute(f"DELETE FROM marks {where} AND number = ?", (*mark, number))
            self._db.execute(f"UPDATE mark_counts SET dialogues = dialogues - 1 {where}", mark)
        for table in ("dialogues", "lines", "bodies"):
            self._db.execute(f"DELETE FROM {table} WHERE number = ?", (number,))

    def reject(self, place: str, problem: str) -> None:
        """Adds a row that cannot be read."""
        query = "INSERT OR IGNORE INTO rejected (place, problem) VALUES (?, ?)"
        self._db.execute(query, (place, problem))

    def forget_rejected(self, place: str) -> None:
        """Removes the problems of a place, before it is read again."""
        self._db.execute("DELETE FROM rejected WHERE place = ?", (place,))

    def forget_all_rejected(self) -> None:
        """Removes all problems, before everything is read again."""
        self._db.execute("DELETE FROM rejected")

    def file(self, path: str) -> FileState:
        """How far a file was read."""
        row = self._db.execute(
            "SELECT size, ctime_ns, stop, lines, unfinished FROM files WHERE path = ?", (path,)
        ).fetchone()
        return FileState(*row) if row else FileState()

    def files(self) -> list[str]:
        """The files that were read, complete or not."""
        return [path for (path,) in self._db.execute("SELECT path FROM files")]

    def pieces(self, path: str) -> list[Piece]:
        """What was read of a file."""
        query = "SELECT start, stop, digest FROM pieces WHERE path = ? ORDER BY start"
        return [Piece(*row) for row in self._db.execute(query, (path,))]

    def set_file(self, path: str, state: FileState, piece: Piece | None = None) -> None:
        """Sets how far a file was read, and adds what was read."""
        self._db.execute("INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?, ?, ?)", (path, *state))
        if piece is not None:
            self._db.execute("INSERT INTO pieces VALUES (?, ?, ?, ?)", (path, *piece))


def _marks(shown: Shown) -> list[tuple[str, str]]:
    """Kind and name of all marks of a dialogue."""
    marks = [("flag", name) for name in shown.flags] + [("model", name) for name in shown.models]
    marks += [("stop", shown.stop)] if shown.stop else []
    return list(dict.fromkeys(marks))
