"""An asker continues a benchmark over real HTTP: filters, marks, kills, budgets, rejections."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from parrot_jax.api.scripted_server import Scripted, ScriptedServer
from parrot_jax.cli import main
from parrot_jax.evaluate.benchmark import read_benchmark
from parrot_jax.evaluate.reviewing import review

WriteBenchmark = Callable[..., Path]
WriteConfig = Callable[..., Path]
Rows = Callable[[], list[dict[str, Any]]]

SEEDS = [["Why is the sky blue?", "Say it in one sentence."], ["What is a prime?", "Name ten."]]


def texts(body: dict[str, Any]) -> list[str]:
    return [message["content"] for message in body["messages"]]


def is_asked_to_ask(body: dict[str, Any]) -> bool:
    return body["model"] == "org/ask"


def talk(body: dict[str, Any]) -> Scripted:
    """Questions with the number of their turn; answers whose words all depend on the dialogue."""
    if is_asked_to_ask(body):
        turn = len(body["messages"]) // 2 + 1
        return Scripted(text=f"And what follows from point {turn} of that?")
    digest = hashlib.sha256(json.dumps(texts(body)).encode()).hexdigest()
    return Scripted(text=" ".join(f"w{digest[n : n + 6]}" for n in range(0, 48, 6)))


@pytest.fixture
def write_build(tmp_path: Path) -> WriteConfig:
    def write(url: str, **changes: Any) -> Path:
        endpoint = {
            "base_url": url, "max_tokens": 100, "concurrency": 4,
            "retries": {"max_attempts": 2, "first_delay_s": 0},
        }  # fmt: skip
        values = {
            "out": str(tmp_path / "built"), "name": "mt-longer",
            "benchmark": str(tmp_path / "question.jsonl"),
            "asker": endpoint | {"model": "org/ask"} | changes.pop("asker", {}),
            "answerer": endpoint | {"model": "org/ans"} | changes.pop("answerer", {}),
        }  # fmt: skip
        path = tmp_path / "build.yaml"
        path.write_text(yaml.safe_dump(values | changes))
        return path

    return write


@pytest.fixture
def rows(tmp_path: Path) -> Rows:
    def read() -> list[dict[str, Any]]:
        lines = (tmp_path / "built" / "questions.jsonl").read_text().splitlines()
        return [json.loads(line) for line in lines]

    return read


def build(config: Path, *options: str) -> int:
    return main(["evaluate", "build", str(config), *options])


def test_two_turns_become_five_and_then_eight(
    write_benchmark: WriteBenchmark, write_build: WriteConfig, rows: Rows, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    write_benchmark(SEEDS, references=False)
    with ScriptedServer(talk) as server:
        assert build(write_build(server.url), "--turns", "5") == 0
        assert "2 of 2 dialogues have 5 turns; 6 questions are new, 0" in capsys.readouterr().out
        five = rows()
        # A dialogue: 2 answers to the first questions, then 3 x (question, answer, answer alone).
        assert len(server.bodies) == 2 * (2 + 3 * 3)
        assert build(write_build(server.url), "--turns", "8") == 0
        eight = rows()
        assert len(server.bodies) == 2 * (2 + 6 * 3)
        assert build(write_build(server.url)) == 0
        assert len(server.bodies) == 2 * (2 + 6 * 3)
    assert rows() == eight
    assert [row["turns"] for row in five] == [row["turns"][:5] for row in eight]
    first = eight[0]
    assert first["turns"] == [
        *SEEDS[0], *(f"And what follows from point {turn} of that?" for turn in range(3, 9)),
    ]  # fmt: skip
    assert (first["question_id"], first["category"], first["benchmark"]) == (
        81, "math", "mt-longer",
    )  # fmt: skip
    assert first["written_by"] == ["question.jsonl"] * 2 + ["org/ask"] * 6
    assert first["accepted_by"] == [None] * 8
    assert first["context_similarity"] == [None] * 2 + [0.0] * 6
    assert first["reference_is_made"] == [True] * 8
    assert first["reference_written_by"] == ["org/ans"] * 8
    assert "short" not in first
    # The answer with the dialogue is the reference; the one without it is not.
    asked = [texts(body) for body in server.bodies if not is_asked_to_ask(body)]
    last = [one for one in asked if one[0] == SEEDS[0][0] and one[-1] == first["turns"][7]]
    assert last == [
        [text for turn in zip(first["turns"], first["reference"], strict=True) for text in turn][
            :-1
        ]
    ]
    assert asked.count([first["turns"][7]]) == 2  # alone: once for each dialogue


def test_what_was_built_is_a_benchmark(
    write_benchmark: WriteBenchmark, write_build: WriteConfig, write_config: WriteConfig,
    tmp_path: Path, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    write_benchmark(SEEDS)
    built = tmp_path / "built" / "questions.jsonl"
    with ScriptedServer(talk) as server:
        assert build(write_build(server.url), "--turns", "3") == 0
        config = write_config("answerer", server.url, benchmark=str(built), history=["own", "none"])
        assert main(["evaluate", "answer", str(config)]) == 0
    assert "12 of 12 turns of 4 dialogues are answered" in capsys.readouterr().out
    first, _ = read_benchmark(str(built))
    # References of the benchmark are part of the dialogue, and are not made again.
    assert first.references[:2] == ("R1", "R2")
    assert first.references[2] is not None
    assert first.reference_model == "org/ans, question.jsonl"
    row = json.loads(built.read_text().splitlines()[0])
    assert row["reference_is_made"] == [False, False, True]
    proposals = [texts(body) for body in server.bodies if is_asked_to_ask(body)]
    assert [*SEEDS[0][:1], "R1", SEEDS[0][1], "R2"] in [asked[:4] for asked in proposals]


BAD = {
    "...": "no question: it has no words",
    "Why so?": "too short",
    "And " + "so " * 40 + "on?": "too long",
    "Thank you very much!": "thanks or good-bye",
    "Certainly! Here is the next question.": "an answer, not a question",
    "Say it in one sentence!": "repeats an earlier question",
    "Und was folgt daraus für die Farbe des Meeres am Abend, wenn die Sonne tief steht?": (
        "another language"
    ),
}


@pytest.mark.parametrize(("bad", "reason"), list(BAD.items()), ids=list(BAD.values()))
def test_a_filter_drops_a_question_with_its_reason_and_the_next_proposal_takes_its_place(
    bad: str, reason: str, write_benchmark: WriteBenchmark, write_build: WriteConfig, rows: Rows,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    first = ["Why is the sky blue at noon and red in the evening?", "Say it in one sentence."]
    write_benchmark([first])

    def script(body: dict[str, Any]) -> Scripted:
        is_first = bad not in texts(body)[-1]  # the prompt names what was turned down
        return Scripted(text=bad) if is_asked_to_ask(body) and is_first else talk(body)

    with ScriptedServer(script) as server:
        assert build(write_build(server.url), "--turns", "3", "--most-chars", "100") == 0
    printed = capsys.readouterr().out
    assert "1 proposals were dropped" in printed
    assert f"  1: {reason}" in printed
    (row,) = rows()
    assert row["turns"][2] == "And what follows from point 3 of that?"
    assert row["dropped"] == [
        {"turn": 3, "text": bad.strip(), "written_by": "org/ask", "reason": reason}
    ]
    # A dropped proposal costs no answer.
    assert Counter(body["model"] for body in server.bodies) == {"org/ask": 2, "org/ans": 2}


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (Scripted(text=""), "empty"),
        (Scripted(text="And what is", finish_reason="length"), "cut at the token limit"),
        (Scripted(text="And", finish_reason="content_filter"), "filtered"),
    ],
)
def test_a_reply_that_is_no_question_is_dropped_and_a_dialogue_may_stay_short(
    reply: Scripted, reason: str, write_benchmark: WriteBenchmark, write_build: WriteConfig,
    rows: Rows, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    write_benchmark(SEEDS[:1])
    is_broken = True

    def script(body: dict[str, Any]) -> Scripted:
        is_fourth = is_asked_to_ask(body) and len(body["messages"]) > 5
        return reply if is_fourth and is_broken else talk(body)

    with ScriptedServer(script) as server:
        config = write_build(server.url)
        assert build(config, "--attempts", "3") == 0
        printed = capsys.readouterr().out
        assert "0 of 1 dialogues have 8 turns; 1 questions are new" in printed
        assert "  1 short: all proposals were dropped" in printed
        assert f"  3: {reason}" in printed
        (row,) = rows()
        assert len(row["turns"]) == 3
        assert row["short"] == "all proposals were dropped"
        asked = len(server.bodies)
        assert build(config, "--attempts", "3") == 0  # nothing more may be asked
        assert len(server.bodies) == asked
        is_broken = False
        assert build(config, "--attempts", "4") == 0
    (row,) = rows()
    assert len(row["turns"]) == 8
    assert [note["reason"] for note in row["dropped"]] == [reason] * 3


def test_a_question_that_needs_no_context_is_dropped_or_only_measured(
    write_benchmark: WriteBenchmark, write_build: WriteConfig, rows: Rows, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    write_benchmark(SEEDS[:1])

    def script(body: dict[str, Any]) -> Scripted:
        said = texts(body)
        if is_asked_to_ask(body) and "Rome" not in said[-1]:
            return Scripted(text="What is the capital of Italy? Rome?")
        if "Rome?" in said[-1] and not is_asked_to_ask(body):
            # Eight common words of nine and eight: 2 x 8 / 17 = 94.1.
            return Scripted(text="It is Rome, since the year 1871 it" + " is" * (len(said) > 1))
        return talk(body)

    with ScriptedServer(script) as server:
        assert build(write_build(server.url), "--turns", "3") == 0
        printed = capsys.readouterr().out
        assert "  1: does not need its context" in printed
        (row,) = rows()
        assert row["turns"][2] == "And what follows from point 3 of that?"
        config = write_build(server.url, out=str(tmp_path / "measured"), require_context=False)
        assert build(config, "--turns", "3") == 0
    (line,) = (tmp_path / "measured" / "questions.jsonl").read_text().splitlines()
    row = json.loads(line)
    assert row["turns"][2] == "What is the capital of Italy? Rome?"
    assert row["context_similarity"] == [None, None, 94.1]
    assert "dropped" not in row


def test_an_answer_that_is_missing_stops_its_dialogue_and_is_asked_again(
    write_benchmark: WriteBenchmark, write_build: WriteConfig, rows: Rows,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    write_benchmark(SEEDS, references=False)
    is_broken = True

    def script(body: dict[str, Any]) -> Scripted:
        said = texts(body)
        is_hit = said[0] == SEEDS[0][0] and len(said) == 7 and not is_asked_to_ask(body)
        return Scripted(text="") if is_hit and is_broken else talk(body)

    with ScriptedServer(script) as server:
        assert build(write_build(server.url)) == 0
        assert "  1 short: no answer: empty" in capsys.readouterr().out
        assert [len(row["turns"]) for row in rows()] == [3, 8]
        is_broken = False
        assert build(write_build(server.url)) == 0
    assert [len(row["turns"]) for row in rows()] == [8, 8]


@pytest.mark.parametrize(
    ("messages", "reason"),
    [(5, "its answer was filtered"), (1, "its need of context could not be measured")],
)
def test_a_question_whose_answer_is_filtered_is_dropped(
    messages: int, reason: str, write_benchmark: WriteBenchmark, write_build: WriteConfig,
    rows: Rows,
) -> None:  # fmt: skip
    write_benchmark(SEEDS[:1])

    def script(body: dict[str, Any]) -> Scripted:
        said = texts(body)
        if is_asked_to_ask(body) and "harm" not in said[-1]:
            return Scripted(text="And how does it harm people?")
        if "harm" in said[-1] and len(said) == messages and not is_asked_to_ask(body):
            return Scripted(text="I", finish_reason="content_filter")
        return talk(body)

    with ScriptedServer(script) as server:
        assert build(write_build(server.url), "--turns", "3") == 0
    (row,) = rows()
    assert row["turns"][2] == "And what follows from point 3 of that?"
    assert [note["reason"] for note in row["dropped"]] == [reason]


def test_a_request_that_the_endpoint_rejects_leaves_its_dialogue_short(
    write_benchmark: WriteBenchmark, write_build: WriteConfig, rows: Rows,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    write_benchmark(SEEDS)

    def script(body: dict[str, Any]) -> Scripted:
        said = texts(body)
        if said[0] == SEEDS[1][0] and len(said) == 7 and not is_asked_to_ask(body):
            return Scripted(status=400, text="no numbers, please")
        return talk(body)

    with ScriptedServer(script) as server:
        assert build(write_build(server.url)) == 0
    assert "1 short: rejected by the endpoint: HTTP 400: no numbers" in capsys.readouterr().out
    assert [len(row["turns"]) for row in rows()] == [8, 3]


def test_a_trained_asker_gets_the_dialogue_alone(
    write_benchmark: WriteBenchmark, write_build: WriteConfig, rows: Rows,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    write_benchmark(SEEDS[:1])
    with ScriptedServer(talk) as server:
        config = write_build(server.url, asker={"prompt": None, "temperature": 0.0})
        assert build(config, "--turns", "3") == 2
        assert "all proposals for a turn would be equal" in capsys.readouterr().err
        config = write_build(server.url, asker={"prompt": None, "temperature": 1.0})
        assert build(config, "--turns", "3") == 0
    (asked,) = (body for body in server.bodies if is_asked_to_ask(body))
    assert texts(asked) == ["Why is the sky blue?", "R1", "Say it in one sentence.", "R2"]
    assert asked["messages"][-1]["role"] == "assistant"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "MT-Bench++"}, "were never published"),
        ({"name": "mt bench \uff0b\uff0b v2"}, "were never published"),
        ({"name": "MTBench_pp"}, "were never published"),
        ({"name": "--"}, "have a letter"),
        ({"turns": 2}, "have as many questions or more; raise it"),
        ({"attempts": 21}, "attempts is 21; it must be from 1 to 20"),
        ({"fewest_chars": 9, "most_chars": 8}, "no question has such a length"),
        ({"context_similarity": 0.0}, "context_similarity is 0.0; it must be in (0, 100]"),
        ({"answerer": {"retries": {"max_attempts": 3}}}, "a run has one: make them equal"),
    ],
)
def test_wrong_settings_are_refused_before_anything_is_sent(
    changes: dict[str, Any], message: str, write_benchmark: WriteBenchmark,
    write_build: WriteConfig, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    write_benchmark(SEEDS)
    with ScriptedServer(talk) as server:
        assert build(write_build(server.url, **changes)) == 2
    assert message in capsys.readouterr().err
    assert server.bodies == []


def test_other_settings_may_not_continue_a_benchmark(
    write_benchmark: WriteBenchmark, write_build: WriteConfig, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    write_benchmark(SEEDS)
    prompt = tmp_path / "p.jinja"
    prompt.write_text("Ask question {{ turn }} of {{ turns }}{{ avoid }}.")
    with ScriptedServer(talk) as server:
        assert build(write_build(server.url), "--turns", "3") == 0
        for changes, message in (
            ({"asker": {"model": "other"}}, "asker.model: 'org/ask' -> 'other'"),
            ({"fewest_chars": 11}, "fewest_chars: 10 -> 11"),
            ({"asker": {"prompt": str(prompt)}}, "asker.prompt_text: sha256"),
        ):
            assert build(write_build(server.url, **changes)) == 2
            assert message in capsys.readouterr().err
        prompt.write_text("{{ turn }} {{ topic }}")
        assert build(write_build(server.url, asker={"prompt": str(prompt)})) == 2
        assert "'topic' is undefined" in capsys.readouterr().err


def test_a_budget_stops_the_run_and_a_higher_one_continues_it(
    write_benchmark: WriteBenchmark, write_build: WriteConfig, rows: Rows,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    write_benchmark(SEEDS)
    with ScriptedServer(talk) as server:
        config = write_build(server.url, answerer={"budget_tokens": 900})
        assert build(config) == 1
        printed = capsys.readouterr()
        assert "budget" in printed.err
        assert "short: not asked: the budget is spent" in printed.out
        # What there is, is a valid benchmark.
        stopped = rows()
        assert min(len(row["turns"]) for row in stopped) < 8
        config = write_build(server.url, answerer={"budget_tokens": 200_000})
        assert build(config) == 0
    assert [len(row["turns"]) for row in rows()] == [8, 8]
    for old, new in zip(stopped, rows(), strict=True):
        assert new["turns"][: len(old["turns"])] == old["turns"]


def answers_of(*lines: str) -> Callable[[str], str]:
    left = list(lines)

    def read(_: str) -> str:
        if not left:
            raise EOFError
        return left.pop(0)

    return read


def test_the_build_after_a_review_keeps_decisions_and_never_proposes_what_was_rejected(
    write_benchmark: WriteBenchmark, write_build: WriteConfig, rows: Rows, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    write_benchmark(SEEDS)
    stubborn = "And what follows from point 4 of that?"
    seeds: dict[str, set[int]] = {}

    def script(body: dict[str, Any]) -> Scripted:
        reply = talk(body)
        if is_asked_to_ask(body) and reply.text == stubborn:
            seeds.setdefault(texts(body)[0], set()).add(body["seed"])
            # Proposes the rejected text once more, then another one.
            if f"- {stubborn}" in texts(body)[-1] and texts(body)[-1].count("\n- ") > 1:
                return Scripted(text="But which of those would you give up first?")
        return reply

    file = tmp_path / "built" / "questions.jsonl"
    with ScriptedServer(script) as server:
        assert build(write_build(server.url), "--turns", "5") == 0
        before = rows()
        # First dialogue: accept the third question, reject the fourth. Second: edit the third.
        lines = answers_of("a", "r", "e", "Is two such a thing?", "q")
        assert review(str(file), reviewer="Ada", read=lines).rejected == 1
        first, second = rows()
        assert first["turns"] == before[0]["turns"][:3]
        assert second["reference"] == ["R1", "R2", None, None, None]
        asked = len(server.bodies)
        capsys.readouterr()
        assert build(write_build(server.url), "--turns", "5") == 0
        # First: 2 proposals for turn 4, 1 for turn 5, two answers each. Second: 3 x 2 answers.
        assert len(server.bodies) == asked + 3 + 4 + 6
        assert "6 questions are new, 2 of them accepted by a person" in capsys.readouterr().out
        after = rows()
        assert build(write_build(server.url), "--turns", "5") == 0
        assert rows() == after
        assert len(server.bodies) == asked + 3 + 4 + 6
    first, second = after
    assert first["turns"][3:] == [
        "But which of those would you give up first?", "And what follows from point 5 of that?",
    ]  # fmt: skip
    assert first["accepted_by"] == [None, None, "Ada", None, None]
    assert first["reference"][2] == before[0]["reference"][2]
    assert first["rejected"] == [
        {"turn": 4, "text": stubborn, "written_by": "org/ask", "rejected_by": "Ada"}
    ]
    assert [note["reason"] for note in first["dropped"]] == ["rejected by a person before"]
    assert len(seeds["Why is the sky blue?"]) == 3
    assert second["turns"][2] == "Is two such a thing?"
    assert second["written_by"][2:] == ["Ada (edited org/ask)", "org/ask", "org/ask"]
    assert None not in second["reference"]
    assert second["reference"][3] != before[1]["reference"][3]  # its dialogue is another one
    assert second["context_similarity"][2:] == [0.0, 0.0, 0.0]


def test_a_build_that_would_lose_decisions_is_refused(
    write_benchmark: WriteBenchmark, write_build: WriteConfig, rows: Rows, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    write_benchmark(SEEDS)
    file = tmp_path / "built" / "questions.jsonl"
    with ScriptedServer(talk) as server:
        assert build(write_build(server.url), "--turns", "5") == 0
        review(str(file), reviewer="Ada", read=answers_of("s", "s", "s", "a", "a"))
        reviewed = file.read_text()
        assert build(write_build(server.url), "--limit", "1") == 2
        assert "1 reviewed dialogues that are not among the questions" in capsys.readouterr().err
        write_benchmark([SEEDS[0], ["What is a prime?", "Name twenty."]])
        assert build(write_build(server.url)) == 2
        assert "people reviewed dialogue 82, but its first questions" in capsys.readouterr().err
        write_benchmark(SEEDS)
        # Fewer turns keep what was accepted.
        assert build(write_build(server.url), "--turns", "3") == 0
        assert [len(row["turns"]) for row in rows()] == [3, 4]
        (tmp_path / "built" / "journal.sqlite").rename(tmp_path / "elsewhere.sqlite")
        assert build(write_build(server.url)) == 2
        assert "journal.sqlite is missing; restore it" in capsys.readouterr().err
    assert [row["accepted_by"] for row in map(json.loads, reviewed.splitlines())][1] == [
        None, None, "Ada", "Ada", None,
    ]  # fmt: skip


@pytest.mark.slow
def test_a_killed_build_resumes_to_the_same_file(
    write_benchmark: WriteBenchmark, write_build: WriteConfig, tmp_path: Path
) -> None:
    write_benchmark([[f"Why {n}?", f"How {n}?"] for n in range(6)], references=False)
    asked: Counter[str] = Counter()

    def script(body: dict[str, Any]) -> Scripted:
        asked[json.dumps(body)] += 1
        if is_asked_to_ask(body) and body["seed"] % 3 == 0:
            return Scripted(text="Thanks!")  # so that some turns need several proposals
        return talk(body)

    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    command = [sys.executable, "-m", "parrot_jax.cli", "evaluate", "build"]
    files = []
    with ScriptedServer(script, delay_s=0.02) as server:
        for name, kills in (("whole", ()), ("killed", (9, 30, 60))):
            config = str(write_build(server.url, out=str(tmp_path / name)))
            before = len(server.bodies)
            for num, number in zip(
                kills, (signal.SIGKILL, signal.SIGKILL, signal.SIGINT), strict=False
            ):
                process = subprocess.Popen([*command, config], **quiet)
                while len(server.bodies) < before + num:
                    assert process.poll() is None
                    time.sleep(0.002)
                os.kill(process.pid, number)
                process.wait(timeout=60)
            assert subprocess.run([*command, config], **quiet).returncode == 0
            files.append((tmp_path / name / "questions.jsonl").read_bytes())
    assert files[0] == files[1]
    # Both runs send the same requests; of two SIGKILLs, at most four each were in flight.
    assert asked.total() <= 2 * len(asked) + 2 * 4
