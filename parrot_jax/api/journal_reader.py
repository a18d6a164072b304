"""Reads a journal, also while a job writes it: replies, ends, counts and cost."""

import contextlib
import itertools
import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from parrot_jax.api.journal import End, Start
from parrot_jax.api.journal_check import check_rows, damaged_row, find_damaged_text, follows_from
from parrot_jax.api.journal_file import DamagedJournalError, check_version, sqlite_errors
from parrot_jax.api.replies import Outcome, Reply, Usage
from parrot_jax.core.errors import UserError


class StepReply(NamedTuple):
    """A valid reply, and its step."""

    step: int
    reply: Reply


class Exchange(NamedTuple):
    """A request and its valid reply."""

    step: int
    request: str
    """The body, as JSON."""
    reply: Reply
    body: str | None
    """The reply's body, as JSON."""
    model: str | None
    """As named by the server."""
    sent_at: float
    """In seconds since 1970."""
    received_at: float
    usage: Usage | None
    """None = the server counted no tokens."""


class Attempt(NamedTuple):
    """A request of an item, with or without a useful reply."""

    step: int
    speaker: str
    outcome: Outcome | None
    """None = no reply: it is in flight, or the run ended first."""
    text: str
    """Of the reply; empty = none."""
    verdict: str | None
    error: str | None
    model: str | None
    """As named by the server."""
    usage: Usage | None
    """None = the server counted no tokens."""
    seconds: float | None
    """From the request to its reply."""


class SpeakerCounts(NamedTuple):
    """Counts of the requests to one endpoint."""

    requests: int = 0
    """All requests that were sent."""
    answered: int = 0
    """Requests with a valid reply."""
    failed: int = 0
    """Requests that failed or were rejected."""
    rate_limited: int = 0
    """Failed requests with status 429."""
    lost: int = 0
    """Requests without a reply: in flight, or the run ended first."""
    known: Usage = Usage()
    """Tokens as counted by the server."""
    uncertain: Usage = Usage()
    """The worst case of requests that may be billed but have no token counts."""


class MeanCall(NamedTuple):
    """Means over the calls for one step."""

    calls: int
    prompt: float
    """Tokens."""
    completion: float
    """Tokens."""
    seconds: float
    """From the request to its reply."""


class Counts(NamedTuple):
    """Counts over a journal."""

    speakers: dict[str, SpeakerCounts]
    repeated: int
    """Requests sent again because an earlier run ended before their reply."""
    wall_s: float
    """Seconds from a start to its last reply, summed over all starts."""


class JournalReader:
    """Reads a journal, also while another process writes it.

    Raises:
      UserError: There is no journal at the path, or a row of it is damaged.
    """

    def __init__(self, path: Path | str) -> None:
        """Opens the file for reading."""
        self.path = Path(path)
        if not self.path.is_file():
            raise DamagedJournalError(f"there is no journal {self.path}; check the path.")
        with sqlite_errors(self.path, "read"), contextlib.ExitStack() as stack:
            self._db = sqlite3.connect(f"{self.path.resolve().as_uri()}?mode=ro", uri=True)
            stack.callback(self._db.close)
            if check_version(self._db, self.path) == 0:
                raise DamagedJournalError(
                    f"the journal {self.path} is empty: its run was killed before it started."
                )
            self._db.text_factory = lambda text: text.decode(errors="backslashreplace")
            check_rows(self._db, self.path)
            self._db.text_factory = lambda text: text.decode()  # its errors are caught below
            stack.pop_all()

    def damaged(self, table: str, row: int, problem: str) -> UserError:
        """The error for a row that cannot be used; see `damaged_row`."""
        return damaged_row(self._db, self.path, table, row, problem)

    def damaged_reply(self, item: int, problem: str) -> UserError:
        """The error for the last reply of an item that has a verdict."""
        query = """
            SELECT max(request) FROM replies JOIN requests ON id = request
            WHERE item = ? AND verdict IS NOT NULL
        """
        ((row,),) = self._read(query, item)
        return self.damaged("replies", row or 0, problem)

    def close(self) -> None:
        """Closes the file."""
        self._db.close()

    def last_start(self) -> Start:
        """Config and prompts of the last start."""
        query = "SELECT id, config, prompts FROM starts ORDER BY id DESC LIMIT 1"
        ((row, *texts),) = self._read(query)
        try:
            values = [json.loads(text) for text in texts]
        except (ValueError, RecursionError) as error:
            raise self.damaged("starts", row, f"it is not JSON: {error}") from None
        if not all(isinstance(value, dict) for value in values):
            raise self.damaged("starts", row, "config or prompts is not a JSON object")
        return Start(*values)

    def begun_at(self) -> float:
        """The time of the first start, in seconds since 1970; identifies the journal."""
        ((started_at,),) = self._read("SELECT started_at FROM starts ORDER BY id LIMIT 1")
        return started_at

    def num_items(self) -> int:
        """The number of items; they are numbered from 0."""
        ((number,),) = self._read("SELECT count(*) FROM items")
        return number

    def item(self, number: int) -> str:
        """The input of an item, as given to `JournalWriter.begin`."""
        ((text,),) = self._read("SELECT input FROM items WHERE number = ?", number)
        return text

    def items(self) -> Iterator[str]:
        """The inputs of all items in order of their numbers; one at a time is in memory."""
        return (text for (text,) in self._stream("SELECT input FROM items ORDER BY number"))

    def said(self, item: int) -> list[StepReply]:
        """The valid replies of an item, in order of the steps.

        Raises:
          UserError: A text does not match its body.
        """
        rows = self._read(
            """
            SELECT id, step, outcome, text, verdict, status, body
            FROM requests JOIN replies ON replies.request = id
            JOIN reply_bodies ON reply_bodies.request = id
            WHERE item = ? AND outcome NOT IN ('failed', 'rejected') ORDER BY step, id
            """,
            item,
        )
        for row, _, _, text, _, status, body in rows:
            if not follows_from(text, status, body):
                problem = "its text does not match its body"
                raise self.damaged("reply_bodies", row, problem)
        return [StepReply(step, Reply(Outcome(o), text, v)) for _, step, o, text, v, _, _ in rows]

    def end(self, item: int) -> End | None:
        """Why an item is finished; None if it is not."""
        query = "SELECT reason, progress, detail FROM ends WHERE item = ?"
        return next((End(*row) for row in self._read(query, item)), None)

    def exchanges(self, item: int) -> list[Exchange]:
        """The requests of an item with valid replies, in order of the steps."""
        rows = self._read(
            """
            SELECT step, request_bodies.body, outcome, text, verdict, reply_bodies.body, model,
              sent_at, received_at, prompt_tokens, completion_tokens
            FROM requests JOIN replies ON replies.request = id
            JOIN reply_bodies ON reply_bodies.request = id
            JOIN request_bodies ON request_bodies.request = id
            WHERE item = ? AND outcome NOT IN ('failed', 'rejected') ORDER BY step, id
            """,
            item,
        )
        return [
            Exchange(
                step, request, Reply(Outcome(outcome), text, verdict), body, model, sent, received,
                None if prompt is None or completion is None else Usage(prompt, completion),
            )
            for step, request, outcome, text, verdict, body, model, sent, received, prompt,
            completion in rows
        ]  # fmt: skip

    def attempts(self, item: int) -> list[Attempt]:
        """All requests of an item, in the order in which they were sent."""
        rows = self._read(
            """
            SELECT step, speaker, outcome, text, verdict, error, model, prompt_tokens,
              completion_tokens, received_at - sent_at
            FROM requests LEFT JOIN replies ON replies.request = id
            LEFT JOIN reply_bodies ON reply_bodies.request = id
            WHERE item = ? ORDER BY id
            """,
            item,
        )
        return [
            Attempt(
                step, speaker, None if outcome is None else Outcome(outcome), text or "", verdict,
                error, model,
                None if prompt is None or completion is None else Usage(prompt, completion),
                seconds,
            )
            for step, speaker, outcome, text, verdict, error, model, prompt, completion, seconds
            in rows
        ]  # fmt: skip

    def versions(self) -> Iterator[tuple[int, str]]:
        """What changes when an item goes on: its number and a text; in order of the numbers.

        Items without a reply and without an end are left out.
        """
        return self._stream("""
            SELECT number, format('%d %d %s %d %d', count(replies.request),
              coalesce(max(replies.request), 0), coalesce(ends.reason, ''),
              coalesce(ends.progress, 0), coalesce(ends.start, 0))
            FROM items LEFT JOIN requests ON requests.item = number
            LEFT JOIN replies ON replies.request = id LEFT JOIN ends ON ends.item = number
            GROUP BY number HAVING count(replies.request) OR ends.item IS NOT NULL ORDER BY number
        """)  # type: ignore[return-value]

    def last_reply_at(self, item: int) -> float | None:
        """The time of an item's last valid reply, in seconds since 1970; None if it has none."""
        query = """
            SELECT max(received_at) FROM requests JOIN replies ON request = id
            WHERE item = ? AND outcome NOT IN ('failed', 'rejected')
        """
        ((received_at,),) = self._read(query, item)
        return received_at

    def num_ends(self) -> dict[str, int]:
        """Number of finished items by reason."""
        return dict(self._read("SELECT reason, count(*) FROM ends GROUP BY reason"))

    def texts(self, newest: int | None = None) -> Iterator[tuple[str, str]]:
        """Speaker and text of the complete replies, newest first; one at a time is in memory.

        Args:
          newest: Most replies to read; None = all.
        """
        query = """
            SELECT speaker, text FROM replies JOIN reply_bodies USING (request)
            JOIN requests ON id = request WHERE outcome = 'complete'
            ORDER BY replies.request DESC LIMIT ?
        """
        rows = self._stream(query, -1 if newest is None else newest)
        return ((speaker, text) for speaker, text in rows)

    def errors(self, *, most: int) -> dict[str, int]:
        """Number of items that ended with an error, by the endpoint's message."""
        query = """
            SELECT coalesce(detail, 'unknown'), count(*) FROM ends WHERE reason = 'error'
            GROUP BY detail ORDER BY count(*) DESC, detail LIMIT ?
        """
        return dict(self._read(query, most))

    def rejected(self) -> set[int]:
        """The items with a rejected request."""
        query = """
            SELECT DISTINCT item FROM replies JOIN requests ON id = request
            WHERE outcome = 'rejected'
        """
        return {item for (item,) in self._read(query)}

    def is_at_fault(self, item: int, step: int) -> bool:
        """Whether a step's last request was rejected for its content, not for the settings.

        True if a request sent later has a reply; or if the same request was also rejected, or
        forbidden (403), in an earlier start, and others have had replies since.
        """
        rejected = self._read(
            """
            SELECT id, start, speaker, outcome FROM requests JOIN replies ON replies.request = id
            JOIN request_bodies ON request_bodies.request = id
            WHERE item = ?1 AND step = ?2 AND (outcome = 'rejected' OR status = 403)
              AND body = (
                SELECT body FROM requests JOIN request_bodies ON request = id
                WHERE item = ?1 AND step = ?2 ORDER BY id DESC LIMIT 1
              )
            ORDER BY id
            """,
            item,
            step,
        )
        if not rejected:
            return False
        first, start, speaker, outcome = rejected[0]
        is_first_time = rejected[-1][1] == start
        if is_first_time and outcome == "failed":
            return False
        query = f"""
            SELECT 1 FROM requests JOIN replies ON request = id
            WHERE {"id > ?" if is_first_time else "start >= ?"} AND speaker = ?
              AND outcome NOT IN ('failed', 'rejected') LIMIT 1
        """
        return bool(self._read(query, first if is_first_time else start, speaker))

    def without_end(self) -> list[int]:
        """The numbers of unfinished items."""
        query = "SELECT number FROM items WHERE number NOT IN (SELECT item FROM ends)"
        return [number for (number,) in self._read(query)]

    def ended(self, reason: str, *, below: int) -> list[int]:
        """The numbers of items that ended for this reason with progress below a limit."""
        query = "SELECT item FROM ends WHERE reason = ? AND progress < ?"
        return [number for (number,) in self._read(query, reason, below)]

    def models(self) -> dict[str, list[str]]:
        """Models that replied, by speaker, as the servers name them."""
        rows = self._read("""
            SELECT DISTINCT speaker, model FROM requests JOIN replies ON request = id
            WHERE model IS NOT NULL ORDER BY speaker, model
        """)
        found: dict[str, list[str]] = {}
        for speaker, model in rows:
            found.setdefault(speaker, []).append(model)
        return found

    def useful_speakers(self) -> set[str]:
        """The speakers with at least one useful reply."""
        rows = self._read("""
            SELECT DISTINCT speaker FROM requests JOIN replies ON replies.request = id
            JOIN reply_bodies ON reply_bodies.request = id
            WHERE outcome = 'complete' AND verdict IS NULL AND text <> ''
        """)
        return {speaker for (speaker,) in rows}

    def models_of(self, item: int) -> dict[str, list[str]]:
        """Models with valid replies in an item, by speaker, as the servers name them."""
        rows = self._read(
            """
            SELECT speaker, model FROM requests JOIN replies ON request = id
            WHERE item = ? AND outcome = 'complete' GROUP BY speaker, model ORDER BY min(id)
            """,
            item,
        )
        found: dict[str, list[str]] = {}
        for speaker, model in rows:
            found.setdefault(speaker, []).extend([] if model is None else [model])
        return found

    def means(self) -> dict[tuple[str, int], MeanCall]:
        """Means over complete replies, by speaker and step."""
        rows = self._read("""
            SELECT speaker, step, count(*), avg(prompt_tokens), avg(completion_tokens),
              avg(received_at - sent_at)
            FROM requests JOIN replies ON request = id
            WHERE outcome = 'complete' AND prompt_tokens IS NOT NULL GROUP BY speaker, step
        """)
        return {(speaker, step): MeanCall(*means) for speaker, step, *means in rows}

    def last_steps(self) -> dict[int, int]:
        """The last step with a complete reply, for each open item that has one."""
        rows = self._read("""
            SELECT item, max(step) FROM requests JOIN replies ON request = id
            WHERE outcome = 'complete' AND item NOT IN (SELECT item FROM ends)
            GROUP BY item
        """)
        return dict(rows)

    def replies_since(self, time_s: float) -> int:
        """Number of replies since a time, in seconds since 1970."""
        # Newest first, so that only the last minute of a long run is read.
        newest = self._stream("SELECT received_at FROM replies ORDER BY request DESC")
        return sum(1 for _ in itertools.takewhile(lambda row: row[0] >= time_s, newest))

    def counts(self) -> Counts:
        """Counts requests and tokens over the whole journal."""
        rows = self._read("""
            SELECT speaker, count(*),
              coalesce(sum(outcome NOT IN ('failed', 'rejected')), 0),
              coalesce(sum(outcome IN ('failed', 'rejected')), 0),
              coalesce(sum(status = 429), 0), sum(outcome IS NULL),
              coalesce(sum(prompt_tokens), 0), coalesce(sum(completion_tokens), 0),
              sum(iif(coalesce(may_be_billed, 1) AND prompt_tokens IS NULL, worst_prompt, 0)),
              sum(iif(coalesce(may_be_billed, 1) AND prompt_tokens IS NULL, worst_completion, 0))
            FROM requests LEFT JOIN replies ON request = id GROUP BY speaker ORDER BY speaker
        """)
        # A step's last request without a reply has not been sent again yet.
        ((repeated,),) = self._read("""
            SELECT count(*) FROM requests AS lost
            WHERE id NOT IN (SELECT request FROM replies) AND EXISTS (
              SELECT 1 FROM requests AS later
              WHERE later.item = lost.item AND later.step = lost.step AND later.id > lost.id
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
        with sqlite_errors(self.path, "read"):
            try:
                yield from self._db.execute(query, values)
            except UnicodeDecodeError:
                raise find_damaged_text(self._db, self.path) from None
