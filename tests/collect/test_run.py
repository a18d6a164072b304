"""Whole collections over real HTTP: requests, journal, dialogues and ends."""

import asyncio
import contextlib
import json
import sqlite3
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from parrot_jax.api.scripted_server import Scripted, ScriptedServer, converse
from parrot_jax.collect.collect_config import CollectConfig
from parrot_jax.collect.export import CollectionSummary, export
from parrot_jax.collect.folder import Collection
from parrot_jax.collect.run import collect, collect_async, request_seed
from parrot_jax.collect.stops import StopJudge, check_filters
from parrot_jax.core.errors import RunError, UserError
from parrot_jax.dialogue.types import Dialogue, Turn

MakeConfig = Callable[..., CollectConfig]


def exported(config: CollectConfig) -> list[dict[str, Any]]:
    text = (Path(config.out) / "dialogues.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def files(config: CollectConfig) -> list[bytes]:
    return [(Path(config.out) / name).read_bytes() for name in ("dialogues.jsonl", "summary.json")]


def hash_of(row: dict[str, Any]) -> bytes:
    """The content hash of the session that an exported dialogue started from."""
    turns = tuple(Turn(message["role"], message["content"]) for message in row["messages"][:2])
    return Dialogue(turns=turns).content_hash()


def totals(summary: CollectionSummary) -> tuple[int, int, int, int]:
    """Requests, failed, lost and repeated requests, over both speakers."""
    speakers = summary.speakers.values()
    sums = [sum(getattr(s, name) for s in speakers) for name in ("requests", "failed", "lost")]
    return (*sums, summary.repeated)


def is_question(body: dict[str, Any]) -> bool:
    """Whether the request asks for a question."""
    return body["messages"][-1]["role"] == "assistant"


def rows(config: CollectConfig, query: str) -> list[Any]:
    with contextlib.closing(sqlite3.connect(Path(config.out) / "journal.sqlite")) as db, db:
        return db.execute(query).fetchall()


def test_asker_and_answerer_speak_in_turn(make_config: MakeConfig) -> None:
    def script(body: dict[str, Any]) -> Scripted:
        number = len(body["messages"])
        # White space around texts, as from real models; it would accumulate turn by turn.
        return Scripted(text=f" {'question' if is_question(body) else 'answer'} {number}\n")

    with ScriptedServer(script) as server:
        config = make_config(
            server.url, rows=2, max_turns=2, asker={"temperature": 0.5}, answerer={"max_tokens": 9}
        )
        summary = collect(config)
    first, second = exported(config)
    assert first == {
        "id": "d0",
        "source": "test",
        "messages": [
            {"role": "user", "content": "What is 0?"},
            {"role": "assistant", "content": "answer 1"},
            {"role": "user", "content": "question 2"},
            {"role": "assistant", "content": "answer 3"},
        ],
        "collection": {
            "number": 0, "stop": "max_turns", "part": "question", "collected_turns": 2,
            "models": {"answerer": ["scripted"], "asker": ["scripted"]},
        },
    }  # fmt: skip
    assert [message["content"] for message in second["messages"]] == [
        "What is 1?", "1 is a number.", "question 2", "answer 3"
    ]  # fmt: skip
    assert second["collection"] == {
        "number": 1, "stop": "max_turns", "part": "session", "collected_turns": 1,
        "models": {"answerer": ["scripted"], "asker": ["scripted"]},
    }  # fmt: skip
    assert (summary.dialogues, summary.exported, summary.mean_turns) == (2, 2, 2.0)
    # The requests of the second dialogue.
    question, answer = [
        body for body in server.bodies if body["messages"][0]["content"] == "What is 1?"
    ]
    assert question == {
        "model": "asker",
        "messages": second["messages"][:2],
        "temperature": 0.5,
        "seed": request_seed(0, hash_of(second), 2, "asker"),
    }
    assert answer == {
        "model": "answerer",
        "messages": second["messages"][:3],
        "max_tokens": 9,
        "seed": request_seed(0, hash_of(second), 3, "answerer"),
    }


def test_nothing_is_sent_or_used_before_it_is_journaled(make_config: MakeConfig) -> None:
    unjournaled, unanswered = [], []

    def script(body: dict[str, Any]) -> Scripted:
        sent = [json.loads(text) for (text,) in rows(config, "SELECT body FROM request_bodies")]
        unjournaled.extend([] if body in sent else [body])
        replies = {text for (text,) in rows(config, "SELECT text FROM reply_bodies")}
        # The first two messages may be the beginning; all later ones are replies.
        used = {message["content"] for message in body["messages"][2:]}
        unanswered.extend(used - replies)
        return converse(body)

    with ScriptedServer(script) as server:
        config = make_config(server.url, rows=6)
        collect(config)
    # For three turns, a first question takes five requests and a session of one turn four.
    assert len(server.bodies) == 3 * 5 + 3 * 4
    assert unjournaled == []
    assert unanswered == []


def test_each_dialogue_ends_with_the_reason_of_its_last_reply(make_config: MakeConfig) -> None:
    ends: dict[str, Scripted] = {
        "leaves": Scripted(text=""),
        "never stops asking": Scripted(text="And the", finish_reason="length"),
        "asks too much": Scripted(text="", finish_reason="content_filter"),
        "knows nothing": Scripted(text="I do not understand."),
        "is silent": Scripted(text=" \n"),
        "talks too long": Scripted(text="It is a lo", finish_reason="length"),
        "is careful": Scripted(text="", finish_reason="content_filter"),
        "has read enough": Scripted(status=400, text="", code="context_length_exceeded"),
    }
    askers = ("leaves", "never stops asking", "asks too much")

    def script(body: dict[str, Any]) -> Scripted:
        kind = body["messages"][0]["content"]
        is_last = len(body["messages"]) >= 2 and is_question(body) == (kind in askers)
        return ends[kind] if kind in ends and is_last else Scripted(text="Yes.")

    beginnings = [
        {"id": kind, "messages": [{"role": "user", "content": kind}]} for kind in [*ends, "is kind"]
    ]
    with ScriptedServer(script) as server:
        config = make_config(
            server.url, rows=beginnings, stops={"meaningless_answers": ["^I do not understand"]}
        )
        summary = collect(config)
    found = {row["id"]: row["collection"]["stop"] for row in exported(config)}
    assert found == {
        "leaves": "asker_left",
        "never stops asking": "cut_question",
        "asks too much": "filtered_question",
        "knows nothing": "meaningless_answer",
        "is silent": "empty_answer",
        "talks too long": "cut_answer",
        "is careful": "filtered_answer",
        "has read enough": "context_full",
        "is kind": "max_turns",
    }
    # All but the last dialogue keep their first turn, without the text that ended them.
    for row in exported(config)[:-1]:
        assert [m["content"] for m in row["messages"]] == [row["id"], "Yes."]
    assert summary.stops == dict.fromkeys(sorted(found.values()), 1)


def test_who_cannot_read_all_of_it_is_shown_the_first_round_and_the_latest(
    make_config: MakeConfig,
) -> None:
    def script(body: dict[str, Any]) -> Scripted:
        if len(body["messages"]) > 5:
            return Scripted(status=400, text="too long", code="context_length_exceeded")
        return converse(body)

    def run(max_turns: int, **changes: Any) -> tuple[dict[str, Any], list[list[str]]]:
        with ScriptedServer(script) as server:
            config = make_config(server.url, rows=1, max_turns=max_turns, **changes)
            collect(config)
            bodies = server.bodies
        shown = [[message["content"] for message in body["messages"]] for body in bodies]
        return exported(config)[0], [texts for texts in shown if len(texts) <= 5]

    row, shown = run(5, when_context_is_full="truncate")
    said = [message["content"] for message in row["messages"]]
    # Both speakers continued, and the dialogue has all turns.
    assert len(said) == 10
    assert row["collection"]["truncated_context"] is True
    assert {texts[0] for texts in shown} == {"What is 0?"}
    # The last answerer's request has the first turn and the latest three messages.
    assert shown[-1] == [*said[:2], *said[6:9]]
    # A sixth turn takes only two more requests.
    longer, new = run(6, when_context_is_full="truncate")
    assert [message["content"] for message in longer["messages"]][:10] == said
    assert len(new) == 2


def test_a_dialogue_without_a_collected_turn_is_counted_and_not_exported(
    make_config: MakeConfig,
) -> None:
    def script(body: dict[str, Any]) -> Scripted:
        text = body["messages"][0]["content"]
        return Scripted(text="" if text in ("What is 0?", "What is 1?") else "Yes.")

    with ScriptedServer(script) as server:
        config = make_config(server.url)
        summary = collect(config)
    assert [row["id"] for row in exported(config)] == ["d2", "d3"]
    assert (summary.exported, summary.empty, summary.unfinished) == (2, 2, 0)
    assert summary.stops == {"max_turns": 2, "asker_left": 1, "empty_answer": 1}


def test_a_collection_without_any_turn_is_an_error_that_says_how_all_ended(
    make_config: MakeConfig,
) -> None:
    full = Scripted(status=400, text="maximum context length is 8", code="context_length_exceeded")
    with ScriptedServer(lambda _: full) as server:
        config = make_config(server.url)
        with pytest.raises(RunError, match="none of the 4 dialogues got a turn.*context_full 4"):
            collect(config)


UNKNOWN_FIELD = "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead."


def is_rejected(body: dict[str, Any]) -> Scripted:
    return Scripted(status=400, text=UNKNOWN_FIELD)


def test_settings_that_the_server_does_not_take_stop_the_run_and_can_be_mended(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    def needs_other_settings(body: dict[str, Any]) -> Scripted:
        return is_rejected(body) if body.get("temperature") else converse(body)

    with ScriptedServer() as server:
        collect(whole := make_config(server.url, rows=20, out=str(tmp_path / "whole")))
    with ScriptedServer(needs_other_settings) as server:
        config = make_config(server.url, answerer={"temperature": 0.5})
        with pytest.raises(RunError) as error:
            collect(config)
        assert str(error.value) == (
            f"the answerer at {server.url} rejected requests of 3 of 20 dialogues (last error: "
            f"HTTP 400: {UNKNOWN_FIELD}); change the settings of the answerer and run the same "
            "command again to continue."
        )
        # Three requests went out one by one, and a question of d1; all dialogues stay open.
        assert len(server.bodies) == 4
        assert server.most_in_flight == 1
        # No reply was made with these settings, so they may change.
        summary = collect(make_config(server.url))
    assert (summary.exported, summary.stops, summary.errors) == (20, {"max_turns": 20}, {})
    assert exported(make_config(server.url)) == exported(whole)
    assert summary.speakers["answerer"].failed == 3


def test_what_only_the_asker_refuses_is_known_after_one_answer(make_config: MakeConfig) -> None:
    def refuses_seeds(body: dict[str, Any]) -> Scripted:
        if is_question(body):
            # Like FastAPI, it repeats the value that it got.
            return Scripted(status=422, text=f"Extra inputs are not permitted: {body['seed']}")
        return converse(body)

    first_questions = [
        {"id": f"q{n}", "messages": [{"role": "user", "content": f"What is {n}?"}]}
        for n in range(40)
    ]
    with ScriptedServer(refuses_seeds) as server:
        config = make_config(server.url, rows=first_questions, max_turns=2)
        with pytest.raises(
            RunError, match="asker at .* rejected requests of 3 of 40 .*inputs are not permitt"
        ):
            collect(config)
        answers = [body for body in server.bodies if not is_question(body)]
    assert len(answers) == 3
    with ScriptedServer() as server:
        # The answerer has replied with its settings; the asker has not.
        with pytest.raises(UserError, match=r"answerer.temperature: None -> 0.5\)"):
            collect(make_config(server.url, max_turns=2, answerer={"temperature": 0.5}))
        summary = collect(make_config(server.url, max_turns=2, asker={"temperature": 0.5}))
    assert summary.exported == 40


def test_a_few_rejections_among_replies_end_their_dialogues_with_the_servers_sentence(
    make_config: MakeConfig,
) -> None:
    def script(body: dict[str, Any]) -> Scripted:
        text = body["messages"][0]["content"]
        if text in ("What is 2?", "What is 11?"):
            return Scripted(status=400, text="I take no even\x1b[2J prime numbers")
        return converse(body)

    with ScriptedServer(script) as server:
        config = make_config(server.url, rows=12, concurrency=1)
        summary = collect(config)
        num_requests = len(server.bodies)
        assert collect(config) == summary
    assert len(server.bodies) == num_requests
    assert summary.stops == {"max_turns": 10, "error": 2}
    sentence = "HTTP 400: I take no even␛[2J prime numbers"
    assert summary.errors == {sentence: 2}
    assert "  error     2: HTTP 400: I take no even␛[2J prime numbers" in summary.lines()
    assert (
        rows(config, "SELECT reason, detail FROM ends WHERE reason = 'error'")
        == [("error", sentence)] * 2
    )


def test_prompts_that_a_moderator_holds_back_end_and_so_does_the_collection(
    make_config: MakeConfig,
) -> None:
    def script(body: dict[str, Any]) -> Scripted:
        if body["messages"][0]["content"] in ("What is 0?", "What is 2?", "What is 4?"):
            return Scripted(status=403, text="Your input was flagged: it violates our policy.")
        return converse(body)

    with ScriptedServer(script) as server:
        config = make_config(server.url, rows=8, concurrency=1)
        summary = collect(config)
    assert (summary.exported, summary.unfinished) == (5, 0)
    assert summary.stops == {"max_turns": 5, "filtered_answer": 3}
    details = rows(config, "SELECT DISTINCT detail FROM ends WHERE reason = 'filtered_answer'")
    assert details == [("HTTP 403: Your input was flagged: it violates our policy.",)]


def test_a_server_that_changes_its_mind_in_the_middle_loses_no_dialogue(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    with ScriptedServer() as server:
        collect(whole := make_config(server.url, rows=40, out=str(tmp_path / "whole")))

    def changing(body: dict[str, Any]) -> Scripted:
        return is_rejected(body) if len(server.bodies) > 20 else converse(body)

    with ScriptedServer(changing) as server:
        config = make_config(server.url, concurrency=1)
        with pytest.raises(RunError, match="answerer at .* rejected requests of 18 of "):
            collect(config)
    with ScriptedServer() as server:
        collect(make_config(server.url))
    assert exported(config) == exported(whole)


def test_requests_that_are_bad_for_themselves_cannot_keep_a_collection_from_its_end(
    make_config: MakeConfig,
) -> None:
    def script(body: dict[str, Any]) -> Scripted:
        status = {"a": 400, "b": 400, "c": 400, "f": 403}.get(body["messages"][0]["content"])
        return Scripted(status=status, text="no") if status else converse(body)

    questions = [{"id": n, "messages": [{"role": "user", "content": n}]} for n in "abcdefgh"]
    with ScriptedServer(script) as server:
        config = make_config(server.url, rows=questions, concurrency=1)
        ends = []
        for _ in range(4):
            try:
                ends.append(collect(config).stops)
            except RunError as error:
                ends.append(str(error).partition(" Unf")[0])
    # First the cause is unknown; then the other dialogues get replies, and these do not.
    assert "rejected requests of 3 of 8" in ends[0]
    assert ends[-1] == {"error": 4, "max_turns": 4}


@pytest.mark.parametrize(
    ("useless", "why"),
    [
        ({"finish_reason": "length"}, "cut_answer"),
        ({"text": ""}, "empty_answer"),
        ({"status": 400, "text": "no", "code": "content_filter"}, "filtered_answer: HTTP 400: no"),
    ],
)
def test_a_speaker_that_says_nothing_of_use_stops_the_run(
    make_config: MakeConfig, useless: dict[str, Any], why: str
) -> None:
    def script(body: dict[str, Any]) -> Scripted:
        is_answer = body["model"] == "answerer"
        return Scripted(**{"text": "Half of", **useless}) if is_answer else converse(body)

    with ScriptedServer(script) as server:
        config = make_config(server.url, rows=60, concurrency=1)
        wanted = f"the answerer at .* gave 20 useless replies .last error: {why}"
        with pytest.raises(RunError, match=wanted):
            collect(config)
    assert sum(body["model"] == "answerer" for body in server.bodies) == 20


def test_a_speaker_that_was_of_use_before_may_end_as_many_dialogues_as_it_likes(
    make_config: MakeConfig,
) -> None:
    def script(body: dict[str, Any]) -> Scripted:
        return Scripted(text="") if len(body["messages"]) > 2 else converse(body)

    with ScriptedServer(script) as server:
        collect(make_config(server.url, rows=60, max_turns=1))
        config = make_config(server.url, rows=60, answerer={"concurrency": 1})
        collect(config)
    assert rows(config, "SELECT reason, count(*) FROM ends GROUP BY 1") == [("empty_answer", 60)]


def test_a_limit_of_tokens_larger_than_the_model_is_no_fault_of_the_dialogues(
    make_config: MakeConfig,
) -> None:
    def script(body: dict[str, Any]) -> Scripted:
        if body.get("max_tokens", 0) < 2048:
            return converse(body)
        return Scripted(
            status=400,
            text="This model's maximum context length is 2048 tokens. However, you requested 4120 "
            "tokens (24 in the messages, 4096 in the completion).",
        )

    with ScriptedServer(script) as server:
        config = make_config(server.url, rows=6, answerer={"max_tokens": 4096})
        with pytest.raises(
            RunError, match="rejected requests of 3 of 6 dialogues.* 4096 in the completion"
        ):
            collect(config)
        collect(make_config(server.url, rows=6, answerer={"max_tokens": 64}))
    assert [end for (end,) in rows(config, "SELECT DISTINCT reason FROM ends")] == ["max_turns"]


def test_reasoning_is_in_no_turn_and_no_request_and_is_counted(make_config: MakeConfig) -> None:
    def script(body: dict[str, Any]) -> Scripted:
        said = converse(body).text
        return Scripted(text=said if is_question(body) else f"<think>\nHm.\n</think>\n\n{said}")

    with ScriptedServer(script) as server:
        config = make_config(server.url, rows=2)
        summary = collect(config)
        sent = [json.dumps(body) for body in server.bodies]
    assert not [body for body in sent if "think" in body]
    text = (Path(config.out) / "dialogues.jsonl").read_text()
    assert "think>" not in text
    # Three answers of d0, and two of d1, whose first answer is in its beginning.
    assert [row["collection"]["turns_with_reasoning"] for row in exported(config)] == [3, 2]
    assert summary.reasoning == {"answerer": 5}
    assert "  reasoning in replies: answerer 5; it was left out" in summary.lines()


def test_texts_are_judged_beside_the_event_loop(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: set[str] = set()
    judge = StopJudge.__call__

    def noting(self: StopJudge, turns: Any, text: str) -> str | None:
        threads.add(threading.current_thread().name)
        return judge(self, turns, text)

    monkeypatch.setattr(StopJudge, "__call__", noting)
    with ScriptedServer() as server:
        collect(make_config(server.url))
    assert threads == {"judging_0"}


def test_faults_that_pass_leave_no_trace_in_the_dialogues(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    failed: Counter[str] = Counter()

    def script(body: dict[str, Any]) -> Scripted:
        """Fails each request twice, in different ways."""
        key = json.dumps(body)
        failed[key] += 1
        faults = [
            Scripted(status=429, text="slow down", headers={"retry-after": "0.01"}),
            Scripted(status=500, text="boom"),
            Scripted(hangs_up=True),
            Scripted(body="<html>"),
        ]
        if failed[key] <= 2:
            return faults[(sum(key.encode()) + failed[key]) % len(faults)]
        return converse(body)

    with ScriptedServer() as server:
        calm = make_config(server.url, out=str(tmp_path / "calm"))
        collect(calm)
    with ScriptedServer(script) as server:
        config = make_config(server.url)
        summary = collect(config)
    assert exported(config) == exported(calm)
    num_turns = 2 * 5 + 2 * 4
    assert totals(summary) == (3 * num_turns, 2 * num_turns, 0, 0)
    statuses = {status for (status,) in rows(config, "SELECT DISTINCT status FROM replies")}
    assert statuses == {None, 200, 429, 500}


def test_dialogues_that_fail_do_not_stop_the_others(make_config: MakeConfig) -> None:
    broken = {"What is 1?", "What is 3?", "What is 5?"}

    def script(body: dict[str, Any]) -> Scripted:
        if body["messages"][0]["content"] in broken and not is_question(body):
            return Scripted(status=403, text="this one I may not")
        return converse(body)

    with ScriptedServer(script) as server:
        # Sequential, so that there are replies between failures.
        config = make_config(server.url, rows=8, concurrency=1)
        with pytest.raises(RunError) as error:
            collect(config)
        assert str(error.value) == (
            f"the answerer at {server.url} failed 3 times (last error: HTTP 403: this one I may "
            "not); check the endpoint and run the same command again to continue."
        )
        assert [row["id"] for row in exported(config)] == ["d0", "d2", "d4", "d6", "d7"]
        broken.clear()
        assert collect(config).exported == 8
    assert [row["id"] for row in exported(config)] == [f"d{number}" for number in range(8)]


def test_an_endpoint_that_fails_three_in_a_row_stops_the_run_and_it_goes_on_later(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    with ScriptedServer() as server:
        whole = make_config(server.url, rows=20, out=str(tmp_path / "whole"))
        collect(whole)

    def dying(body: dict[str, Any]) -> Scripted:
        if len(server.bodies) > 30 and not is_question(body):
            return Scripted(status=401, text="key\x1b[2J revoked")
        return converse(body)

    with ScriptedServer(dying) as server:
        # One at a time: a reply in flight would reset the count of failures.
        config = make_config(server.url, concurrency=1)
        with pytest.raises(RunError, match=r"failed 3 times .*HTTP 401: key␛\[2J revoked"):
            collect(config)
        assert rows(config, "SELECT sum(outcome = 'failed') FROM replies") == [(3,)]
    with ScriptedServer() as server:
        # Another address and concurrency still resume the same collection.
        config = make_config(server.url, concurrency=2)
        summary = collect(config)
    assert exported(config) == exported(whole)
    assert totals(summary)[0] == len(rows(config, "SELECT 1 FROM replies"))


def test_an_interrupted_collection_keeps_what_is_in_flight_and_goes_on(
    make_config: MakeConfig, tmp_path: Path, run_cancelled: Callable[..., None]
) -> None:
    with ScriptedServer(delay_s=0.05) as server:
        whole = make_config(server.url, rows=20, out=str(tmp_path / "whole"))
        collect(whole)
        before = len(server.bodies)
        config = make_config(server.url, concurrency=8)
        run_cancelled(collect_async(config), lambda: len(server.bodies) >= before + 40)
        sent, received = rows(config, "SELECT count(*), count(request) FROM requests "
                                      "LEFT JOIN replies ON request = id")[0]  # fmt: skip
        assert 40 <= sent == received < 20 * 6
        summary = collect(config)
    assert exported(config) == exported(whole)
    assert totals(summary) == (len(rows(config, "SELECT 1 FROM replies")), 0, 0, 0)


def test_replies_that_take_too_long_to_wait_for_are_asked_for_again(
    make_config: MakeConfig,
    tmp_path: Path,
    run_cancelled: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("parrot_jax.api.jobs.GRACE_S", 0.01)
    with ScriptedServer(delay_s=0.3) as server:
        config = make_config(server.url, rows=5)
        # The others start when both speakers have replied in the first dialogue.
        run_cancelled(collect_async(config), lambda: len(server.bodies) >= 2 + 5)
    with ScriptedServer() as server:
        config = make_config(server.url)
        summary = collect(config)
    assert (summary.repeated, summary.unfinished) == (5, 0)
    assert rows(config, "SELECT count(*) FROM requests WHERE start = 1") == [(7,)]


def test_a_finished_collection_sends_nothing_and_writes_the_same_bytes(
    make_config: MakeConfig,
) -> None:
    with ScriptedServer() as server:
        config = make_config(server.url)
        collect(config)
        before, num_bodies = files(config), len(server.bodies)
        collect(config)
        with contextlib.closing(Collection(config.out)) as collection:
            export(collection)
    assert files(config) == before
    assert len(server.bodies) == num_bodies
    assert rows(config, "SELECT count(*) FROM starts") == [(2,)]


def test_equal_seeds_give_equal_dialogues_and_others_do_not(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    with ScriptedServer() as server:
        configs = [
            make_config(server.url, out=str(tmp_path / name), seed=seed, concurrency=concurrency)
            for name, seed, concurrency in (("a", 1, 1), ("b", 1, 9), ("c", 2, 9))
        ]
        for config in configs:
            collect(config)
    a, b, c = map(exported, configs)
    assert a == b
    assert a != c


def test_the_journal_and_not_the_source_files_decides_how_a_collection_goes_on(
    make_config: MakeConfig,
) -> None:
    with ScriptedServer() as server:
        config = make_config(server.url)
        collect(config)
        before = files(config)
        Path(config.beginnings[0].path).unlink()
        collect(config)
    assert files(config) == before


def test_more_turns_go_on_without_paying_twice(make_config: MakeConfig, tmp_path: Path) -> None:
    with ScriptedServer() as server:
        direct = make_config(server.url, max_turns=4, out=str(tmp_path / "direct"))
        collect(direct)
        num_direct = len(server.bodies)
        for max_turns in (2, 4):
            config = make_config(server.url, max_turns=max_turns)
            collect(config)
        assert exported(config) == exported(direct)
        assert len(server.bodies) == 2 * num_direct
        # Fewer turns need no requests.
        assert collect(make_config(server.url, max_turns=1)).mean_turns == 1.0
        assert len(server.bodies) == 2 * num_direct


def test_another_config_is_refused_with_what_is_different(make_config: MakeConfig) -> None:
    with ScriptedServer() as server:
        config = make_config(server.url)
        collect(config)
        before = files(config)
        other = make_config(server.url, seed=1, answerer={"temperature": 0.5})
        with pytest.raises(UserError, match="holds a collection with another config") as error:
            collect(other)
    assert "(answerer.temperature: None -> 0.5; seed: 0 -> 1)" in str(error.value)
    assert "http" not in str(error.value)
    assert files(config) == before


def test_first_questions_are_taken_from_whole_dialogues(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    path = tmp_path / "ultrachat.jsonl"
    path.write_text('{"id": "u", "data": ["Who?", "I.", "Really?", "Yes."]}\n')
    with ScriptedServer() as server:
        config = make_config(
            server.url,
            rows=1,
            max_turns=1,
            beginnings=[
                {"kind": "messages", "path": str(tmp_path / "beginnings.jsonl")},
                {"kind": "ultrachat", "path": str(path), "take": "first_question"},
            ],
        )
        collect(config)
    _, row = exported(config)
    assert row["id"] == "u"
    assert row["messages"][0]["content"] == "Who?"
    assert row["messages"][1]["content"].startswith("answer 1")
    assert row["collection"]["part"] == "question"


def test_broken_rows_are_reported_and_an_empty_source_begins_nothing(
    make_config: MakeConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    with ScriptedServer() as server:
        config = make_config(server.url, rows=[{"messages": "no list"}])
        with pytest.raises(UserError, match="no usable dialogue in 1 rows"):
            collect(config)
        good = {"messages": [{"role": "user", "content": "Hi"}]}
        lines = [json.dumps(good), "not json"]
        Path(config.beginnings[0].path).write_text("\n".join(lines))
        capsys.readouterr()
        assert collect(config).dialogues == 1
    assert "read 2 rows: 1 dialogues, 1 rejected" in capsys.readouterr().out


def test_it_runs_in_a_thread_of_its_own(make_config: MakeConfig) -> None:
    with ScriptedServer() as server:
        config = make_config(server.url)
        thread = threading.Thread(target=collect, args=[config])
        thread.start()
        thread.join()
    assert len(exported(config)) == 4


def test_as_many_dialogues_as_allowed_go_on_at_once(make_config: MakeConfig) -> None:
    with ScriptedServer(delay_s=0.02) as server:
        collect(make_config(server.url, rows=12, concurrency=5))
    assert server.most_in_flight == 5


def test_a_damaged_journal_is_no_ground_to_go_on_from(make_config: MakeConfig) -> None:
    with ScriptedServer() as server:
        config = make_config(server.url, rows=1)
        collect(config)
        with contextlib.closing(sqlite3.connect(Path(config.out) / "journal.sqlite")) as db, db:
            db.execute("UPDATE requests SET step = 9 WHERE step = 2")
        with pytest.raises(
            RunError,
            match=r"turns of dialogue 0 are \[1, 3, 4, 5, 9\], but must be \[1, 2, 3, 4, 5\]",
        ):
            collect(config)


def test_a_journal_can_be_watched_from_outside(make_config: MakeConfig) -> None:
    seen: list[int] = []

    def script(body: dict[str, Any]) -> Scripted:
        with contextlib.closing(Collection(config.out)) as collection:
            dialogues = list(collection)
        seen.append(sum(len(d.state.turns) - len(d.beginning.turns) for d in dialogues))
        return converse(body)

    with ScriptedServer(script) as server:
        config = make_config(server.url, rows=2, concurrency=1)
        collect(config)
    assert seen == list(range(5 + 4))


def test_a_filter_of_ones_own_ends_dialogues_and_one_that_raises_loses_no_reply(
    make_config: MakeConfig,
) -> None:
    def no_long_ones(turns: Any, text: str) -> str | None:
        return "long enough" if len(turns) == 3 else None

    def broken(turns: Any, text: str) -> str | None:
        raise ValueError("boom")

    with ScriptedServer() as server:
        config = make_config(server.url, rows=4)
        with pytest.raises(UserError, match="filters is .*; give a list of functions"):
            check_filters(no_long_ones)
        with pytest.raises(UserError, match="the filter broken raised ValueError: boom; the text"):
            collect(config, filters=[broken])
        assert not rows(
            config, "SELECT 1 FROM requests WHERE id NOT IN (SELECT request FROM replies)"
        )
        assert rows(config, "SELECT DISTINCT outcome, completion_tokens > 0 FROM replies") == [
            ("failed", 1)
        ]
        summary = collect(config, filters=[no_long_ones])
    assert summary.stops == {"filter": 4}
    assert rows(config, "SELECT DISTINCT detail FROM ends") == [("long enough",)]


def test_collections_in_a_running_loop_are_awaited(make_config: MakeConfig) -> None:
    with ScriptedServer() as server:
        summary = asyncio.run(collect_async(make_config(server.url)))
    assert summary.exported == 4
