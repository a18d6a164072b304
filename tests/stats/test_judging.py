"""A judge over HTTP: requests, parsing of replies, kills, budgets, samples."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from parrot_jax.api.replies import Outcome, Reply
from parrot_jax.api.scripted_server import Scripted, ScriptedServer
from parrot_jax.cli import main
from parrot_jax.core.config import load_config
from parrot_jax.core.errors import UserError
from parrot_jax.report.charts import column_chart
from parrot_jax.report.page import Chart
from parrot_jax.stats import writing
from parrot_jax.stats.inputs import source_of
from parrot_jax.stats.judge_config import JudgeConfig
from parrot_jax.stats.judge_prompts import JUDGED, read_reply
from parrot_jax.stats.sessions import draw_sessions

WriteSessions = Callable[..., Path]
WriteJudge = Callable[..., Path]

SESSIONS = [["Where is Velora?", "And its hills?", "Bye"], ["What is a quasar?", "Why?"]]


@pytest.fixture(scope="module", autouse=True)
def charts_drawn_once() -> Iterator[None]:
    """Caches charts, which are slow to draw and mostly identical in these tests."""
    drawn: dict[str, Chart] = {}

    def chart(*args: Any, **settings: Any) -> Chart:
        key = repr((args, settings))
        if key not in drawn:
            drawn[key] = column_chart(*args, **settings)
        return drawn[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writing, "column_chart", chart)
        yield


def measure_of(body: dict[str, Any]) -> str:
    """Returns the measure of a request, by a word of its prompt."""
    (message,) = body["messages"]
    words = {"topics": "different topics", "ref_count": "points back", "context_dependent": "alone"}
    (key,) = [key for key, word in words.items() if word in message["content"]]
    return key


def questions_in(body: dict[str, Any]) -> list[str]:
    text = body["messages"][0]["content"]
    return re.findall(r"^\[\d+\] (.*)$", text, re.M)


def count(body: dict[str, Any]) -> Scripted:
    """Replies with the number of questions (topics), 7 (references), or questions - 1."""
    num = len(questions_in(body))
    numbers = {"topics": num, "ref_count": 7, "context_dependent": num - 1}
    return Scripted(text=f"I count: [[{numbers[measure_of(body)]}]]")


def judged(out: Path) -> dict[str, Any]:
    (file,) = json.loads((out / "stats.json").read_text())["files"]
    return file["judged"]


def test_the_means_of_what_the_judge_counts(
    write_sessions: WriteSessions, write_judge: WriteJudge, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    out = tmp_path / "out"
    with ScriptedServer(count) as server:
        command = ["stats", str(write_sessions(SESSIONS)), "--out", str(out)]
        command += ["--judge", str(write_judge(server.url, concurrency=4))]
        assert main(command) == 0
        first = (out / "stats.json").read_text()
        assert main(command) == 0
    # The second run took everything from the journal.
    assert (out / "stats.json").read_text() == first
    assert len(server.bodies) == 6
    found = judged(out)
    assert found["sessions"] == 2
    values = {key: estimate["value"] for key, estimate in found["measures"].items()}
    assert values == {"topics": 2.5, "ref_count": 7.0, "context_dependent": 1.5}
    assert (found["measures"]["topics"]["low"], found["measures"]["topics"]["high"]) == (2.0, 3.0)
    assert found["not_judged"] == {key: {} for key in JUDGED}
    said = json.loads(first)["judge"]
    assert (said["model"], said["models_that_answered"]) == ("judge", ["scripted"])
    assert said["prompts"]["topics"]["file"] == "topics_v2.txt"
    assert said["prompts"]["topics"]["sha256"] == JUDGED["topics"].load().sha256
    body = server.bodies[0]
    assert (body["temperature"], body["max_tokens"]) == (0.0, 100)
    # The judge gets questions only.
    assert all("Yes it is." not in json.dumps(body) for body in server.bodies)
    assert {len(questions_in(body)) for body in server.bodies} == {2, 3}
    assert "RefCount" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (Scripted(text="There are two."), "no [[number]] in the reply"),
        (Scripted(text="[[two]]"), "no [[number]] in the reply"),
        (Scripted(text="[[-1]]"), "a number out of range"),
        (Scripted(text="[[1]] or [[2]]"), "several [[numbers]] in the reply"),
        (Scripted(text="[[999999]]"), "a number out of range"),
        (Scripted(text="[[1]]", finish_reason="length"), "the reply is cut"),
        (Scripted(text="[[1]]", finish_reason="content_filter"), "the reply is filtered"),
        (Scripted(status=400, text="maximum context length"), "the reply is context_full"),
        (Scripted(status=400, text="what?"), "rejected: HTTP 400: what?"),
    ],
)
def test_what_is_no_clear_number_is_not_judged_and_never_zero(
    write_sessions: WriteSessions, write_judge: WriteJudge, tmp_path: Path, reply: Scripted,
    reason: str,
) -> None:  # fmt: skip
    def script(body: dict[str, Any]) -> Scripted:
        return reply if "quasar" in json.dumps(body) else count(body)

    out = tmp_path / "out"
    with ScriptedServer(script) as server:
        command = ["stats", str(write_sessions(SESSIONS)), "--out", str(out)]
        command += ["--judge", str(write_judge(server.url))]
        assert main(command) == 0
        num_requests = len(server.bodies)
        assert main(command) == 0
        assert len(server.bodies) == num_requests  # useless replies are not requested again
    found = judged(out)
    assert found["not_judged"] == {key: {reason: 1} for key in JUDGED}
    assert {key: e["value"] for key, e in found["measures"].items()} == {
        "topics": 3, "ref_count": 7, "context_dependent": 2
    }  # fmt: skip
    assert {e["num"] for e in found["measures"].values()} == {1}
    assert f"{reason} 1" in (out / "stats.md").read_text().replace("\\", "")


def test_the_same_number_twice_is_clear_and_the_range_is_the_sessions() -> None:
    allowed = (0, 2)
    for text, number in (("[[2]], so [[2]]", 2), ("[[ 0 ]]", 0), ("[[3]]", None), ("[[٢]]", None)):
        assert read_reply(Reply(Outcome.COMPLETE, text), allowed).number == number


def test_a_verdict_stands_behind_the_reasoning() -> None:
    text = "<think>\nPerhaps [[1]] or [[3]].\n</think>\n\n[[2]]"
    assert read_reply(Reply(Outcome.COMPLETE, text), (0, 3)).number == 2
    only = Reply(Outcome.COMPLETE, "<think>Perhaps [[1]]")
    assert read_reply(only, (0, 3)).reason == "no [[number]] in the reply"


def test_a_judge_that_takes_no_request_stops_at_once_and_its_settings_can_be_mended(
    write_sessions: WriteSessions, write_judge: WriteJudge, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    def script(body: dict[str, Any]) -> Scripted:
        is_taken = body["max_tokens"] != 100
        return count(body) if is_taken else Scripted(status=400, text="no max_tokens, please")

    sessions = [[f"Where is town {n}?", "Why?"] for n in range(10)]
    out = tmp_path / "out"
    with ScriptedServer(script) as server:
        command = ["stats", str(write_sessions(sessions)), "--out", str(out), "--judge"]
        assert main([*command, str(write_judge(server.url))]) == 1
        error = capsys.readouterr().err
        assert (
            "rejected requests of 3 of 10 sessions (last error: HTTP 400: no max_tokens, please)"
            in error
        )
        # Three measures of three sessions, one at a time; the third session stops the run.
        assert len(server.bodies) == 7
        assert server.most_in_flight == 1
        assert main([*command, str(write_judge(server.url, max_tokens=50))]) == 0
    assert judged(out)["not_judged"] == {key: {} for key in JUDGED}


def test_a_judge_that_fails_is_asked_again_by_the_next_run(
    write_sessions: WriteSessions, write_judge: WriteJudge, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    is_broken = True

    def script(body: dict[str, Any]) -> Scripted:
        return Scripted(status=503, text="busy") if is_broken else count(body)

    out = tmp_path / "out"
    with ScriptedServer(script) as server:
        command = ["stats", str(write_sessions(SESSIONS * 5)), "--out", str(out)]
        command += ["--judge", str(write_judge(server.url))]
        assert main(command) == 1
        assert "failed 3 times (last error: HTTP 503" in capsys.readouterr().err
        # Three requests with two attempts each.
        assert len(server.bodies) == 6
        assert sum(judged(out)["not_judged"]["topics"].values()) == 10
        is_broken = False
        assert main(command) == 0
    # Equal sessions are judged once.
    assert len(server.bodies) == 6 + 6
    assert judged(out)["not_judged"]["topics"] == {}
    assert judged(out)["measures"]["topics"]["num"] == 10


def test_nothing_is_sent_once_the_budget_is_spent(
    write_sessions: WriteSessions, write_judge: WriteJudge, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    def script(body: dict[str, Any]) -> Scripted:
        scripted = count(body)
        usage = {"prompt_tokens": 1000, "completion_tokens": 10}
        choice = {"finish_reason": "stop", "message": {"content": scripted.text}}
        return Scripted(body=json.dumps({"choices": [choice], "usage": usage}))

    sessions = [[f"Where is town {n}?", "Why?"] for n in range(20)]
    out = tmp_path / "out"
    with ScriptedServer(script) as server:
        command = ["stats", str(write_sessions(sessions)), "--out", str(out), "--judge"]
        assert main([*command, str(write_judge(server.url, budget_tokens=5000))]) == 1
        sent = len(server.bodies)
        assert 1 <= sent <= 4
        assert "the judge's budget of 5,000 tokens is spent" in capsys.readouterr().err
        reasons = judged(out)["not_judged"]
        assert sum(sum(r.values()) for r in reasons.values()) == 60 - sent
        assert all(set(r) == {"not asked: the budget is spent"} for r in reasons.values())
        # Earlier spending counts; with a higher budget, the job resumes.
        assert main([*command, str(write_judge(server.url, budget_tokens=5000))]) == 1
        assert len(server.bodies) == sent
        assert main([*command, str(write_judge(server.url, budget_tokens=500_000))]) == 0
    assert len(server.bodies) == 60
    assert judged(out)["measures"]["topics"]["num"] == 20


@pytest.mark.slow
def test_a_killed_judging_goes_on_and_asks_nothing_twice_but_what_was_in_flight(
    write_sessions: WriteSessions, write_judge: WriteJudge, tmp_path: Path
) -> None:
    sessions = [[f"Where is town {n}?", "Why?"] for n in range(10)]
    path, out = write_sessions(sessions), tmp_path / "out"
    asked: Counter[str] = Counter()

    def script(body: dict[str, Any]) -> Scripted:
        asked[json.dumps(body)] += 1
        return count(body)

    with ScriptedServer(script, delay_s=0.05) as server:
        command = [sys.executable, "-m", "parrot_jax.cli", "stats", str(path), "--out", str(out)]
        command += ["--judge", str(write_judge(server.url, concurrency=2))]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        for num, number in ((5, signal.SIGKILL), (15, signal.SIGINT)):
            process = subprocess.Popen(command, **quiet)
            while len(server.bodies) < num:
                assert process.poll() is None
                time.sleep(0.005)
            os.kill(process.pid, number)
            process.wait(timeout=60)
            assert not (out / "stats.json").exists()
        assert subprocess.run(command, **quiet).returncode == 0
    assert len(asked) == 30
    # SIGKILL loses at most the two requests in flight; Ctrl-C waits for them.
    assert asked.total() <= 32
    assert judged(out)["measures"]["topics"]["num"] == 10


def test_another_judge_in_the_same_folder_is_refused(
    write_sessions: WriteSessions, write_judge: WriteJudge, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    out = tmp_path / "out"
    with ScriptedServer(count) as server:
        command = ["stats", str(write_sessions(SESSIONS)), "--out", str(out), "--judge"]
        assert main([*command, str(write_judge(server.url))]) == 0
        assert main([*command, str(write_judge(server.url, temperature=1.0))]) == 2
        error = capsys.readouterr().err
        assert "another judge (temperature: 0.0 -> 1.0); choose another --out" in error
        assert main([*command, str(write_judge(server.url, top_p=0.5))]) == 2
        assert "another judge (top_p: None -> 0.5)" in capsys.readouterr().err
        # Concurrency may change; more files only add sessions.
        more = write_sessions([["Where is the sea?", "Why?"]], "more.jsonl")
        changed = str(write_judge(server.url, concurrency=3))
        assert main(["stats", str(more), *command[1:], changed]) == 0
    assert len(server.bodies) == 9


def test_a_sample_is_drawn_by_content_and_a_larger_one_contains_it(
    write_sessions: WriteSessions,
) -> None:
    sessions = [[f"Question {n}?"] for n in range(100)]
    source, turned = (
        source_of(str(write_sessions(rows, name)))
        for rows, name in ((sessions, "a.jsonl"), (sessions[::-1], "b.jsonl"))
    )
    drawn = set(draw_sessions(source, 10, seed=0))
    assert len(drawn) == 10
    assert drawn < set(draw_sessions(source, 20, seed=0))
    assert drawn == set(draw_sessions(turned, 10, seed=0))
    assert drawn != set(draw_sessions(source, 10, seed=1))


def test_a_missing_key_is_said_before_anything_is_read(
    write_sessions: WriteSessions, write_judge: WriteJudge, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    judge = write_judge("http://127.0.0.1:9/v1", api_key_env="NO_SUCH_KEY")
    command = ["stats", str(write_sessions(SESSIONS)), "--out", str(tmp_path / "out")]
    assert main([*command, "--judge", str(judge)]) == 2
    assert "environment variable NO_SUCH_KEY is not set" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_only_the_sample_is_judged(
    write_sessions: WriteSessions, write_judge: WriteJudge, tmp_path: Path
) -> None:
    sessions = [[f"Where is town {n}?"] for n in range(20)]
    out = tmp_path / "out"
    with ScriptedServer(count) as server:
        command = ["stats", str(write_sessions(sessions)), "--out", str(out)]
        command += ["--judge", str(write_judge(server.url)), "--sample", "4"]
        assert main(command) == 0
    assert len(server.bodies) == 12
    assert judged(out)["sessions"] == 4


def test_a_judge_that_may_cost_something_needs_a_limit_and_a_price() -> None:
    url = "https://api.example.com/v1"
    with pytest.raises(UserError, match="may cost something and has no limit; set budget_usd"):
        JudgeConfig(base_url=url, model="m", max_tokens=9)
    with pytest.raises(UserError, match="has a budget_usd and no price"):
        JudgeConfig(base_url=url, model="m", max_tokens=9, budget_usd=1.0)
    assert JudgeConfig(base_url=url, model="m", max_tokens=9, budget_tokens=9).concurrency == 16


def test_the_shipped_judge_loads() -> None:
    path = Path(__file__).resolve().parents[2] / "configs" / "stats" / "judge_gpt4.yaml"
    config = load_config(JudgeConfig, path)
    assert (config.model, config.temperature) == ("gpt-4-0613", 0.0)
    assert config.price is not None
    assert config.budget_usd is not None
