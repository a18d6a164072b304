"""The file of an index: tables, and who may write it. It is a cache: a damaged one is made again.

<cache_dir>/view/<key>.sqlite    the index of one path
<cache_dir>/view/<key>.lock      held by the process that keeps it up to date
"""

import hashlib
import sqlite3
from pathlib import Path

from parrot_jax import collect, dialogue, evaluate, view
from parrot_jax.core.errors import DiskFullError, UserError

SCHEMA = """
-- `program`: the code that wrote it. `revision`: raised by each change. `generation`: raised when
-- it is started over. `identity`: what was read, if not files of lines.
CREATE TABLE about (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID;

CREATE TABLE dialogues (
  number INTEGER PRIMARY KEY,          -- 0, 1, 2, ...
  turns INTEGER NOT NULL,              -- questions
  words INTEGER NOT NULL,
  score REAL                           -- null = it has none
) STRICT;
CREATE INDEX by_turns ON dialogues (turns, number);
CREATE INDEX by_words ON dialogues (words, number);
CREATE INDEX by_score ON dialogues (score, number) WHERE score IS NOT NULL;

-- Apart from the numbers, so that filters and orders do not read the texts.
CREATE TABLE lines (
  number INTEGER PRIMARY KEY,
  version TEXT NOT NULL,               -- of a dialogue that can still grow
  place TEXT NOT NULL,
  opening TEXT NOT NULL,
  stop TEXT NOT NULL,
  models TEXT NOT NULL,                -- JSON lists
  flags TEXT NOT NULL
) STRICT;
CREATE TABLE bodies (number INTEGER PRIMARY KEY, body BLOB NOT NULL) STRICT;

CREATE TABLE marks (
  kind TEXT NOT NULL,                  -- stop, model or flag
  name TEXT NOT NULL,
  number INTEGER NOT NULL,
  PRIMARY KEY (kind, name, number)
) STRICT, WITHOUT ROWID;
CREATE TABLE mark_counts (
  kind TEXT NOT NULL,
  name TEXT NOT NULL,
  dialogues INTEGER NOT NULL,
  PRIMARY KEY (kind, name)
) STRICT, WITHOUT ROWID;

CREATE VIRTUAL TABLE texts USING fts5(
  text, content = '', tokenize = 'unicode61 remove_diacritics 2'
);

CREATE TABLE rejected (
  id INTEGER PRIMARY KEY,
  place TEXT NOT NULL,
  problem TEXT NOT NULL,
  UNIQUE (place, problem)
) STRICT;

-- Files of JSON lines, to which rows can be appended.
CREATE TABLE files (
  path TEXT PRIMARY KEY,
  size INTEGER NOT NULL,               -- as seen when its end was reached
  ctime_ns INTEGER NOT NULL,           -- of any change, also of one that sets the time back
  stop INTEGER NOT NULL,               -- bytes that were read
  lines INTEGER NOT NULL,              -- lines that were read
  unfinished TEXT NOT NULL             -- a last row that cannot be read yet
) STRICT, WITHOUT ROWID;

-- What was read of them, so that a changed byte is noticed.
CREATE TABLE pieces (
  path TEXT NOT NULL,
  start INTEGER NOT NULL,
  stop INTEGER NOT NULL,
  digest BLOB NOT NULL,                -- SHA-256
  PRIMARY KEY (path, start)
) STRICT, WITHOUT ROWID;
"""


def index_path(cache_dir: str, key: str) -> Path:
    """The file of an index.

    Args:
      cache_dir: The folder of caches.
      key: Identifies what is indexed.
    """
    name = hashlib.sha256(key.encode(errors="surrogateescape")).hexdigest()[:16]
    return Path(cache_dir) / "view" / f"{name}.sqlite"


def connect_to_write(path: Path) -> sqlite3.Connection:
    """Opens an index for writing; the caller holds its lock.

    Raises:
      sqlite3.DatabaseError: It is damaged.
    """
    db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    try:
        # A killed process loses nothing; after a power cut the file is intact, without its end.
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = NORMAL")
        db.execute("PRAGMA cache_size = -32000")
        db.execute("PRAGMA busy_timeout = 20000")
    except BaseException:
        db.close()
        raise
    return db


def connect_to_read(path: Path) -> sqlite3.Connection:
    """Opens an index for reading, also while another process writes it."""
    db = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)
    db.execute("PRAGMA busy_timeout = 20000")
    return db


def remove(path: Path) -> None:
    """Deletes an index."""
    for suffix in ("", "-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def program() -> str:
    """A hash of the code that decides what an index holds."""
    digest = hashlib.sha256()
    for room in (dialogue, collect, evaluate, view):
        for file in sorted(Path(str(room.__file__)).parent.glob("*.py")):
            digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def is_damage(error: sqlite3.Error) -> bool:
    """Whether an error means that the file is not an intact index."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    return code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def explain(error: sqlite3.Error, path: Path) -> UserError:
    """The error about a file that cannot be used."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code == sqlite3.SQLITE_FULL:
        return DiskFullError(
            f"no room left on the disk for the index {path}; free some space, and it continues."
        )
    return UserError(f"cannot use the index {path}: {error}; delete it, and it is made again.")
