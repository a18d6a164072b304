"""A model answers a benchmark over real HTTP: histories, failures, retries, kills."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from parrot_jax.api.endpoint_config import JobEndpointConfig
from parrot_jax.api.scripted_server import Scripted, ScriptedServer
from parrot_jax.cli import main
from parrot_jax.core.config import load_config
from parrot_jax.core.errors import UserError
from parrot_jax.evaluate.answer_config import AnswerConfig
from parrot_jax.evaluate.answering import items_of
from parrot_jax.evaluate.judge_config import JudgeConfig
from parrot_jax.evaluate.sheets import read_sheets

WriteBenchmark = Callable[..., Path]
WriteConfig = Callable[..., Path]

QUESTIONS = [["Why?", "How?", "When?"], ["Who?", "Where?", "What?"]]


def texts(body: dict[str, Any]) -> list[str]:
    return [message["content"] for message in body["messages"]]


def echo(body: dict[str, Any]) -> Scripted:
    """The last question, answered: "Why?" -> "A Why?"."""
    return Scripted(text=f"A {texts(body)[-1]}")


def answer_rows(out: Path, name: str) -> list[dict[str, Any]]:
    lines = (out / "model_answer" / f"{name}.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_the_model_sees_its_own_answers_the_references_or_nothing(
    write_benchmark: WriteBenchmark, write_config: WriteConfig, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    write_benchmark(QUESTIONS)
    with ScriptedServer(echo) as server:
        config = write_config("answerer", server.url, history=["own", "reference", "none"])
        assert main(["evaluate", "answer", str(config)]) == 0
        assert "18 of 18 turns of 6 dialogues are answered" in capsys.readouterr().out
        # A second run has nothing to ask.
        assert main(["evaluate", "answer", str(config)]) == 0
    assert len(server.bodies) == 18
    asked = {tuple(texts(body)) for body in server.bodies}
    assert {seen for seen in asked if seen[-1] == "When?"} == {
        ("Why?", "A Why?", "How?", "A How?", "When?"),
        ("Why?", "R1", "How?", "R2", "When?"),
        ("When?",),
    }
    assert {body["model"] for body in server.bodies} == {"org/m"}
    out = tmp_path / "answerer"
    rows = answer_rows(out, "m")
    assert [row["question_id"] for row in rows] == [81, 82]
    assert rows[0]["choices"] == [{"index": 0, "turns": ["A Why?", "A How?", "A When?"]}]
    assert [answer_rows(out, f"m@{h}")[0]["model_id"] for h in ("reference", "none")] == [
        "m@reference", "m@none",
    ]  # fmt: skip
    sheets = read_sheets(out)
    assert {(sheet.model, sheet.history) for sheet in sheets} == {
        ("m", "own"), ("m", "reference"), ("m", "none"),
    }  # fmt: skip


def test_the_temperature_depends_on_the_category(
    write_benchmark: WriteBenchmark, write_config: WriteConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_benchmark(QUESTIONS)
    path.write_text(path.read_text().replace('"math"', '"writing"', 1))
    with ScriptedServer(echo) as server:
        config = write_config(
            "answerer", server.url, temperatures={"math": 0.0}, endpoint={"temperature": 0.7}
        )
        assert main(["evaluate", "answer", str(config)]) == 0
        assert Counter(body["temperature"] for body in server.bodies) == {0.7: 3, 0.0: 3}
        config = write_config("answerer", server.url, temperatures={"maths": 0.0})
        assert main(["evaluate", "answer", str(config)]) == 2
        assert "temperatures has maths, but the categories of" in capsys.readouterr().err
        # The first question alone has no math, but the benchmark has.
        config = write_config("answerer", server.url, temperatures={"math": 0.0}, limit=1)
        assert [item.question.id for item in items_of(load_config(AnswerConfig, config))] == [81]


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("../x", "without slashes"), ("a\0b", "printable"), ("a\nb", "printable"),
        ("\ud800", "printable"), (" ", "not blank"), ("é" * 101, "at most 200 bytes"),
        ("m@none", "such an end marks the history"),
    ],
)  # fmt: skip
def test_a_name_that_cannot_name_a_file_is_refused_before_anything_is_paid_for(
    name: str, problem: str
) -> None:
    endpoint = JobEndpointConfig(base_url="http://127.0.0.1:9/v1", model="m")
    with pytest.raises(UserError, match=problem):
        AnswerConfig(out="runs/a", benchmark="q.jsonl", answerer=endpoint, name=name)
    if problem.startswith(("printable", "at most")):
        judge = replace(endpoint, model=f"org/{name}")
        with pytest.raises(UserError, match=f"the name in judge.model is .* {problem}"):
            JudgeConfig(out="runs/j", benchmark="q.jsonl", answers=("a",), judge=judge)


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (Scripted(text=""), "empty"),
        (Scripted(text="<think>Hm."), "only reasoning"),
        (Scripted(text="I", finish_reason="content_filter"), "filtered"),
        (Scripted(status=400, code="context_length_exceeded", text="too long"), "context_full"),
    ],
)
def test_a_failed_answer_is_never_text_and_is_asked_again_by_the_next_run(
    reply: Scripted, reason: str, write_benchmark: WriteBenchmark, write_config: WriteConfig,
    tmp_path: Path, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    write_benchmark(QUESTIONS)
    is_broken = True

    def script(body: dict[str, Any]) -> Scripted:
        return reply if is_broken and texts(body)[-1] == "How?" else echo(body)

    out = tmp_path / "answerer"
    with ScriptedServer(script) as server:
        config = write_config("answerer", server.url, history=["own", "none"])
        assert main(["evaluate", "answer", str(config)]) == 0
        assert "9 of 12 turns of 4 dialogues are answered" in capsys.readouterr().out
        assert [row["question_id"] for row in answer_rows(out, "m")] == [82]
        lacking = [json.loads(line) for line in (out / "incomplete.jsonl").read_text().splitlines()]
        own, none = lacking
        # Without its own answer the history has a hole; without history the next turn is asked.
        assert own["choices"][0]["turns"] == ["A Why?", None, None]
        assert own["missing"] == {"2": reason, "3": "an earlier answer is missing"}
        assert none["choices"][0]["turns"] == ["A Why?", None, "A When?"]
        assert none["missing"] == {"2": reason}
        asked = len(server.bodies)
        is_broken = False
        assert main(["evaluate", "answer", str(config)]) == 0
        # Only what was missing: "How?" twice, and "When?" after it.
        assert len(server.bodies) == asked + 3
        # With other seeds, or a deterministic server would fail again.
        seeds = [body["seed"] for body in server.bodies if texts(body)[-1] == "How?"]
        assert len(set(seeds)) == len(seeds)
    assert "12 of 12 turns" in capsys.readouterr().out
    assert not (out / "incomplete.jsonl").exists()
    assert len(answer_rows(out, "m")) == 2


def test_an_answer_at_the_token_limit_counts_and_is_marked(
    write_benchmark: WriteBenchmark, write_config: WriteConfig, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    write_benchmark(QUESTIONS)

    def script(body: dict[str, Any]) -> Scripted:
        text = f"<think>Well.</think>A {texts(body)[-1]}"
        return Scripted(text=text, finish_reason="length" if text.endswith("How?") else "stop")

    with ScriptedServer(script) as server:
        assert main(["evaluate", "answer", str(write_config("answerer", server.url))]) == 0
    assert "6 of 6 turns of 2 dialogues are answered, 1 of them cut" in capsys.readouterr().out
    first, second = answer_rows(tmp_path / "answerer", "m")
    assert (first["cut"], second.get("cut")) == ([2], None)
    # Reasoning is neither an answer nor a part of the history.
    assert first["choices"][0]["turns"][0] == "A Why?"
    assert all("Well" not in text for body in server.bodies for text in texts(body))


def test_a_history_of_references_needs_them(
    write_benchmark: WriteBenchmark, write_config: WriteConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_benchmark(QUESTIONS, references=False)
    with ScriptedServer(echo) as server:
        config = write_config("answerer", server.url, history=["reference"])
        assert main(["evaluate", "answer", str(config)]) == 2
        assert "no question of" in capsys.readouterr().err
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        rows[0]["reference"] = ["R1", "R2", "R3"]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        assert main(["evaluate", "answer", str(config)]) == 0
        said = capsys.readouterr().out.replace("\n", " ")
        assert "1 of 2 questions lack a reference for an earlier turn; left out" in said
    assert len(server.bodies) == 3


def test_another_model_in_the_same_folder_is_refused_and_a_changed_question_is_asked(
    write_benchmark: WriteBenchmark, write_config: WriteConfig, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    write_benchmark(QUESTIONS)
    with ScriptedServer(echo) as server:
        assert main(["evaluate", "answer", str(write_config("answerer", server.url))]) == 0
        other = write_config("answerer", server.url, endpoint={"model": "other"})
        assert main(["evaluate", "answer", str(other)]) == 2
        assert "another model or other settings (model: 'org/m' -> 'other')" in (
            capsys.readouterr().err
        )
        other = write_config("answerer", server.url, seed=1)
        assert main(["evaluate", "answer", str(other)]) == 2
        assert "seed: 0 -> 1" in capsys.readouterr().err
        write_benchmark([["Why?", "How?", "When now?"], QUESTIONS[1]])
        assert main(["evaluate", "answer", str(write_config("answerer", server.url))]) == 0
    # The changed dialogue is asked from its first turn on; the other one is kept.
    assert len(server.bodies) == 6 + 3
    first, _ = answer_rows(tmp_path / "answerer", "m")
    assert first["choices"][0]["turns"][2] == "A When now?"


def test_an_endpoint_that_fails_stops_the_run_with_what_it_has(
    write_benchmark: WriteBenchmark, write_config: WriteConfig, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    write_benchmark([["Why?"]] * 20)

    def script(body: dict[str, Any]) -> Scripted:
        return echo(body) if len(server.bodies) <= 5 else Scripted(status=503, text="busy")

    with ScriptedServer(script) as server:
        config = write_config("answerer", server.url, endpoint={"concurrency": 1})
        assert main(["evaluate", "answer", str(config)]) == 1
    printed = capsys.readouterr()
    assert "failed 3 times (last error: HTTP 503" in printed.err
    assert "5 of 20 turns" in printed.out
    reasons = Counter(
        reason for sheet in read_sheets(tmp_path / "answerer") for reason in sheet.reasons.values()
    )
    assert reasons == {"no reply": 3, "not asked: the answerer fails": 12}


@pytest.mark.slow
def test_killed_answering_resumes_and_sends_again_only_what_was_in_flight(
    write_benchmark: WriteBenchmark, write_config: WriteConfig, tmp_path: Path
) -> None:
    write_benchmark([[f"Why {n}?", f"How {n}?", f"When {n}?"] for n in range(12)])
    asked: Counter[str] = Counter()

    def script(body: dict[str, Any]) -> Scripted:
        asked[json.dumps(body)] += 1
        return echo(body)

    with ScriptedServer(script, delay_s=0.03) as server:
        config = write_config("answerer", server.url)
        command = [sys.executable, "-m", "parrot_jax.cli", "evaluate", "answer", str(config)]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        for num, number in ((6, signal.SIGKILL), (14, signal.SIGKILL), (24, signal.SIGINT)):
            process = subprocess.Popen(command, **quiet)
            while len(server.bodies) < num:
                assert process.poll() is None
                time.sleep(0.002)
            os.kill(process.pid, number)
            process.wait(timeout=60)
        assert subprocess.run(command, **quiet).returncode == 0
    assert len(asked) == 36
    assert asked.total() <= 36 + 2 * 4  # two SIGKILLs, four requests in flight
    rows = answer_rows(tmp_path / "answerer", "m")
    assert [row["choices"][0]["turns"] for row in rows] == [
        [f"A Why {n}?", f"A How {n}?", f"A When {n}?"] for n in range(12)
    ]


def test_answers_of_fastchat_are_read(shared_data: Path, tmp_path: Path) -> None:
    sheets = read_sheets(shared_data / "mt_bench" / "model_answer" / "gpt-3.5-turbo.jsonl")
    assert len(sheets) == 80
    assert {(sheet.model, sheet.history, len(sheet.answers)) for sheet in sheets} == {
        ("gpt-3.5-turbo", "own", 2)
    }
    path = tmp_path / "a.jsonl"
    row = {"question_id": 81, "model_id": "m", "choices": [{"turns": ["Yes.", "$ERROR$"]}]}
    path.write_text(json.dumps(row))
    (sheet,) = read_sheets(path)
    assert sheet.answers == ("Yes.", None)
    assert sheet.reasons == {2: "FastChat's $ERROR$"}
    for changed, message in (
        ({"choices": []}, "no `choices`"),
        ({"choices": [{"turns": ["A"]}, {"turns": ["B"]}]}, "several choices: 2"),
        ({"choices": [{"turns": [5]}]}, "an answer that is not text"),
        ({"history": "all"}, "unknown `history`"),
    ):
        path.write_text(json.dumps(row | changed))
        with pytest.raises(UserError, match=message):
            read_sheets(path)
    path.write_text(f"{json.dumps(row)}\n{json.dumps(row)}\n")
    with pytest.raises(UserError, match="m answered question 81 2 times"):
        read_sheets(path)
