"""The journal: an SQLite file with every request and reply, written before anything is done.

A request is in it before it is sent, and a reply before it is used. So whoever was killed reads it
and goes on: what has a reply is never paid for twice, and what was sent without one is sent again,
as a new row. Any SQLite program can read it, also while a collection writes.
"""

import asyncio
import contextlib
import fcntl
import itertools
import json
import queue
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import IO, Any, NamedTuple

from parrot_jax.api.replies import Outcome, Reply, Response, Usage
from parrot_jax.core.errors import DiskFullError, UserError

SCHEMA = """
-- Each start of the run that writes this journal.
CREATE TABLE starts (
  id INTEGER PRIMARY KEY,
  started_at REAL NOT NULL,            -- as all times: seconds since 1970
  config TEXT NOT NULL,                -- JSON
  prompts TEXT NOT NULL                -- JSON: speaker: {path, sha256, text}
) STRICT;

-- What the requests are about. Later starts may add some, but never change one.
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
  attempt INTEGER NOT NULL,            -- 1, 2, ... within this start; none for "too many requests"
  sent_at REAL NOT NULL,
  worst_prompt INTEGER NOT NULL,       -- tokens that it may cost at most
  worst_completion INTEGER NOT NULL
) STRICT;
CREATE INDEX requests_of_turns ON requests (dialogue, turn);

-- Written before the reply is used. No row: none came before the run ended or was killed.
CREATE TABLE replies (
  request INTEGER PRIMARY KEY REFERENCES requests,
  received_at REAL NOT NULL,
  outcome TEXT NOT NULL,               -- complete, cut, filtered, context_full, rejected or failed
  verdict TEXT,                        -- why the text is of no use; null where it is
  prompt_tokens INTEGER,               -- as the server counts
  completion_tokens INTEGER,
  may_be_billed INTEGER NOT NULL,      -- 0: it cost nothing
  status INTEGER,                      -- of HTTP; null where the connection failed
  model TEXT,                          -- as the server names it
  error TEXT
) STRICT;

-- The words are apart, so that whoever counts need not read them.
CREATE TABLE request_bodies (
  request INTEGER PRIMARY KEY REFERENCES requests,
  body TEXT NOT NULL                   -- JSON, as sent
) STRICT;
CREATE TABLE reply_bodies (
  request INTEGER PRIMARY KEY REFERENCES requests,
  text TEXT NOT NULL,                  -- what was said
  body TEXT                            -- as received
) STRICT;

-- Why a dialogue does not go on. A later start may take it up again, and then ends it anew.
CREATE TABLE ends (
  dialogue INTEGER PRIMARY KEY REFERENCES dialogues,
  start INTEGER NOT NULL REFERENCES starts,
  ended_at REAL NOT NULL,
  reason TEXT NOT NULL,
  turns INTEGER NOT NULL,              -- questions with their answers
  detail TEXT
) STRICT;
"""

_VERSION = 2
_NETWORK_FILE_SYSTEMS = frozenset(
    {
        *(
            "nfs",
            "nfs4",
            "cifs",
            "smb3",
            "smbfs",
            "afs",
            "ceph",
            "lustre",
            "gpfs",
            "beegfs",
            "glusterfs",
        ),
        *(
            "sshfs",
            "gcsfuse",
            "s3fs",
            "rclone",
            "juicefs",
            "blobfuse2",
            "goofys",
            "wekafs",
            "orangefs",
        ),
    }
)
_ADD_START = "INSERT INTO starts (started_at, config, prompts) VALUES (?, ?, ?)"
_ADD_DIALOGUE = "INSERT INTO dialogues (number, beginning) VALUES (?, ?)"
_ADD_REQUEST = "INSERT INTO requests VALUES (NULL, ?, ?, ?, ?, ?, ?, ?, ?)"
_ADD_REQUEST_BODY = "INSERT INTO request_bodies VALUES (last_insert_rowid(), ?)"
_ADD_REPLY = "INSERT INTO replies VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_ADD_REPLY_BODY = "INSERT INTO reply_bodies VALUES (?, ?, ?)"
_ADD_END = "INSERT OR REPLACE INTO ends VALUES (?, ?, ?, ?, ?, ?)"


class Said(NamedTuple):
    """A reply that counts, and the turn of the dialogue that it is for."""

    turn: int
    reply: Reply


class Start(NamedTuple):
    """What a run was told."""

    config: Mapping[str, Any]
    """As plain values."""
    prompts: Mapping[str, Mapping[str, str]] = MappingProxyType({})
    """Path, sha256 and text of the prompts, by speaker."""


class End(NamedTuple):
    """Why a dialogue does not go on."""

    reason: str
    turns: int
    """Questions with their answers."""
    detail: str | None = None


class SpeakerCounts(NamedTuple):
    """What was sent to one endpoint, and what came of it."""

    requests: int = 0
    """All that were journaled as sent."""
    answered: int = 0
    """Those with a reply that counts."""
    failed: int = 0
    """Attempts that failed."""
    rate_limited: int = 0
    """Of these, the ones that were told "too many"."""
    lost: int = 0
    """Those without a reply: the run ended before it, or they are in flight."""
    known: Usage = Usage()
    """Tokens as the server counts them."""
    uncertain: Usage = Usage()
    """The worst case of those that may be billed, but of which nobody knows the tokens."""


class MeanCall(NamedTuple):
    """What the calls for one turn took on average."""

    calls: int
    prompt: float
    """Tokens."""
    completion: float
    """Tokens."""
    seconds: float
    """From the request to its reply."""


class Counts(NamedTuple):
    """What a journal holds, in numbers."""

    speakers: dict[str, SpeakerCounts]
    repeated: int
    """Requests that were sent again because the run had ended before their reply."""
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

    def last_start(self) -> Start:
        """What the last start was told."""
        (start,) = self._read("SELECT config, prompts FROM starts ORDER BY id DESC LIMIT 1")
        return Start(*map(json.loads, start))

    def num_dialogues(self) -> int:
        """How many dialogues there are; their numbers start at 0."""
        ((number,),) = self._read("SELECT count(*) FROM dialogues")
        return number

    def beginning(self, dialogue: int) -> str:
        """What a dialogue begins with, as it was given to `JournalWriter.begin`."""
        ((beginning,),) = self._read("SELECT beginning FROM dialogues WHERE number = ?", dialogue)
        return beginning

    def beginnings(self) -> Iterator[str]:
        """What all dialogues begin with, by number; one at a time is in memory."""
        return (text for (text,) in self._stream("SELECT beginning FROM dialogues ORDER BY number"))

    def said(self, dialogue: int) -> list[Said]:
        """The replies of a dialogue that did not fail, by turn."""
        rows = self._read(
            """
            SELECT turn, outcome, text, verdict
            FROM requests JOIN replies ON replies.request = id
            JOIN reply_bodies ON reply_bodies.request = id
            WHERE dialogue = ? AND outcome <> 'failed' ORDER BY turn, id
            """,
            dialogue,
        )
        return [Said(turn, Reply(Outcome(outcome), text, v)) for turn, outcome, text, v in rows]

    def end(self, dialogue: int) -> End | None:
        """Why a dialogue does not go on; None = it does."""
        query = "SELECT reason, turns, detail FROM ends WHERE dialogue = ?"
        return next((End(*row) for row in self._read(query, dialogue)), None)

    def num_ends(self) -> dict[tuple[str, int], int]:
        """How many dialogues do not go on, by reason and number of turns."""
        query = "SELECT reason, turns, count(*) FROM ends GROUP BY reason, turns"
        return {(reason, turns): count for reason, turns, count in self._read(query)}

    def without_end(self) -> list[int]:
        """The numbers of the dialogues that go on."""
        query = "SELECT number FROM dialogues WHERE number NOT IN (SELECT dialogue FROM ends)"
        return [number for (number,) in self._read(query)]

    def ended(self, reason: str, *, below_turns: int) -> list[int]:
        """The numbers of the dialogues that ended for this reason with fewer turns than these."""
        query = "SELECT dialogue FROM ends WHERE reason = ? AND turns < ?"
        return [number for (number,) in self._read(query, reason, below_turns)]

    def models(self) -> dict[str, list[str]]:
        """The models that answered, as the servers name them, by speaker."""
        rows = self._read("""
            SELECT DISTINCT speaker, model FROM requests JOIN replies ON request = id
            WHERE model IS NOT NULL ORDER BY speaker, model
        """)
        found: dict[str, list[str]] = {}
        for speaker, model in rows:
            found.setdefault(speaker, []).append(model)
        return found

    def means(self) -> dict[tuple[str, int], MeanCall]:
        """What complete replies took on average, by speaker and turn."""
        rows = self._read("""
            SELECT speaker, turn, count(*), avg(prompt_tokens), avg(completion_tokens),
              avg(received_at - sent_at)
            FROM requests JOIN replies ON request = id
            WHERE outcome = 'complete' AND prompt_tokens IS NOT NULL GROUP BY speaker, turn
        """)
        return {(speaker, turn): MeanCall(*means) for speaker, turn, *means in rows}

    def num_turns(self) -> dict[int, int]:
        """For each open dialogue with replies that count, the last turn that it has."""
        rows = self._read("""
            SELECT dialogue, max(turn) FROM requests JOIN replies ON request = id
            WHERE outcome = 'complete' AND dialogue NOT IN (SELECT dialogue FROM ends)
            GROUP BY dialogue
        """)
        return dict(rows)

    def replies_since(self, time_s: float) -> int:
        """How many replies came since then, in seconds since 1970."""
        # From the newest backwards: a run of days is not read for its last minute.
        newest = self._stream("SELECT received_at FROM replies ORDER BY request DESC")
        return sum(1 for _ in itertools.takewhile(lambda row: row[0] >= time_s, newest))

    def counts(self) -> Counts:
        """Counts requests and tokens over the whole journal."""
        rows = self._read("""
            SELECT speaker, count(*),
              coalesce(sum(outcome <> 'failed'), 0), coalesce(sum(outcome = 'failed'), 0),
              coalesce(sum(status = 429), 0), sum(outcome IS NULL),
              coalesce(sum(prompt_tokens), 0), coalesce(sum(completion_tokens), 0),
              sum(iif(coalesce(may_be_billed, 1) AND prompt_tokens IS NULL, worst_prompt, 0)),
              sum(iif(coalesce(may_be_billed, 1) AND prompt_tokens IS NULL, worst_completion, 0))
            FROM requests LEFT JOIN replies ON request = id GROUP BY speaker ORDER BY speaker
        """)
        # The last request of a turn, where it has no reply, was not sent again yet.
        ((repeated,),) = self._read("""
            SELECT count(*) FROM requests AS lost
            WHERE id NOT IN (SELECT request FROM replies) AND EXISTS (
              SELECT 1 FROM requests AS later
              WHERE later.dialogue = lost.dialogue AND later.turn = lost.turn AND later.id > lost.id
            )
        """)
        ((wall_s,),) = self._read("""
            SELECT coalesce(sum(last - started_at), 0.0) FROM starts JOIN (
              SELECT start, max(received_at) AS last
              FROM requests JOIN replies ON request = id GROUP BY start
            ) ON start = starts.id
        """)
        speakers = {
            speaker: SpeakerCounts(*row[:5], known=Usage(*row[5:7]), uncertain=Usage(*row[7:9]))
            for speaker, *row in rows
        }
        return Counts(speakers, repeated, wall_s)

    def _read(self, query: str, *values: int | str) -> list[tuple[Any, ...]]:
        return list(self._stream(query, *values))

    def _stream(self, query: str, *values: int | str) -> Iterator[tuple[Any, ...]]:
        with _sqlite_errors(self.path, "read"):
            yield from self._db.execute(query, values)


Statement = tuple[str, tuple[Any, ...]]


class _Job(NamedTuple):
    """Rows to be written together, and who waits for it."""

    statements: tuple[Statement, ...]
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
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._write_rows, name="journal", daemon=True)
        self._lock = _take_lock(self.path)
        try:
            with _sqlite_errors(self.path, "open"):
                self._db = _connect(self.path)
                # First of all, as the next line would change somebody else's file.
                self.is_new = _check_version(self._db, self.path) == 0
                self._db.execute("PRAGMA journal_mode = WAL")
                self._db.execute("PRAGMA synchronous = FULL")
                self._db.execute("PRAGMA foreign_keys = ON")
        except BaseException:
            self._lock.close()
            raise

    def begin(self, start: Start, beginnings: Iterable[str]) -> None:
        """Starts a new journal: wholly, or not at all.

        Args:
          start: What the run was told.
          beginnings: What each dialogue begins with.
        """
        with self._transaction():
            for statement in SCHEMA.split(";\n"):
                self._db.execute(statement)
            self._db.execute(f"PRAGMA user_version = {_VERSION}")
            self._add_start(start)
            self._db.executemany(_ADD_DIALOGUE, enumerate(beginnings))
        self._thread.start()

    def go_on(self, start: Start, more_beginnings: Iterable[str] = ()) -> None:
        """Starts once more in a journal that others have begun.

        Args:
          start: What the run was told.
          more_beginnings: Those of dialogues that come after the ones that there are.
        """
        with self._transaction():
            self._add_start(start)
            ((first,),) = self._db.execute("SELECT count(*) FROM dialogues")
            self._db.executemany(_ADD_DIALOGUE, enumerate(more_beginnings, first))
        self._thread.start()

    async def sent(
        self, *, dialogue: int, turn: int, speaker: str, attempt: int, body: str, worst: Usage
    ) -> int:
        """Journals a request; when this returns, it survives a power failure.

        Args:
          dialogue: The number of the dialogue.
          turn: The turn that the request asks for, from 0.
          speaker: The name of the endpoint.
          attempt: From 1.
          body: The body of the request, as JSON.
          worst: The tokens that it may cost at most.

        Returns:
          The request's id in the journal.

        Raises:
          UserError: The journal cannot be written.
        """
        values = (self._start, dialogue, turn, speaker, attempt, time.time(), *worst)
        return await self._written((_ADD_REQUEST, values), (_ADD_REQUEST_BODY, (body,)))

    async def received(self, request: int, response: Response) -> None:
        """Journals what came back; when this returns, it survives a power failure.

        Args:
          request: From `sent`.
          response: What came back.

        Raises:
          UserError: The journal cannot be written.
        """
        values = (
            request, time.time(), response.reply.outcome.value, response.reply.verdict,
            *(response.usage or (None, None)), response.may_be_billed,
            response.status, response.model, response.error,
        )  # fmt: skip
        words = (request, response.reply.text, response.body)
        await self._written((_ADD_REPLY, values), (_ADD_REPLY_BODY, words))

    async def ended(self, dialogue: int, end: End) -> None:
        """Journals why a dialogue does not go on.

        Raises:
          UserError: The journal cannot be written.
        """
        values = (dialogue, self._start, time.time(), end.reason, end.turns, end.detail)
        await self._written((_ADD_END, values))

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
            self._jobs.put(None)
            self._thread.join()
        self._db.close()
        self._lock.close()

    def _add_start(self, start: Start) -> None:
        texts = (json.dumps(dict(part), ensure_ascii=False) for part in start)
        values = (time.time(), *texts)
        self._start = self._db.execute(_ADD_START, values).lastrowid or 0

    async def _written(self, *statements: Statement) -> int:
        """Writes rows together; the id of the first."""
        loop = asyncio.get_running_loop()
        job = _Job(statements, loop, loop.create_future())
        self._jobs.put(job)
        return await job.written

    def _write_rows(self) -> None:
        """The thread: commits the rows that are there, all in one transaction, again and again."""
        is_open = True
        while is_open:
            gathered = [self._jobs.get()]
            with contextlib.suppress(queue.Empty):
                while True:
                    gathered.append(self._jobs.get_nowait())
            jobs = [job for job in gathered if job is not None]
            is_open = len(jobs) == len(gathered)
            if jobs:
                jobs[0].loop.call_soon_threadsafe(_tell, jobs, self._commit(jobs))

    def _commit(self, jobs: list[_Job]) -> list[int] | Exception:
        """The id of each job's first row; or why none of them was written."""
        try:
            with self._transaction():
                return [self._execute(job) for job in jobs]
        except Exception as error:
            return error

    def _execute(self, job: _Job) -> int:
        (first, values), *others = job.statements
        row = self._db.execute(first, values).lastrowid or 0
        for statement, values in others:
            self._db.execute(statement, values)
        return row

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


def put_aside(journal: Path, *, with_them: Sequence[str] = ()) -> None:
    """Moves a journal, where there is one, into a new folder `earlier-N` beside it.

    Args:
      journal: Its path.
      with_them: Names of files of the same folder that go with it.

    Raises:
      UserError: Another process writes it, or the file is no journal.
    """
    if not journal.exists():
        return
    lock = _take_lock(journal)
    try:
        with _sqlite_errors(journal, "put aside"), contextlib.closing(_connect(journal)) as db:
            _check_version(db, journal)
            # Into one file: what stands in the log beside it would stay behind.
            db.execute("PRAGMA journal_mode = DELETE")
        numbers = itertools.count(1)
        target = next(
            folder for n in numbers if not (folder := journal.parent / f"earlier-{n}").exists()
        )
        target.mkdir()
        # The journal last: whoever is killed in between puts the rest aside the next time.
        for name in (*with_them, journal.name):
            if (path := journal.parent / name).exists():
                path.rename(target / name)
    finally:
        lock.close()


def _tell(jobs: list[_Job], outcome: list[int] | Exception) -> None:
    """Wakes those who wait; in their event loop. Some may have been cancelled meanwhile."""
    for number, job in enumerate(jobs):
        if job.written.done():
            continue
        if isinstance(outcome, Exception):
            job.written.set_exception(outcome)
        else:
            job.written.set_result(outcome[number])


def _connect(path: Path) -> sqlite3.Connection:
    # Statements are committed by name: the module's own transactions are switched off.
    return sqlite3.connect(path, isolation_level=None, check_same_thread=False)


def _take_lock(journal: Path) -> IO[str]:
    """Locks a file beside the journal; SQLite's own locks would keep readers out as well."""
    try:
        journal.parent.mkdir(parents=True, exist_ok=True)
        lock = open(journal.with_name(f".{journal.name}.lock"), "w")  # noqa: SIM115
    except OSError as error:
        raise UserError(
            f"cannot write into the folder {journal.parent}: {error.strerror}; choose another one."
        ) from None
    if (kind := _network_file_system(journal.parent)) is not None:
        lock.close()
        raise UserError(
            f"{journal.parent} is on a network file system ({kind}), where two machines could "
            "write one journal and neither would know; choose a folder on a disk of this machine."
        )
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock.close()
        raise UserError(
            f"another process writes the journal {journal}; wait for it or stop it."
        ) from None
    return lock


def _network_file_system(folder: Path) -> str | None:
    """The type of the file system, where other machines may have it as well; else None."""
    import psutil

    target = folder.resolve()
    mounts = [
        (len(Path(part.mountpoint).parts), part.fstype)
        for part in psutil.disk_partitions(all=True)
        if target.is_relative_to(part.mountpoint)
    ]
    # Of two on one place, the later one covers the earlier.
    kind = max(enumerate(mounts), key=lambda item: (item[1][0], item[0]))[1][1] if mounts else ""
    return kind if kind.removeprefix("fuse.") in _NETWORK_FILE_SYSTEMS else None


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
