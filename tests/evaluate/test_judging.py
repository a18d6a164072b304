"""A judge over real HTTP: what it sees, what counts as a grade, pairs, repeats, retries, kills."""

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from parrot_jax.api.scripted_server import Scripted, ScriptedServer
from parrot_jax.cli import main
from parrot_jax.collect.dialogue_state import StopReason
from parrot_jax.evaluate.conversations import ANSWERER_STOPS, ASKER_STOPS
from parrot_jax.evaluate.rescore import rescore

WriteBenchmark = Callable[..., Path]
WriteConfig = Callable[..., Path]

QUESTIONS = [["Why?", "How?", "When?"], ["Who?", "Where?", "What?"]]


def prompt_of(body: dict[str, Any]) -> str:
    return body["messages"][-1]["content"]


def grade(body: dict[str, Any]) -> Scripted:
    """One grade for the last answer "A 7" -> 7."""
    (last,) = re.findall(r"A (\d+)\b(?!.*A \d+\b)", prompt_of(body), re.S)[:1]
    return Scripted(text=f"Fine. Grade: [[{last}]]")


@pytest.fixture
def write_answers(tmp_path: Path) -> Callable[..., Path]:
    """Writes FastChat's answers of a model: one list of texts per question, from 81 on."""

    def write(model: str, answers: Sequence[Sequence[str | None]], **keys: Any) -> Path:
        path = tmp_path / f"{model}{len(keys)}.jsonl"
        rows = [
            {"question_id": number, "model_id": model, "choices": [{"turns": turns}], **keys}
            for number, turns in enumerate(answers, 81)
        ]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return path

    return write


def rows_in(out: Path, name: str = "gpt-4_single") -> list[dict[str, Any]]:
    lines = (out / "model_judgment" / f"{name}.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


ANSWERS = [["A 1", "A 2", "A 3"], ["A 4", "A 5", "A 6"]]


def test_each_turn_is_graded_with_the_conversation_and_the_references(
    write_benchmark: WriteBenchmark, write_config: WriteConfig, write_answers: Any,
    tmp_path: Path, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    write_benchmark(QUESTIONS)
    with ScriptedServer(grade) as server:
        config = write_config("judge", server.url, answers=[str(write_answers("m", ANSWERS))])
        assert main(["evaluate", "judge", str(config)]) == 0
        assert "6 judgments: 6 scored, 0 unscored, 0 without" in capsys.readouterr().out
        assert main(["evaluate", "judge", str(config)]) == 0  # nothing is left to ask
    assert len(server.bodies) == 6
    shown = {prompt_of(body) for body in server.bodies}
    (third,) = [text for text in shown if "A 3" in text]
    assert re.findall(r"Why\?|How\?|When\?|[AR] ?\d", third) == [
        "Why?", "R1", "How?", "R2", "When?", "R3", "Why?", "A 1", "How?", "A 2", "When?", "A 3",
    ]  # fmt: skip
    rows = rows_in(tmp_path / "judge")
    assert [(row["question_id"], row["turn"], row["score"]) for row in rows] == [
        (81, 1, 1.0), (81, 2, 2.0), (81, 3, 3.0), (82, 1, 4.0), (82, 2, 5.0), (82, 3, 6.0),
    ]  # fmt: skip
    row = rows[2]
    assert row["judge"] == ["gpt-4", "grade-reference-multi-turn"]
    assert (row["model"], row["category"], row["judge_model"]) == ("m", "math", "scripted")
    assert row["user_prompt"] == third
    assert len(row["prompt_sha256"]) == 64
    assert row["completion_tokens"] > 0
    assert row["tstamp"] > 1.7e9
    # FastChat's form: every score is found in its text again.
    figures = rescore([tmp_path / "judge" / "model_judgment" / "gpt-4_single.jsonl"]).to_json()
    assert figures["models"]["m"]["mean"] == 3.5
    assert figures["models"]["m"]["disagreeing"] == 0


def test_the_originals_of_fastchat_work_as_they_are(
    write_benchmark: WriteBenchmark, write_config: WriteConfig, write_answers: Any,
    tmp_path: Path, shared_data: Path,
) -> None:  # fmt: skip
    write_benchmark(QUESTIONS, references=False)
    prompts = str(shared_data / "mt_bench" / "judge_prompts.jsonl")
    with ScriptedServer(grade) as server:
        answers = [str(write_answers("m", ANSWERS))]
        config = write_config("judge", server.url, answers=answers, prompts=prompts)
        assert main(["evaluate", "judge", str(config)]) == 0
    names = Counter(row["judge"][1] for row in rows_in(tmp_path / "judge"))
    assert names == {"single-v1": 2, "single-v1-multi-turn": 4}
    (body,) = [body for body in server.bodies if "A 3" in prompt_of(body)]
    assert "answer to the third user question" in body["messages"][0]["content"]


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (Scripted(text=""), "an empty reply"),
        (Scripted(text="Sieben von zehn."), "no [[number]] in the reply"),
        (Scripted(text="[[2]] or [[9]]"), "several [[numbers]] in the reply"),
        (Scripted(text="Grade: [[11]]"), "a number out of range"),
        (Scripted(text="[[5]]", finish_reason="length"), "the reply is cut"),
    ],
)
def test_an_unclear_reply_is_asked_again_and_then_unscored(
    reply: Scripted, reason: str, write_benchmark: WriteBenchmark, write_config: WriteConfig,
    write_answers: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    write_benchmark(QUESTIONS)

    def script(body: dict[str, Any]) -> Scripted:
        return reply if "A 5" in prompt_of(body) and "A 6" not in prompt_of(body) else grade(body)

    with ScriptedServer(script) as server:
        config = write_config("judge", server.url, answers=[str(write_answers("m", ANSWERS))])
        assert main(["evaluate", "judge", str(config), "--attempts", "3"]) == 0
        assert "5 scored, 1 unscored, 0 without" in capsys.readouterr().out
        seeds = [body["seed"] for body in server.bodies if "A 5" in prompt_of(body)
                 and "A 6" not in prompt_of(body)]  # fmt: skip
        # Each attempt has another seed, or a judge with temperature 0 would say the same.
        assert len(set(seeds)) == 3
        assert main(["evaluate", "judge", str(config), "--attempts", "3"]) == 0
        assert len(server.bodies) == 5 + 3
        # A run with more attempts asks again.
        assert main(["evaluate", "judge", str(config), "--attempts", "5"]) == 0
    assert len(server.bodies) == 5 + 5
    (row,) = [row for row in rows_in(tmp_path / "judge") if row["score"] is None]
    assert (row["question_id"], row["turn"], row["reason"]) == (82, 2, reason)
    # The cost of a row is that of all its attempts.
    (clear,) = [row for row in rows_in(tmp_path / "judge") if row["score"] == 4.0]
    assert clear["completion_tokens"] == 3
    assert row["completion_tokens"] == 5 * len(reply.text.split())
    assert "failed" not in row


def test_fewer_attempts_take_no_grade_away(
    write_benchmark: WriteBenchmark, write_config: WriteConfig, write_answers: Any, tmp_path: Path
) -> None:
    write_benchmark([["Why?"]])
    replies = iter(["Hm.", "Hm.", "[[7]]"])
    with ScriptedServer(lambda _: Scripted(text=next(replies))) as server:
        config = write_config("judge", server.url, answers=[str(write_answers("m", [["A 1"]]))])
        for attempts in ("3", "1"):
            assert main(["evaluate", "judge", str(config), "--attempts", attempts]) == 0
            assert [row["score"] for row in rows_in(tmp_path / "judge")] == [7.0]


def test_a_missing_answer_is_a_row_of_its_own_and_is_not_sent(
    write_benchmark: WriteBenchmark, write_config: WriteConfig, write_answers: Any,
    tmp_path: Path, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    write_benchmark(QUESTIONS)
    answers = write_answers("m", [["A 1", "$ERROR$", None], ["A 4", "A 5", "A 6"]])
    with ScriptedServer(grade) as server:
        config = write_config("judge", server.url, answers=[str(answers)])
        assert main(["evaluate", "judge", str(config)]) == 0
    assert len(server.bodies) == 4
    assert "4 scored, 0 unscored, 2 without an answer to judge" in capsys.readouterr().out
    failed = [row for row in rows_in(tmp_path / "judge") if row.get("failed")]
    assert [(row["turn"], row["score"], row["reason"]) for row in failed] == [
        (2, None, "FastChat's $ERROR$"), (3, None, "missing"),
    ]  # fmt: skip


def test_the_judge_sees_what_the_model_saw(
    write_benchmark: WriteBenchmark, write_config: WriteConfig, write_answers: Any, tmp_path: Path
) -> None:
    write_benchmark(QUESTIONS)
    own = write_answers("m", ANSWERS)
    others = [[f"A 1{turn}" for turn in range(3)]] * 2
    reference = write_answers("m", others, history="reference")
    none = tmp_path / "none.jsonl"
    none.write_text(reference.read_text().replace('"reference"', '"none"').replace("A 1", "A 2"))
    with ScriptedServer(lambda body: Scripted(text="[[5]]")) as server:
        config = write_config("judge", server.url, answers=[str(own), str(reference), str(none)])
        assert main(["evaluate", "judge", str(config)]) == 0
    conversations = [prompt_of(body).rpartition("<conversation>")[2] for body in server.bodies]
    last = [re.findall(r"R\d|A \d+", text) for text in conversations if "When?" in text]
    assert sorted(last) == sorted([["A 1", "A 2", "A 3"], ["R1", "R2", "A 12"],
                                   ["A 1", "A 2", "A 22"]])  # fmt: skip


def test_a_hole_does_not_hide_later_answers_without_history(
    write_benchmark: WriteBenchmark, write_config: WriteConfig, write_answers: Any, tmp_path: Path
) -> None:
    write_benchmark(QUESTIONS)
    own = write_answers("m", [["A 1", None, None], ANSWERS[1]])
    none = write_answers("m@none", [["A 4", None, "A 6"], ANSWERS[1]], history="none")
    with ScriptedServer(grade) as server:
        config = write_config("judge", server.url, answers=[str(own), str(none)])
        assert main(["evaluate", "judge", str(config)]) == 0
    states = {
        (row["model"], row["turn"]): row["score"]
        for row in rows_in(tmp_path / "judge") if row["question_id"] == 81
    }  # fmt: skip
    assert states == {("m", 1): 1.0, ("m", 2): None, ("m", 3): None,
                      ("m@none", 1): 4.0, ("m@none", 2): None, ("m@none", 3): 6.0}  # fmt: skip
    (shown,) = [
        prompt_of(b) for b in server.bodies if "A 6" in prompt_of(b) and "Why" in prompt_of(b)
    ]
    assert re.findall(r"Why\?|How\?|When\?|A \d", shown.rpartition("<conversation>")[2]) == [
        "Why?", "A 1", "When?", "A 6",
    ]  # fmt: skip


def test_pairs_are_judged_in_both_orders(
    write_benchmark: WriteBenchmark, write_config: WriteConfig, write_answers: Any,
    tmp_path: Path,
) -> None:  # fmt: skip
    write_benchmark([["Why?"], ["Who?"], ["What?"]])

    def script(body: dict[str, Any]) -> Scripted:
        text = prompt_of(body)
        if "What?" in text:
            return Scripted(text="Perhaps both.")
        if "Who?" in text:
            return Scripted(text="[[A]]")  # always the first
        first, second = (int(number) for number in re.findall(r"A (\d+)", text))
        return Scripted(text="[[A]]" if first > second else "[[B]]")

    with ScriptedServer(script) as server:
        answers = [str(write_answers(name, [[f"A {n}"]] * 3)) for n, name in enumerate("abc", 1)]
        config = write_config("judge", server.url, answers=answers, mode="pairwise", attempts=2)
        assert main(["evaluate", "judge", str(config)]) == 0
        assert len(server.bodies) == 3 * (2 + 2 + 4)
    pairs = rescore([tmp_path / "judge" / "model_judgment" / "gpt-4_pair.jsonl"]).to_json()["pairs"]
    figures = {
        (pair["model_1"], pair["model_2"]): (
            pair["wins_1"], pair["wins_2"], pair["ties"], pair["unscored"], pair["disagreeing"]
        )
        for pair in pairs
    }  # fmt: skip
    assert figures == {("a", "b"): (0, 1, 1, 1, 0), ("a", "c"): (0, 1, 1, 1, 0),
                       ("b", "c"): (0, 1, 1, 1, 0)}  # fmt: skip
    with ScriptedServer(script) as server:
        config = write_config(
            "judge",
            server.url,
            answers=answers,
            mode="pairwise",
            baseline="b",
            attempts=1,
            out=str(tmp_path / "against_b"),
        )
        assert main(["evaluate", "judge", str(config)]) == 0
    rows = rows_in(tmp_path / "against_b", "gpt-4_pair")
    assert {(row["model_1"], row["model_2"]) for row in rows} == {("b", "a"), ("b", "c")}


def test_repeats_have_seeds_of_their_own(
    write_benchmark: WriteBenchmark, write_config: WriteConfig, write_answers: Any, tmp_path: Path
) -> None:
    write_benchmark(QUESTIONS)
    answers = [str(write_answers("m", ANSWERS))]
    with ScriptedServer(grade) as server:
        config = write_config("judge", server.url, answers=answers)
        assert main(["evaluate", "judge", str(config)]) == 0
        # More repeats only add requests.
        config = write_config("judge", server.url, answers=answers, repeats=3)
        assert main(["evaluate", "judge", str(config)]) == 0
    assert len({body["seed"] for body in server.bodies}) == len(server.bodies) == 18
    rows = rows_in(tmp_path / "judge")
    assert Counter(row["repeat"] for row in rows) == {0: 6, 1: 6, 2: 6}


def test_any_dialogues_are_judged(
    write_config: WriteConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "talks.jsonl"
    messages = [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "A 3"},
                {"role": "user", "content": "How?"}, {"role": "assistant", "content": "A 5"},
                {"role": "user", "content": "And?"}]  # fmt: skip
    empty = {"id": "d2", "messages": messages[:1], "collection": {"stop": ["odd"]}}
    path.write_text(f"{json.dumps({'id': 'd1', 'messages': messages})}\n{json.dumps(empty)}")
    with ScriptedServer(grade) as server:
        source = {"kind": "messages", "path": str(path), "name": "chat"}
        config = write_config("judge", server.url, benchmark=None, dialogues=[source])
        assert main(["evaluate", "judge", str(config)]) == 0
    assert "1 dialogues of chat have no answer; not judged" in capsys.readouterr().out
    rows = rows_in(tmp_path / "judge")
    assert [(row["model"], row["question_id"], row["turn"], row["score"]) for row in rows] == [
        ("chat", "d1", 1, 3.0), ("chat", "d1", 2, 5.0),
    ]  # fmt: skip


def test_what_the_asker_did_wrong_is_counted_apart(
    write_config: WriteConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    messages = [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "A 3"}]
    stops = ["max_turns", "repeated_question", "refusal", ["odd"]]
    folder = tmp_path / "collection"
    folder.mkdir()
    (folder / "dialogues.jsonl").write_text("".join(
        json.dumps({"id": f"d{n}", "messages": messages, "collection": {"stop": stop}}) + "\n"
        for n, stop in enumerate(stops)
    ))  # fmt: skip
    with ScriptedServer(grade) as server:
        source = {"kind": "messages", "path": str(folder), "name": "chat"}
        config = write_config("judge", server.url, benchmark=None, dialogues=[source])
        assert main(["evaluate", "judge", str(config)]) == 0
    assert len(server.bodies) == 4
    capsys.readouterr()
    assert main(["evaluate", "report", str(tmp_path / "judge"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["models"]["chat"]
    # The refusal is a second turn without an answer; the repeated question is not.
    assert (found["overall"]["scored"], found["overall"]["failed"]) == (4, 1)
    assert found["by_turn"]["2"]["failed"] == 1
    assert found["asker_stops"] == {"repeated_question": 1}


def test_the_stop_reasons_are_those_of_a_collection() -> None:
    assert {*ANSWERER_STOPS, *ASKER_STOPS} < {reason.value for reason in StopReason}


def test_a_judge_of_its_own_answers_is_warned_of(
    write_benchmark: WriteBenchmark, write_config: WriteConfig, write_answers: Any,
    tmp_path: Path, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    path = write_benchmark(QUESTIONS)
    references = write_answers("GPT-4", [["R1", "R2", "R3"]] * 2, of="references")
    answers = write_answers("gpt-4-2024-08-06", ANSWERS)
    with ScriptedServer(grade) as server:
        config = write_config(
            "judge", server.url, answers=[str(answers)], references=str(references),
            benchmark=str(path), endpoint={"model": "openai/gpt-4-0613"},
        )  # fmt: skip
        assert main(["evaluate", "judge", str(config)]) == 0
    said = capsys.readouterr().out.replace("\n", " ")
    assert "warning: gpt-4 judges its own answers" in said
    assert "warning: gpt-4 judges with references that it wrote" in said
    assert "warning: a judged model wrote the references" in said


def test_inputs_that_do_not_fit_are_one_line(
    write_benchmark: WriteBenchmark, write_config: WriteConfig, write_answers: Any,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    write_benchmark(QUESTIONS)

    def refused(**changes: Any) -> str:
        config = write_config("judge", "http://127.0.0.1:9/v1", **changes)
        assert main(["evaluate", "judge", str(config)]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        return error

    one = str(write_answers("m", ANSWERS))
    assert "there is nothing to judge" in refused()
    assert "`answers` has no questions" in refused(answers=[one], benchmark=None)
    assert "`baseline` is for `mode: pairwise` only" in refused(answers=[one], baseline="m")
    assert "there is nothing to compare" in refused(answers=[one], mode="pairwise")
    assert "is given 2 times" in refused(answers=[one, one])
    assert "has 1 answers to question 81, which has 3 turns" in refused(
        answers=[str(write_answers("n", [["A 1"]]))]
    )
    nothing = write_answers("n", [])
    assert "has no answers; `parrot evaluate answer` writes them" in refused(answers=[str(nothing)])
    source = {"kind": "messages", "path": "d.jsonl", "name": "m"}
    assert "`benchmark` is for `answers` only" in refused(dialogues=[source])
    assert "attempts is 0; it must be at least 1" in refused(answers=[one], attempts=0)
    assert "attempts is 101; it must be at most 100" in refused(answers=[one], attempts=101)


def test_questions_without_answers_are_said(
    write_benchmark: WriteBenchmark, write_config: WriteConfig, write_answers: Any,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    write_benchmark(QUESTIONS)
    answers = [str(write_answers("m", ANSWERS[:1]))]
    with ScriptedServer(grade) as server:
        assert (
            main(["evaluate", "judge", str(write_config("judge", server.url, answers=answers))])
            == 0
        )
    assert "m has no answers to 1 of the 2 questions" in capsys.readouterr().out


def test_another_judge_or_prompt_in_the_same_folder_is_refused(
    write_benchmark: WriteBenchmark, write_config: WriteConfig, write_answers: Any,
    capsys: pytest.CaptureFixture[str], shared_data: Path,
) -> None:  # fmt: skip
    write_benchmark(QUESTIONS)
    answers = [str(write_answers("m", ANSWERS))]
    with ScriptedServer(grade) as server:
        config = write_config("judge", server.url, answers=answers)
        assert main(["evaluate", "judge", str(config)]) == 0
        other = write_config("judge", server.url, answers=answers, endpoint={"temperature": 1.0})
        assert main(["evaluate", "judge", str(other)]) == 2
        assert "another judge or other settings (temperature: None -> 1.0)" in (
            capsys.readouterr().err
        )
        prompts = str(shared_data / "mt_bench" / "judge_prompts.jsonl")
        other = write_config("judge", server.url, answers=answers, prompts=prompts)
        assert main(["evaluate", "judge", str(other)]) == 2
        assert "single-v1.prompt_text: sha256 none -> " in capsys.readouterr().err
    assert len(server.bodies) == 6


@pytest.mark.slow
def test_killed_judging_resumes_and_gives_the_same_file(
    write_benchmark: WriteBenchmark, write_config: WriteConfig, write_answers: Any, tmp_path: Path
) -> None:
    write_benchmark([["Why?", "How?"]] * 15)
    answers = [str(write_answers("m", [[f"A {1 + n % 9}", f"A {1 + n % 7}"] for n in range(15)]))]
    asked: Counter[str] = Counter()

    def script(body: dict[str, Any]) -> Scripted:
        asked[json.dumps(body)] += 1
        is_odd = hashlib.sha256(json.dumps(body).encode()).digest()[0] < 60
        return Scripted(text="Hm.") if is_odd else grade(body)

    def without_times(out: Path) -> list[dict[str, Any]]:
        return [{k: v for k, v in row.items() if k not in ("tstamp", "seconds")}
                for row in rows_in(out)]  # fmt: skip

    with ScriptedServer(script, delay_s=0.03) as server:
        whole = write_config("judge", server.url, answers=answers, out=str(tmp_path / "whole"))
        assert main(["evaluate", "judge", str(whole)]) == 0
        in_all, before = len(server.bodies), asked.copy()
        config = write_config("judge", server.url, answers=answers)
        command = [sys.executable, "-m", "parrot_jax.cli", "evaluate", "judge", str(config)]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        for num, number in ((8, signal.SIGKILL), (20, signal.SIGKILL), (28, signal.SIGINT)):
            process = subprocess.Popen(command, **quiet)
            while len(server.bodies) < in_all + num:
                assert process.poll() is None
                time.sleep(0.002)
            os.kill(process.pid, number)
            process.wait(timeout=60)
        assert subprocess.run(command, **quiet).returncode == 0
    assert asked.keys() == before.keys()
    assert len(server.bodies) <= 2 * in_all + 2 * 4
    assert without_times(tmp_path / "judge") == without_times(tmp_path / "whole")
