"""The journal: an SQLite file with every request and reply, written before anything is done.

A request is in it before it is sent, and a reply before it is used. So whoever was killed reads it
and goes on: what has a reply is never paid for twice, and what was sent without one is sent again,
as a new row. Any SQLite program can read it, also while a collection writes.
"""

import asyncio
import contextlib
import fcntl
import json
import queue
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any, NamedTuple

from parrot_jax.api.replies import Outcome, Reply, Response
from parrot_jax.core.errors import DiskFullError, UserError

SCHEMA = """
-- Each start of the run that writes this journal.
CREATE TABLE starts (
  id INTEGER PRIMARY KEY,
  started_at REAL NOT NULL,            -- as all times: seconds since 1970
  config TEXT NOT NULL                 -- JSON
) STRICT;

-- What the requests are about; written with the first start and never changed.
CREATE TABLE dialogues (
  number INTEGER PRIMARY KEY,          -- 0, 1, 2, ...
  beginning TEXT NOT NULL              -- a row of a `messages` file
) STRICT;

-- Written before the request is sent. Each attempt is a request of its own.
CREATE TABLE requests (
  id INTEGER PRIMARY KEY,
  start INTEGER NOT NULL REFERENCES starts,
  dialogue INTEGER NOT NULL REFERENCES dialogues,
  turn INTEGER NOT NULL,               -- the turn that it asks for: 0, 1, 2, ... user and assistant
  speaker TEXT NOT NULL,               -- the endpoint, e.g. asker
  attempt INTEGER NOT NULL,            -- 1, 2, ... within this start
  sent_at REAL NOT NULL,
  body TEXT NOT NULL                   -- JSON, as sent
) STRICT;
CREATE INDEX requests_of_turns ON requests (dialogue, turn);

-- Written before the reply is used. No row: none came before the run ended or was killed.
CREATE TABLE replies (
  request INTEGER PRIMARY KEY REFERENCES requests,
  received_at REAL NOT NULL,
  outcome TEXT NOT NULL,               -- complete, cut, filtered, context_full or failed
  text TEXT NOT NULL,                  -- what was said
  prompt_tokens INTEGER,
  completion_tokens INTEGER,
  status INTEGER,                      -- of HTTP; null where the connection failed
  error TEXT,
  body TEXT                            -- as received
) STRICT;
"""

_VERSION = 1
_ADD_START = "INSERT INTO starts (started_at, config) VALUES (?, ?)"
_ADD_DIALOGUE = "INSERT INTO dialogues (number, beginning) VALUES (?, ?)"
_ADD_REQUEST = (
    "INSERT INTO requests (start, dialogue, turn, speaker, attempt, sent_at, body) "
    "VALUES (?, ?, ?, ?, ?, ?, ?)"
)
_ADD_REPLY = "INSERT INTO replies VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"


class Said(NamedTuple):
    """A reply that counts, and the turn of the dialogue that it is for."""

    turn: int
    reply: Reply


class Counts(NamedTuple):
    """What a journal holds, in numbers."""

    requests: int
    """All that were journaled as sent."""
    repeated: int
    """Of these, the ones that were sent again because the run had ended before their reply."""
    failed: int
    """Attempts that failed."""
    tokens: dict[str, dict[str, int]]
    """Tokens of prompts and of completions, by speaker, as far as the servers count them."""
    wall_s: float
    """Seconds from each start to its last reply, summed over the starts."""


class JournalReader:
    """Reads a journal, whoever writes it.

    Raises:
      UserError: There is no journal at the path.
    """

    def __init__(self, path: Path | str) -> None:
        """Opens the file for reading."""
        self.path = Path(path)
        if not self.path.is_file():
            raise UserError(f"there is no journal {self.path}; check the path.")
        with _sqlite_errors(self.path, "read"):
            self._db = sqlite3.connect(f"{self.path.resolve().as_uri()}?mode=ro", uri=True)
            if _check_version(self._db, self.path) == 0:
                raise UserError(f"the journal {self.path} is empty: its run was killed at once.")

    def close(self) -> None:
        """Closes the file."""
        self._db.close()

    def last_config(self) -> Any:
        """The config of the last start, as plain values."""
        ((config,),) = self._read("SELECT config FROM starts ORDER BY id DESC LIMIT 1")
        return json.loads(config)

    def num_dialogues(self) -> int:
        """How many dialogues there are; their numbers start at 0."""
        ((number,),) = self._read("SELECT count(*) FROM dialogues")
        return number

    def beginning(self, dialogue: int) -> str:
        """What a dialogue begins with, as it was given to `JournalWriter.begin`."""
        ((beginning,),) = self._read("SELECT beginning FROM dialogues WHERE number = ?", dialogue)
        return beginning

    def said(self, dialogue: int) -> list[Said]:
        """The replies of a dialogue that did not fail, by turn."""
        rows = self._read(
            """
            SELECT turn, outcome, text FROM requests JOIN replies ON request = id
            WHERE dialogue = ? AND outcome <> 'failed' ORDER BY turn, id
            """,
            dialogue,
        )
        return [Said(turn, Reply(Outcome(outcome), text)) for turn, outcome, text in rows]

    def counts(self) -> Counts:
        """Counts requests and tokens over the whole journal."""
        ((requests, unanswered, failed),) = self._read("""
            SELECT count(*), coalesce(sum(outcome IS NULL), 0),
                   coalesce(sum(outcome = 'failed'), 0)
            FROM requests LEFT JOIN replies ON request = id
        """)
        # The last request of a turn, where it has no reply, was not sent again yet.
        ((waiting,),) = self._read("""
            SELECT count(*) FROM (
              SELECT max(id) AS last FROM requests GROUP BY dialogue, turn
            ) WHERE last NOT IN (SELECT request FROM replies)
        """)
        tokens = self._read("""
            SELECT speaker, sum(prompt_tokens), sum(completion_tokens)
            FROM requests JOIN replies ON request = id GROUP BY speaker ORDER BY speaker
        """)
        ((wall_s,),) = self._read("""
            SELECT coalesce(sum(last - started_at), 0.0) FROM starts JOIN (
              SELECT start, max(received_at) AS last
              FROM requests JOIN replies ON request = id GROUP BY start
            ) ON start = starts.id
        """)
        return Counts(
            requests=requests,
            repeated=unanswered - waiting,
            failed=failed,
            tokens={
                speaker: {"prompt": prompt or 0, "completion": completion or 0}
                for speaker, prompt, completion in tokens
            },
            wall_s=wall_s,
        )

    def _read(self, query: str, *values: int) -> list[tuple[Any, ...]]:
        with _sqlite_errors(self.path, "read"):
            return self._db.execute(query, values).fetchall()


class _Row(NamedTuple):
    """A row to be written, and who waits for it."""

    statement: str
    values: tuple[Any, ...]
    loop: asyncio.AbstractEventLoop
    written: "asyncio.Future[int]"


class JournalWriter:
    """Writes a journal; one process at a time.

    All rows go through one thread. It commits what has gathered while the commit before ran, so
    that hundreds of requests in flight share the wait for the disk.
    """

    def __init__(self, path: Path | str) -> None:
        """Opens the journal and takes its lock; `begin` or `go_on` comes next.

        Raises:
          UserError: The folder cannot be written, another process writes this journal, or the file
            is no journal.
        """
        self.path = Path(path)
        self._start = 0
        self._rows: queue.SimpleQueue[_Row | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._write_rows, name="journal", daemon=True)
        self._lock = _take_lock(self.path)
        try:
            with _sqlite_errors(self.path, "open"):
                # Statements are committed by name: the module's own transactions are switched off.
                self._db = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False)
                # First of all, as the next line would change somebody else's file.
                self.is_new = _check_version(self._db, self.path) == 0
                self._db.execute("PRAGMA journal_mode = WAL")
                self._db.execute("PRAGMA synchronous = FULL")
                self._db.execute("PRAGMA foreign_keys = ON")
        except BaseException:
            self._lock.close()
            raise

    def begin(self, config: Mapping[str, Any], beginnings: Iterable[str]) -> None:
        """Starts a new journal: wholly, or not at all.

        Args:
          config: What the run was told.
          beginnings: What each dialogue begins with.
        """
        with self._transaction():
            for statement in SCHEMA.split(";\n"):
                self._db.execute(statement)
            self._db.execute(f"PRAGMA user_version = {_VERSION}")
            self._add_start(config)
            self._db.executemany(_ADD_DIALOGUE, enumerate(beginnings))
        self._thread.start()

    def go_on(self, config: Mapping[str, Any]) -> None:
        """Starts once more in a journal that others have begun."""
        with self._transaction():
            self._add_start(config)
        self._thread.start()

    async def sent(self, *, dialogue: int, turn: int, speaker: str, attempt: int, body: str) -> int:
        """Journals a request; when this returns, it survives a power failure.

        Args:
          dialogue: The number of the dialogue.
          turn: The turn that the request asks for, from 0.
          speaker: The name of the endpoint.
          attempt: From 1.
          body: The body of the request, as JSON.

        Returns:
          The request's id in the journal.

        Raises:
          UserError: The journal cannot be written.
        """
        values = (self._start, dialogue, turn, speaker, attempt, time.time(), body)
        return await self._written(_ADD_REQUEST, values)

    async def received(self, request: int, response: Response) -> None:
        """Journals what came back; when this returns, it survives a power failure.

        Raises:
          UserError: The journal cannot be written.
        """
        values = (
            request, time.time(), response.reply.outcome.value, response.reply.text,
            response.prompt_tokens, response.completion_tokens,
            response.status, response.error, response.body,
        )  # fmt: skip
        await self._written(_ADD_REPLY, values)

    def __enter__(self) -> "JournalWriter":
        """The journal is open already."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Closes the journal."""
        self.close()

    def close(self) -> None:
        """Writes what is still to be written, closes the file and gives the lock back."""
        if self._thread.is_alive():
            self._rows.put(None)
            self._thread.join()
        self._db.close()
        self._lock.close()

    def _add_start(self, config: Mapping[str, Any]) -> None:
        values = (time.time(), json.dumps(config, ensure_ascii=False))
        self._start = self._db.execute(_ADD_START, values).lastrowid or 0

    async def _written(self, statement: str, values: tuple[Any, ...]) -> int:
        loop = asyncio.get_running_loop()
        row = _Row(statement, values, loop, loop.create_future())
        self._rows.put(row)
        return await row.written

    def _write_rows(self) -> None:
        """The thread: commits the rows that are there, all in one transaction, again and again."""
        is_open = True
        while is_open:
            gathered = [self._rows.get()]
            with contextlib.suppress(queue.Empty):
                while True:
                    gathered.append(self._rows.get_nowait())
            rows = [row for row in gathered if row is not None]
            is_open = len(rows) == len(gathered)
            if rows:
                rows[0].loop.call_soon_threadsafe(_tell, rows, self._commit(rows))

    def _commit(self, rows: list[_Row]) -> list[int] | Exception:
        """The ids of the rows; or why none of them was written."""
        try:
            with self._transaction():
                return [self._db.execute(r.statement, r.values).lastrowid or 0 for r in rows]
        except Exception as error:
            return error

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        with _sqlite_errors(self.path, "write"):
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            finally:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")


def _tell(rows: list[_Row], outcome: list[int] | Exception) -> None:
    """Wakes those who wait; in their event loop. Some may have been cancelled meanwhile."""
    for number, row in enumerate(rows):
        if row.written.done():
            continue
        if isinstance(outcome, Exception):
            row.written.set_exception(outcome)
        else:
            row.written.set_result(outcome[number])


def _take_lock(journal: Path) -> IO[str]:
    """Locks a file beside the journal; SQLite's own locks would keep readers out as well."""
    try:
        journal.parent.mkdir(parents=True, exist_ok=True)
        lock = open(journal.with_name(f".{journal.name}.lock"), "w")  # noqa: SIM115
    except OSError as error:
        raise UserError(
            f"cannot write into the folder {journal.parent}: {error.strerror}; choose another one."
        ) from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock.close()
        raise UserError(
            f"another process writes the journal {journal}; wait for it or stop it."
        ) from None
    return lock


def _check_version(db: sqlite3.Connection, path: Path) -> int:
    """The journal's version; 0 = nothing is in it yet."""
    (version,) = db.execute("PRAGMA user_version").fetchone()
    (tables,) = db.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    if version not in (0, _VERSION) or (version == 0 and tables):
        raise UserError(
            f"{path} is no journal of this version of parrot ({_VERSION}); choose another folder."
        )
    return version


@contextlib.contextmanager
def _sqlite_errors(path: Path, doing: str) -> Iterator[None]:
    """Turns what SQLite says of the file or the disk into one line."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        code = getattr(error, "sqlite_errorcode", None)
        if code == sqlite3.SQLITE_FULL:
            raise DiskFullError(
                f"no room left on the disk for the journal {path}; free some space, then run the "
                "same command again: it continues where it stopped."
            ) from error
        if code == sqlite3.SQLITE_NOTADB:
            raise UserError(f"{path} is no journal; choose another folder.") from error
        if isinstance(error, sqlite3.IntegrityError | sqlite3.ProgrammingError):
            raise  # a bug
        raise UserError(
            f"cannot {doing} the journal {path}: {error}; check the file, the disk and its quota, "
            "then run the same command again: it continues where it stopped."
        ) from error
