"""Requests with their journal: every attempt is a row, and a row is there before its request."""

import asyncio
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from parrot_jax.api.caller import Caller, retry_delay_s
from parrot_jax.api.config import EndpointConfig, RetryConfig
from parrot_jax.api.endpoint import Endpoint, request_body
from parrot_jax.api.journal import JournalWriter
from parrot_jax.api.replies import Outcome, Response, no_response, read_response
from parrot_jax.api.scripted_server import Script, Scripted, ScriptedServer

MESSAGES = [{"role": "user", "content": "Hi"}]
QUICK = RetryConfig(max_attempts=3, first_delay_s=0.001)


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    path = tmp_path / "journal.sqlite"
    with JournalWriter(path) as writer:
        writer.begin({}, ["a dialogue"])
    return path


def call(journal: Path, script: Script, *, stop_after_s: float | None = None) -> Response:
    async def once(url: str) -> Response:
        config = EndpointConfig(base_url=url, model="m")
        stopping = asyncio.Event()
        with JournalWriter(journal) as writer:
            writer.go_on({})
            async with Endpoint(config) as endpoint:
                if stop_after_s is not None:
                    asyncio.get_running_loop().call_later(stop_after_s, stopping.set)
                caller = Caller("answerer", endpoint, writer, QUICK, stopping)
                return await caller.call(0, 1, request_body(config, MESSAGES, seed=0))

    with ScriptedServer(script) as server:
        return asyncio.run(once(server.url))


def rows(journal: Path, query: str) -> list[Any]:
    with sqlite3.connect(journal) as db:
        return db.execute(query).fetchall()


def in_turn(*script: Scripted) -> Script:
    steps: Iterator[Scripted] = iter(script)
    return lambda _: next(steps)


def test_attempts_go_on_until_one_succeeds_and_all_are_journaled(journal: Path) -> None:
    faults = Scripted(status=429, text="slow down"), Scripted(hangs_up=True)
    response = call(journal, in_turn(*faults, Scripted(text=" Hello. ")))
    assert response.reply == (Outcome.COMPLETE, "Hello.")
    query = "SELECT attempt, status, outcome, text FROM requests JOIN replies ON request = id"
    assert rows(journal, query) == [
        (1, 429, "failed", ""),
        (2, None, "failed", ""),
        (3, 200, "complete", "Hello."),
    ]


def test_the_last_failure_is_the_answer_when_attempts_run_out(journal: Path) -> None:
    errors = [Scripted(status=500, text=f"boom {n}") for n in range(3)]
    assert call(journal, in_turn(*errors)).error == "HTTP 500: boom 2"


def test_what_does_not_pass_is_tried_once(journal: Path) -> None:
    assert call(journal, in_turn(Scripted(status=404, text="no model"))).status == 404
    assert rows(journal, "SELECT count(*) FROM requests") == [(1,)]


def test_a_wait_between_attempts_ends_when_the_run_stops(journal: Path) -> None:
    busy = Scripted(status=503, text="busy", headers={"retry-after": "50"})
    assert call(journal, lambda _: busy, stop_after_s=0.1).status == 503
    assert rows(journal, "SELECT count(*) FROM requests") == [(1,)]


def test_the_request_is_in_the_journal_when_the_server_gets_it(journal: Path) -> None:
    seen: list[Any] = []

    def look(body: dict[str, Any]) -> Scripted:
        query = "SELECT json(body), (SELECT count(*) FROM replies) FROM requests"
        seen.append((body, rows(journal, query)))
        return Scripted(text="Hello.")

    call(journal, look)
    ((body, [(journaled, num_replies)]),) = seen
    assert body == {"model": "m", "messages": MESSAGES, "seed": 0}
    assert journaled == '{"model":"m","messages":[{"role":"user","content":"Hi"}],"seed":0}'
    assert num_replies == 0


def test_waits_double_and_are_shortened_by_up_to_a_half() -> None:
    rules = RetryConfig(max_attempts=4, first_delay_s=1.0, max_delay_s=3.0)
    failure = no_response("reset")
    assert [retry_delay_s(rules, failure, attempt=n) for n in (1, 2, 3, 4)] == [1, 2, 3, None]
    assert retry_delay_s(rules, failure, attempt=2, shortening=1.0) == 1
    asked = read_response(429, "", retry_after_s=2.5)
    assert retry_delay_s(rules, asked, attempt=1) == 2.5
    long = read_response(429, "", retry_after_s=3600.0)
    assert retry_delay_s(rules, long, attempt=1) == 3
    assert retry_delay_s(rules, read_response(400, ""), attempt=1) is None
