"""The journal: an SQLite file with every request and reply; a write-ahead log of a job.

A request is written before it is sent, and a reply before it is used. So a killed run resumes from
it: a request with a reply is never paid for twice, and one without a reply is sent again, as a new
row. Any SQLite program can read it, also while a job writes.
"""

import asyncio
import contextlib
import json
import os
import queue
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any, NamedTuple

from parrot_jax.api.journal_file import (
    SCHEMA,
    VERSION,
    check_version,
    connect,
    sqlite_errors,
    take_lock,
)
from parrot_jax.api.replies import Response, Usage
from parrot_jax.core.errors import UserError

_ADD_START = "INSERT INTO starts (started_at, config, prompts) VALUES (?, ?, ?)"
_ADD_ITEM = "INSERT INTO items (number, input) VALUES (?, ?)"
_ADD_REQUEST = "INSERT INTO requests VALUES (NULL, ?, ?, ?, ?, ?, ?, ?, ?)"
_ADD_REQUEST_BODY = "INSERT INTO request_bodies VALUES (last_insert_rowid(), ?)"
_ADD_REPLY = "INSERT INTO replies VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_ADD_REPLY_BODY = "INSERT INTO reply_bodies VALUES (?, ?, ?)"
_ADD_END = "INSERT OR REPLACE INTO ends VALUES (?, ?, ?, ?, ?, ?)"


class Start(NamedTuple):
    """Config and prompts of a start."""

    config: Mapping[str, Any]
    """As plain values."""
    prompts: Mapping[str, Mapping[str, str]] = MappingProxyType({})
    """Path, sha256 and text of the prompts, by speaker."""


class End(NamedTuple):
    """Why an item is finished."""

    reason: str
    progress: int = 0
    """How far it got; a collection counts question-answer turns."""
    detail: str | None = None


Statement = tuple[str, tuple[Any, ...]]


class _Job(NamedTuple):
    """Rows to write together, and the future that waits for them."""

    statements: tuple[Statement, ...]
    loop: asyncio.AbstractEventLoop
    written: "asyncio.Future[int]"


class JournalWriter:
    """Writes a journal; one process at a time.

    All rows go through one thread. It commits together the rows that arrived during the previous
    commit, so that hundreds of requests share the wait for the disk.
    """

    def __init__(self, path: Path | str) -> None:
        """Opens the journal and takes its lock; call `begin` or `resume` next.

        Raises:
          UserError: The folder cannot be written, another process writes this journal, or the file
            is not a journal.
        """
        self.path = Path(path)
        self._start = 0
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._write_rows, name="journal", daemon=True)
        with contextlib.ExitStack() as stack:
            self._lock = take_lock(self.path)
            stack.callback(self._lock.close)
            with sqlite_errors(self.path, "open"):
                self._db = connect(self.path)
                stack.callback(self._db.close)
                # First, since the next line would change a file that is not a journal.
                self.is_new = check_version(self._db, self.path) == 0
                self._db.execute("PRAGMA journal_mode = WAL")
                self._db.execute("PRAGMA synchronous = FULL")
                self._db.execute("PRAGMA foreign_keys = ON")
                self._inode = os.stat(self.path).st_ino
            stack.pop_all()

    def begin(self, start: Start, items: Iterable[str]) -> None:
        """Starts a new journal, in one transaction.

        Args:
          start: Config and prompts of the run.
          items: The input of each, as JSON.
        """
        with self._transaction():
            for statement in SCHEMA.split(";\n"):
                self._db.execute(statement)
            self._db.execute(f"PRAGMA user_version = {VERSION}")
            self._add_start(start)
            self._db.executemany(_ADD_ITEM, enumerate(items))
        self._thread.start()

    def resume(self, start: Start, more_items: Iterable[str] = ()) -> None:
        """Adds a start to a journal that already has items.

        Args:
          start: Config and prompts of the run.
          more_items: Inputs of items to append.
        """
        with self._transaction():
            self._add_start(start)
            ((first,),) = self._db.execute("SELECT count(*) FROM items")
            self._db.executemany(_ADD_ITEM, enumerate(more_items, first))
        self._thread.start()

    async def sent(
        self, *, item: int, step: int, speaker: str, attempt: int, body: str, worst: Usage
    ) -> int:
        """Journals a request; when this returns, it survives a power failure.

        Args:
          item: The number of the item.
          step: Which of its requests it is, from 0.
          speaker: The name of the endpoint.
          attempt: From 1.
          body: The body of the request, as JSON.
          worst: Upper bound on its tokens.

        Returns:
          The request's id in the journal.

        Raises:
          UserError: The journal cannot be written, or its folder was moved.
        """
        self.check_in_place()
        values = (self._start, item, step, speaker, attempt, time.time(), *worst)
        return await self._written((_ADD_REQUEST, values), (_ADD_REQUEST_BODY, (body,)))

    def check_in_place(self) -> None:
        """Checks that the file has not been moved or removed.

        Raises:
          UserError: It was; later runs would not find new rows.
        """
        try:
            found = os.stat(self.path).st_ino
        except OSError:
            found = None
        if found != self._inode:
            raise UserError(
                f"the journal {self.path} was moved or removed while it was being written: nothing "
                "more is sent. Put its folder back and run the same command again."
            )

    async def received(self, request: int, response: Response) -> None:
        """Journals a response; when this returns, it survives a power failure.

        Args:
          request: From `sent`.
          response: The response.

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

    async def ended(self, item: int, end: End) -> None:
        """Journals why an item is finished.

        Raises:
          UserError: The journal cannot be written.
        """
        values = (item, self._start, time.time(), end.reason, end.progress, end.detail)
        await self._written((_ADD_END, values))

    def __enter__(self) -> "JournalWriter":
        """Returns the open journal."""
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
        """Writes pending rows, closes the file and releases the lock."""
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
        """Writes rows together; returns the id of the first."""
        loop = asyncio.get_running_loop()
        job = _Job(statements, loop, loop.create_future())
        self._jobs.put(job)
        return await job.written

    def _write_rows(self) -> None:
        """The thread's loop: commits all pending rows in one transaction."""
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
        """Returns the id of each job's first row, or the error if none was written."""
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
        with sqlite_errors(self.path, "write"):
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            finally:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")


def _tell(jobs: list[_Job], outcome: list[int] | Exception) -> None:
    """Wakes the waiting tasks, in their event loop. Some may have been cancelled."""
    for number, job in enumerate(jobs):
        if job.written.done():
            continue
        if isinstance(outcome, Exception):
            job.written.set_exception(outcome)
        else:
            job.written.set_result(outcome[number])
