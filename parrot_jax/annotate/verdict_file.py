"""The SQLite file of an annotation: its items, and every verdict, appended as it is given.

A verdict is on disk before the next item is shown, so a kill loses none. An undo is a row too. The
items are stored with their texts, so the file needs no other one.
"""

import contextlib
import json
import os
import sqlite3
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

from parrot_jax.annotate.items import Item
from parrot_jax.annotate.tasks import TASKS, Task
from parrot_jax.api.journal_file import connect, sqlite_errors, take_lock
from parrot_jax.core.errors import UserError

_VERSION = 1
_APPLICATION = int.from_bytes(b"prtA")
"""SQLite's `application_id` of our files."""

_SCHEMA = """
CREATE TABLE settings (
  settings TEXT NOT NULL               -- JSON: task, seed, files, ...
) STRICT;
CREATE TABLE items (
  number INTEGER PRIMARY KEY,          -- 1, 2, ... in the order in which they are shown
  sources TEXT NOT NULL,               -- JSON list: the file or the model; left and right
  dialogue TEXT NOT NULL,
  turn INTEGER NOT NULL,               -- from 1
  content TEXT NOT NULL                -- JSON: [system, [[question, [answers]]]]
) STRICT;
CREATE TABLE verdicts (
  id INTEGER PRIMARY KEY,
  annotator TEXT NOT NULL,
  item INTEGER NOT NULL REFERENCES items,
  value TEXT,                          -- null: this row takes back the verdict `undoes`
  undoes INTEGER REFERENCES verdicts,
  at REAL NOT NULL                     -- seconds since 1970
) STRICT;
"""


class Verdict(NamedTuple):
    """What one person said about one item."""

    id: int
    annotator: str
    item: int
    """Its number, from 1."""
    value: str


class Annotation(NamedTuple):
    """The contents of a file."""

    settings: Mapping[str, Any]
    items: list[Item]
    verdicts: list[Verdict]
    """Without those that were taken back; in the order in which they were given."""
    undone: int

    @property
    def task(self) -> Task:
        """What people were asked."""
        return TASKS[self.settings["task"]]


class VerdictFile:
    """Writes a file; one process at a time.

    Attributes:
      num_items: The number of items.
      verdicts: As in `Annotation`.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any], items: Sequence[Item]) -> None:
        """Creates the file, or continues it.

        Args:
          path: The file; its lock is a hidden file beside it.
          settings: JSON values. `files` lists the labels of the sources.
          items: In the order in which they are shown.

        Raises:
          UserError: The file belongs to another annotation, is damaged, or another process writes
            it.
        """
        self._path = path
        with contextlib.ExitStack() as stack:
            stack.enter_context(contextlib.closing(take_lock(path)))
            with sqlite_errors(path, "open"):
                self._db = stack.enter_context(contextlib.closing(connect(path)))
                is_new = _check_version(self._db, path)
                self._db.execute("PRAGMA journal_mode = WAL")
                self._db.execute("PRAGMA synchronous = FULL")  # on disk before the reply
                self._db.execute("PRAGMA foreign_keys = ON")
                if is_new:
                    self._create(settings, items)
                found = _read(self._db, path)
            _check_same(path, found, settings, items)
            self._inode = os.stat(path).st_ino
            self.num_items, self.verdicts = len(found.items), found.verdicts
            self._held = stack.pop_all()

    def __enter__(self) -> "VerdictFile":
        """Returns the file itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Closes the file and releases its lock."""
        self._held.close()

    def item(self, number: int) -> Item:
        """The item with a number, from 1."""
        with sqlite_errors(self._path, "read"):
            row = self._db.execute(f"{_ITEMS} WHERE number = ?", (number,)).fetchone()
        return Item.parse(*row)

    def add(self, annotator: str, item: int, value: str) -> Verdict:
        """Adds a verdict; when this returns, it survives a power failure.

        Raises:
          UserError: It cannot be written; nothing was changed.
        """
        row = self._insert(annotator, item, value, None)
        return Verdict(row, annotator, item, value)

    def take_back(self, verdict: Verdict) -> None:
        """Takes back a verdict, by another row.

        Raises:
          UserError: It cannot be written; nothing was changed.
        """
        self._insert(verdict.annotator, verdict.item, None, verdict.id)

    def _insert(self, annotator: str, item: int, value: str | None, undoes: int | None) -> int:
        with contextlib.suppress(FileNotFoundError):
            if os.stat(self._path).st_ino == self._inode:
                with sqlite_errors(self._path, "write"):
                    row = self._db.execute(
                        "INSERT INTO verdicts VALUES (NULL, ?, ?, ?, ?, ?)",
                        (annotator, item, value, undoes, time.time()),
                    ).lastrowid
                assert row is not None
                return row
        raise UserError(
            f"{self._path} was moved, deleted or replaced; put it back, then start the same "
            "command again."
        )

    def _create(self, settings: Mapping[str, Any], items: Sequence[Item]) -> None:
        # One transaction: a kill leaves an empty file, which the next start fills.
        self._db.execute("BEGIN IMMEDIATE")
        for statement in _SCHEMA.split(";\n"):
            self._db.execute(statement)
        self._db.execute("INSERT INTO settings VALUES (?)", (json.dumps(settings),))
        self._db.executemany(
            "INSERT INTO items VALUES (?, ?, ?, ?, ?)",
            (
                (number, json.dumps(one.sources), one.dialogue, one.turn, one.content())
                for number, one in enumerate(items, 1)
            ),
        )
        self._db.execute(f"PRAGMA application_id = {_APPLICATION}")
        self._db.execute(f"PRAGMA user_version = {_VERSION}")
        self._db.execute("COMMIT")


_ITEMS = "SELECT sources, dialogue, turn, content FROM items"


def read_annotation(path: Path) -> Annotation:
    """Reads a file, also while it is written.

    Raises:
      UserError: There is no such file, it is damaged, or `parrot annotate` has not written it.
    """
    if not path.is_file():
        raise UserError(f"there is no file {path}; `parrot annotate ... --out {path}` writes it.")
    with (
        sqlite_errors(path, "read"),
        contextlib.closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as db,
    ):
        if _check_version(db, path):
            raise UserError(
                f"{path} is empty. If it is a copy, also copy the file ending in -wal beside the "
                "original; else start `parrot annotate` again with its arguments."
            )
        return _read(db, path)


def _check_version(db: sqlite3.Connection, path: Path) -> bool:
    """Returns whether the file is empty."""
    (application,) = db.execute("PRAGMA application_id").fetchone()
    (version,) = db.execute("PRAGMA user_version").fetchone()
    (tables,) = db.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    if (application, version, tables) == (0, 0, 0):
        return True
    if application != _APPLICATION:
        raise UserError(f"{path} is not a file of `parrot annotate`; choose another --out.")
    if version != _VERSION:
        raise UserError(
            f"{path} has version {version}, and this version of parrot reads {_VERSION}; use the "
            "version that wrote it, or choose another --out."
        )
    return False


def _read(db: sqlite3.Connection, path: Path) -> Annotation:
    try:
        ((settings,),) = db.execute("SELECT settings FROM settings")
        settings = json.loads(settings)
        items = [Item.parse(*row) for row in db.execute(f"{_ITEMS} ORDER BY number")]
        rows = db.execute("SELECT id, annotator, item, value, undoes FROM verdicts ORDER BY id")
        found: dict[int, Verdict] = {}
        undone = 0
        for id_, annotator, item, value, undoes in rows:
            if undoes is None:
                found[id_] = Verdict(id_, annotator, item, value)
            else:
                del found[undoes]
                undone += 1
        result = Annotation(settings, items, list(found.values()), undone)
        for verdict in result.verdicts:
            if not (result.task.allows(verdict.value) and 1 <= verdict.item <= len(items)):
                raise ValueError(f"verdict {verdict.id} is {verdict.value!r} on {verdict.item}")
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged ({error}); restore it from a copy.") from None
    return result


def _check_same(
    path: Path, found: Annotation, settings: Mapping[str, Any], items: Sequence[Item]
) -> None:
    """Checks that the file is of this annotation.

    Raises:
      UserError: It is not; the text names the first difference.
    """
    for key in {**found.settings, **settings}:
        there, here = found.settings.get(key), settings.get(key)
        if there != here:
            name = f"--{key.replace('_', '-')}" if key != "files" else "the files"
            raise UserError(
                f"{path} is of another annotation: {name} {_shown(there)} there, {_shown(here)} "
                "here. Give the same arguments to continue it, or choose another --out."
            )
    for number, (old, new) in enumerate(zip(found.items, items, strict=False), 1):
        if old != new:
            raise UserError(
                f"{path} has other texts than the files now: item {number} was turn {old.turn} of "
                f"dialogue {old.dialogue} of {' and '.join(old.sources)}, and is now turn "
                f"{new.turn} of {new.dialogue} of {' and '.join(new.sources)}"
                f"{' with another text' if old[:3] == new[:3] else ''}. Restore the files to "
                "continue, or choose another --out."
            )
    if len(found.items) != len(items):
        raise UserError(
            f"{path} has {len(found.items):,} items, and the files now give {len(items):,}; "
            "restore the files to continue, or choose another --out."
        )


def _shown(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
