"""The file of a journal: tables, lock, versions, and the errors of SQLite."""

import contextlib
import fcntl
import itertools
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

from parrot_jax.core.errors import DiskFullError, UserError


class DamagedJournalError(UserError):
    """A journal, or a row of it, cannot be read."""


VERSION = 3

SCHEMA = """
-- Each start of the run that writes this journal.
CREATE TABLE starts (
  id INTEGER PRIMARY KEY,
  started_at REAL NOT NULL,            -- seconds since 1970, like all times
  config TEXT NOT NULL,                -- JSON
  prompts TEXT NOT NULL                -- JSON: speaker: {path, sha256, text}
) STRICT;

-- What the requests are about. Later starts may add items, but never change one.
CREATE TABLE items (
  number INTEGER PRIMARY KEY,          -- 0, 1, 2, ...
  input TEXT NOT NULL                  -- JSON; in a collection, a row of a `messages` file
) STRICT;

-- Written before the request is sent. Each attempt is a separate request.
CREATE TABLE requests (
  id INTEGER PRIMARY KEY,
  start INTEGER NOT NULL REFERENCES starts,
  item INTEGER NOT NULL REFERENCES items,
  step INTEGER NOT NULL,               -- index of the request; in a collection, of the message
  speaker TEXT NOT NULL,               -- the endpoint, e.g. asker
  attempt INTEGER NOT NULL,            -- 1, 2, ... within this start; a 429 does not count
  sent_at REAL NOT NULL,
  worst_prompt INTEGER NOT NULL,       -- upper bound on its tokens
  worst_completion INTEGER NOT NULL
) STRICT;
CREATE INDEX requests_of_steps ON requests (item, step);

-- Written before the reply is used. No row: the run ended or was killed before the reply.
CREATE TABLE replies (
  request INTEGER PRIMARY KEY REFERENCES requests,
  received_at REAL NOT NULL,
  outcome TEXT NOT NULL,               -- complete, cut, filtered, context_full, rejected or failed
  verdict TEXT,                        -- why the text is useless; null if it is useful
  prompt_tokens INTEGER,               -- as counted by the server
  completion_tokens INTEGER,
  may_be_billed INTEGER NOT NULL,      -- 0: it cost nothing
  status INTEGER,                      -- HTTP status; null if the connection failed
  model TEXT,                          -- as named by the server
  error TEXT
) STRICT;

-- Texts are in separate tables, so that counting does not read them.
CREATE TABLE request_bodies (
  request INTEGER PRIMARY KEY REFERENCES requests,
  body TEXT NOT NULL                   -- JSON, as sent
) STRICT;
CREATE TABLE reply_bodies (
  request INTEGER PRIMARY KEY REFERENCES requests,
  text TEXT NOT NULL,                  -- the reply
  body TEXT                            -- as received
) STRICT;

-- Why an item is finished. A later start may resume the item, and then replaces the row.
CREATE TABLE ends (
  item INTEGER PRIMARY KEY REFERENCES items,
  start INTEGER NOT NULL REFERENCES starts,
  ended_at REAL NOT NULL,
  reason TEXT NOT NULL,
  progress INTEGER NOT NULL,           -- in a collection: question-answer turns
  detail TEXT
) STRICT;
"""

_FROM_VERSION_2 = """
ALTER TABLE dialogues RENAME TO items;
ALTER TABLE items RENAME COLUMN beginning TO input;
ALTER TABLE requests RENAME COLUMN dialogue TO item;
ALTER TABLE requests RENAME COLUMN turn TO step;
DROP INDEX requests_of_turns;
CREATE INDEX requests_of_steps ON requests (item, step);
ALTER TABLE ends RENAME COLUMN dialogue TO item;
ALTER TABLE ends RENAME COLUMN turns TO progress;
PRAGMA user_version = 3;
"""
"""Version 3 renamed the columns to words that fit all jobs."""

# fmt: off
_NETWORK_FILE_SYSTEMS = frozenset({
    "nfs", "nfs4", "cifs", "smb3", "smbfs", "afs", "ceph", "lustre", "gpfs", "beegfs",
    "glusterfs", "sshfs", "gcsfuse", "s3fs", "rclone", "juicefs", "blobfuse2", "goofys", "wekafs",
    "orangefs",
})
# fmt: on


def connect(path: Path) -> sqlite3.Connection:
    """Opens a journal for writing; the caller holds its lock."""
    # Autocommit: transactions are explicit statements.
    return sqlite3.connect(path, isolation_level=None, check_same_thread=False)


def take_lock(journal: Path) -> IO[str]:
    """Locks a file beside the journal; SQLite's own locks would also block readers.

    Returns:
      The lock; closing it releases it.

    Raises:
      UserError: The folder cannot be written or is on a network file system, or another process
        holds the lock.
    """
    journal = journal.resolve()  # a link to it has the same lock
    try:
        journal.parent.mkdir(parents=True, exist_ok=True)
        lock = open(journal.with_name(f".{journal.name}.lock"), "w")  # noqa: SIM115
    except OSError as error:
        raise UserError(
            f"cannot write to the folder {journal.parent}: {error.strerror}; choose another one."
        ) from None
    if (kind := _network_file_system(journal.parent)) is not None:
        lock.close()
        raise UserError(
            f"{journal.parent} is on a network file system ({kind}), where two machines could "
            "write one journal without noticing; choose a folder on a local disk."
        )
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock.close()
        raise UserError(
            f"another process is writing the journal {journal}; wait for it or stop it."
        ) from None
    return lock


def _network_file_system(folder: Path) -> str | None:
    """The type of the file system if other machines may share it; else None."""
    import psutil

    target = folder.resolve()
    mounts = [
        (len(Path(part.mountpoint).parts), part.fstype)
        for part in psutil.disk_partitions(all=True)
        if target.is_relative_to(part.mountpoint)
    ]
    # Of two mounts at one path, the later one covers the earlier.
    kind = max(enumerate(mounts), key=lambda item: (item[1][0], item[0]))[1][1] if mounts else ""
    return kind if kind.removeprefix("fuse.") in _NETWORK_FILE_SYSTEMS else None


def check_version(db: sqlite3.Connection, path: Path) -> int:
    """The journal's version; 0 if it is empty.

    Raises:
      UserError: Another version, or another program, wrote the file.
    """
    (version,) = db.execute("PRAGMA user_version").fetchone()
    (tables,) = db.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    if version == VERSION - 1:
        raise DamagedJournalError(
            f"an older version of parrot wrote the journal {path}; run the command that wrote it, "
            "e.g. `parrot collect CONFIG`, once more: that brings it up to date."
        )
    if version not in (0, VERSION) or (version == 0 and tables):
        raise DamagedJournalError(
            f"{path} is not a journal of this version of parrot ({VERSION}): its version is "
            f"{version}; use the version that wrote it, or choose another folder."
        )
    return version


def upgrade(path: Path) -> None:
    """Upgrades a journal of the previous version; leaves all other files alone.

    Raises:
      UserError: Another process writes it, or it cannot be written.
    """
    if not path.is_file():
        return
    with (
        sqlite_errors(path, "upgrade"),
        contextlib.closing(connect(path)) as db,
    ):
        is_old = lambda: db.execute("PRAGMA user_version").fetchone() == (VERSION - 1,)  # noqa: E731
        if not is_old():
            return
        with take_lock(path):
            if not is_old():
                return  # another process was faster
            db.executescript(f"BEGIN IMMEDIATE; {_FROM_VERSION_2} COMMIT;")


def is_new(path: Path) -> bool:
    """Whether a journal is empty or missing.

    Raises:
      UserError: The file is not a journal of this version.
    """
    if not path.is_file():
        return True
    with (
        sqlite_errors(path, "read"),
        contextlib.closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as db,
    ):
        return check_version(db, path) == 0


@contextlib.contextmanager
def sqlite_errors(path: Path, doing: str) -> Iterator[None]:
    """Converts SQLite's errors about the file or the disk to `UserError`.

    Args:
      path: The journal.
      doing: The operation, as a verb.

    Raises:
      UserError: The operation failed.
      DiskFullError: The disk is full.
    """
    try:
        yield
    except sqlite3.DatabaseError as error:
        code = getattr(error, "sqlite_errorcode", None)
        if code == sqlite3.SQLITE_FULL:
            raise DiskFullError(
                f"no room left on the disk for the journal {path}; free some space, then run the "
                "same command again: it resumes where it stopped."
            ) from error
        if code == sqlite3.SQLITE_NOTADB:
            raise DamagedJournalError(
                f"{path} is not a journal; restore it from a copy, or choose another folder."
            ) from error
        if code == sqlite3.SQLITE_CORRUPT:
            raise DamagedJournalError(
                f"the journal {path} is damaged: {error}; restore it from a copy, or use what can "
                f"be read (sqlite3 {path} .recover | sqlite3 NEW)."
            ) from error
        if isinstance(error, sqlite3.IntegrityError | sqlite3.ProgrammingError):
            raise  # a bug
        if code == sqlite3.SQLITE_ERROR:  # a query failed: other tables or columns
            raise DamagedJournalError(
                f"the journal {path} is damaged: {error}; restore it from a copy."
            ) from error
        raise UserError(
            f"cannot {doing} the journal {path}: {error}; check the file, the disk and its quota, "
            "then run the same command again: it resumes where it stopped."
        ) from error


def put_aside(journal: Path, *, with_them: Sequence[str] = ()) -> None:
    """Moves a journal, damaged or not, into a new folder `earlier-N` beside it.

    Args:
      journal: Its path.
      with_them: Names of files of the same folder to move too, even if the journal is missing.

    Raises:
      UserError: Another process writes it.
    """
    log = [f"{journal.name}-{ending}" for ending in ("wal", "shm")]
    with_them = (*with_them, *log)
    if not any((journal.parent / name).exists() for name in (*with_them, journal.name)):
        return
    lock = take_lock(journal)
    try:
        # Merge the write-ahead log into the file; a damaged journal is moved unchanged.
        with (
            contextlib.suppress(DamagedJournalError),
            sqlite_errors(journal, "put aside"),
            contextlib.closing(sqlite3.connect(f"{journal.resolve().as_uri()}?mode=rw", uri=True))
            if journal.is_file()
            else contextlib.nullcontext() as db,
        ):
            if db is not None:
                check_version(db, journal)
                db.execute("PRAGMA journal_mode = DELETE")
        numbers = itertools.count(1)
        target = next(
            folder for n in numbers if not (folder := journal.parent / f"earlier-{n}").exists()
        )
        target.mkdir()
        # The journal last: after a kill in between, the next call moves the rest.
        for name in (*with_them, journal.name):
            if (path := journal.parent / name).exists():
                path.rename(target / name)
    finally:
        lock.close()
