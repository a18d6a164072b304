"""Journaled requests: every attempt has a row, written before the request is sent."""

import asyncio
import contextlib
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from parrot_jax.api.budget import Budget, BudgetSpentError, Spent
from parrot_jax.api.caller import Caller, retry_delay_s
from parrot_jax.api.endpoint import Endpoint, request_body
from parrot_jax.api.endpoint_config import EndpointConfig, RetryConfig
from parrot_jax.api.faulty_server import KEY, LASTING, REFUSALS
from parrot_jax.api.journal import JournalWriter, Start
from parrot_jax.api.replies import Outcome, Reply, Response, Usage, no_response, read_response
from parrot_jax.api.scripted_server import Script, Scripted, ScriptedServer
from parrot_jax.api.throttle import Throttle

MESSAGES = [{"role": "user", "content": "Hi"}]
QUICK = RetryConfig(max_attempts=3, first_delay_s=0.001)


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    path = tmp_path / "journal.sqlite"
    with JournalWriter(path) as writer:
        writer.begin(Start({}), ["a dialogue"])
    return path


def call(
    journal: Path,
    script: Script,
    *,
    retries: RetryConfig = QUICK,
    judge: Callable[[Reply], str | None] = lambda _: None,
    stop_after_s: float | None = None,
    **settings: Any,
) -> tuple[Response | None, Spent]:
    """Makes one call; returns the response and the cost."""
    spent: list[Spent] = []

    async def once(url: str) -> Response | None:
        config = EndpointConfig(base_url=url, model="m", **settings)
        with JournalWriter(journal) as writer:
            writer.resume(Start({}))
            throttle = Throttle(config, retries, most=1)
            wallet = Budget("answerer", config, Spent())
            async with Endpoint(config) as endpoint:
                caller = Caller("answerer", endpoint, writer, retries, throttle, wallet)
                if stop_after_s is not None:
                    asyncio.get_running_loop().call_later(stop_after_s, caller.stop)
                body = request_body(config, MESSAGES, seed=0)
                response = await caller.call(0, 1, body, judge)
                assert (throttle.in_flight, wallet.in_flight) == (0, Usage())
                spent.append(wallet.spent)
                return response

    with ScriptedServer(script) as server:
        response = asyncio.run(once(server.url))
    return response, spent[0]


def last(result: tuple[Response | None, Spent]) -> Response:
    response, _ = result
    assert response is not None
    return response


def rows(journal: Path, query: str) -> list[Any]:
    with contextlib.closing(sqlite3.connect(journal)) as db, db:
        return db.execute(query).fetchall()


def in_turn(*script: Scripted) -> Script:
    steps: Iterator[Scripted] = iter(script)
    return lambda _: next(steps)


def test_attempts_go_on_until_one_succeeds_and_all_are_journaled(journal: Path) -> None:
    faults = Scripted(status=429, text="slow down"), Scripted(hangs_up=True)
    response = last(call(journal, in_turn(*faults, Scripted(text=" Hello. "))))
    assert response.reply == (Outcome.COMPLETE, "Hello.", None)
    # A 429 does not count as an attempt.
    query = "SELECT attempt, status, outcome FROM requests JOIN replies ON request = id"
    assert rows(journal, query) == [
        (1, 429, "failed"),
        (1, None, "failed"),
        (2, 200, "complete"),
    ]
    assert rows(journal, "SELECT text FROM reply_bodies") == [("",), ("",), ("Hello.",)]


def test_too_many_requests_spend_no_attempt_however_often(journal: Path) -> None:
    busy = [Scripted(status=429, text="slow down", headers={"retry-after": "0"})] * 9
    assert QUICK.max_attempts == 3
    assert last(call(journal, in_turn(*busy, Scripted(text="Hello.")))).reply.text == "Hello."


def test_too_many_requests_for_too_long_are_a_failure(journal: Path) -> None:
    busy = Scripted(status=429, text="slow down", headers={"retry-after-ms": "1"})
    retries = RetryConfig(first_delay_s=0.001, max_delay_s=0.01, max_wait_s=0.05)
    response = last(call(journal, lambda _: busy, retries=retries))
    assert response.reply.outcome is Outcome.FAILED
    assert response.error == "HTTP 429: slow down (for 0.05 s)"
    # It was retried in the meantime, without success.
    outcomes = rows(journal, "SELECT DISTINCT outcome, status, attempt FROM replies, requests")
    assert outcomes == [("failed", 429, 1)]


@pytest.mark.parametrize("fault", ["quota", "unknown end", "redirect"])
def test_what_does_not_pass_by_waiting_is_sent_once(journal: Path, fault: str) -> None:
    response = last(call(journal, lambda _: LASTING[fault]))
    assert response.reply.outcome is Outcome.FAILED
    assert rows(journal, "SELECT count(*) FROM requests") == [(1,)]


@pytest.mark.parametrize(
    ("fault", "outcome"),
    [
        ("moderation", Outcome.FILTERED),
        ("unknown parameter", Outcome.REJECTED),
        ("tool call", Outcome.REJECTED),
    ],
)
def test_what_speaks_of_the_request_is_sent_once(
    journal: Path, fault: str, outcome: Outcome
) -> None:
    assert last(call(journal, lambda _: LASTING[fault])).reply.outcome is outcome
    assert rows(journal, "SELECT count(*) FROM requests") == [(1,)]


def test_the_first_failure_of_each_kind_is_said_at_once(
    journal: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    busy = Scripted(status=429, text="three a minute", headers={"retry-after-ms": "1"})
    faults = busy, busy, Scripted(status=503, text="\x1b[2Jdown"), Scripted(status=503, text="down")
    assert last(call(journal, in_turn(*faults, Scripted(text="Hello.")))).reply.text == "Hello."
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("the answerer at http://127.0.0.1:")
    assert first.endswith("/v1: HTTP 429: three a minute; all requests to it wait")
    assert second.endswith("/v1: HTTP 503: ␛[2Jdown; trying again")


def test_what_is_journaled_has_no_key(journal: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARROT_TEST_KEY", KEY)
    key_in_escapes = [REFUSALS[name] for name in REFUSALS if "key" in name]
    said = Scripted(text=f"You sent {KEY}.")
    response = last(
        call(
            journal, in_turn(*key_in_escapes[:2], said), api_key_env="PARROT_TEST_KEY"
        )
    )  # fmt: skip
    assert response.reply.text == "You sent [api key]."
    assert rows(journal, "SELECT error FROM replies") == [
        ("HTTP 500: you sent Bearer [api key]",), ("HTTP 500: you sent [api key]",), (None,)
    ]  # fmt: skip
    for path in journal.parent.iterdir():
        assert KEY.encode() not in path.read_bytes()
        assert KEY.encode().replace(b"/", b"\\/") not in path.read_bytes()


def test_the_word_of_the_judge_is_journaled_with_the_reply(journal: Path) -> None:
    result = call(
        journal, lambda _: Scripted(text="Bye."), judge=lambda reply: f"said {reply.text}"
    )
    assert last(result).reply == (Outcome.COMPLETE, "Bye.", "said Bye.")
    assert rows(journal, "SELECT verdict FROM replies") == [("said Bye.",)]


def test_what_each_attempt_cost_is_counted(journal: Path) -> None:
    lost = Scripted(hangs_up=True), Scripted(status=500, text="boom")
    _, spent = call(journal, in_turn(*lost, Scripted(text="One two three.")), max_tokens=50)
    # The server counts words, and 0 for prompts. The lost request may have been billed: 2 bytes,
    # 2 x 16 tokens of headers, and a reply of 50. A server error is not billed.
    assert spent == Spent(known=Usage(0, 3), uncertain=Usage(34, 50))


def test_what_may_pass_the_budget_is_not_sent(journal: Path) -> None:
    with pytest.raises(BudgetSpentError, match="the next call may take 84"):
        call(journal, lambda _: Scripted(text="Hi"), max_tokens=50, budget_tokens=83)
    assert rows(journal, "SELECT count(*) FROM requests") == [(0,)]


def test_the_last_failure_is_the_answer_when_attempts_run_out(journal: Path) -> None:
    errors = [Scripted(status=500, text=f"boom {n}") for n in range(3)]
    assert last(call(journal, in_turn(*errors))).error == "HTTP 500: boom 2"


def test_what_does_not_pass_is_tried_once(journal: Path) -> None:
    assert last(call(journal, in_turn(Scripted(status=404, text="no model")))).status == 404
    assert rows(journal, "SELECT count(*) FROM requests") == [(1,)]


def test_a_wait_between_attempts_ends_when_the_run_stops(journal: Path) -> None:
    busy = Scripted(status=503, text="busy", headers={"retry-after": "50"})
    assert last(call(journal, lambda _: busy, stop_after_s=0.1)).status == 503
    assert rows(journal, "SELECT count(*) FROM requests") == [(1,)]


def test_the_request_is_in_the_journal_when_the_server_gets_it(journal: Path) -> None:
    seen: list[Any] = []

    def look(body: dict[str, Any]) -> Scripted:
        query = "SELECT json(body), (SELECT count(*) FROM replies) FROM request_bodies"
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
    asked = replace(read_response(503, ""), retry_after_s=2.5)
    assert retry_delay_s(rules, asked, attempt=1) == 2.5
    long = replace(asked, retry_after_s=3600.0)
    assert retry_delay_s(rules, long, attempt=1) == 3
    assert retry_delay_s(rules, read_response(400, ""), attempt=1) is None
