"""People decide on built questions: each choice, the end of the input, and a kill."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from parrot_jax.cli import main
from parrot_jax.core.errors import UserError
from parrot_jax.evaluate.benchmark import read_benchmark
from parrot_jax.evaluate.reviewing import review

Rows = Callable[[], list[dict[str, Any]]]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Two dialogues: one question of the benchmark and three new ones."""
    path = tmp_path / "questions.jsonl"
    rows = [
        {
            "question_id": number,
            "category": "math",
            "turns": [f"Q{n} of {number}?" for n in range(1, 5)],
            "reference": [f"A{n}" for n in range(1, 5)],
            "reference_model": "ans",
            "reference_written_by": ["ans"] * 4,
            "reference_is_made": [True] * 4,
            "written_by": ["question.jsonl", *["ask"] * 3],
            "accepted_by": [None] * 4,
            "context_similarity": [None, 12.5, None, 20],
            "seed_turns": 1,
            "given": 1,
            "benchmark": "longer",
            "note": "kept",
        }
        for number in (81, 82)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def rows(file: Path) -> Rows:
    return lambda: [json.loads(line) for line in file.read_text().splitlines()]


@pytest.fixture
def decide(file: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Runs the command with these lines as its standard input, which is no terminal."""

    def run(*lines: str) -> int:
        monkeypatch.setattr(sys, "stdin", io.StringIO("".join(f"{line}\n" for line in lines)))
        return main(["evaluate", "review", str(file), "--reviewer", "Ada"])

    return run


def test_what_is_accepted_has_a_name_and_only_new_questions_are_shown(
    decide: Callable[..., int], rows: Rows, capsys: pytest.CaptureFixture[str]
) -> None:
    assert decide("a", "accept", "s") == 0
    printed = capsys.readouterr().out
    assert "2 accepted, 0 edited, 0 rejected, 1 skipped; 4 are left" in printed
    first, second = rows()
    assert first["accepted_by"] == [None, "Ada", "Ada", None]
    assert second["accepted_by"] == [None] * 4
    assert first["note"] == "kept"
    assert "dialogue 81 (math), question 2; 6 left" in printed
    assert "[1] user: Q1 of 81?\n\n[1] assistant: A1\n" in printed
    assert "by ask; similarity of the answers with and without the dialogue: 12.5 of 100" in printed
    assert ">>> Q2 of 81?" in printed
    # The dialogue is shown once; then only what is new.
    assert printed.count("A1\n") == 2  # once for each dialogue
    assert decide("a") == 0  # continues with the one that was skipped
    assert rows()[0]["accepted_by"] == [None, "Ada", "Ada", "Ada"]


def test_an_edit_drops_the_answers_from_there_on(
    decide: Callable[..., int], rows: Rows, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert decide("a", "e", "Why that?", "q") == 0
    printed = capsys.readouterr().out
    assert "1 accepted, 1 edited, 0 rejected" in printed
    assert "run `parrot evaluate build` with the same config" in printed
    assert "[3] user: Why that?\n\n[3] assistant: (the next build answers)" in printed
    row = rows()[0]
    assert row["turns"] == ["Q1 of 81?", "Q2 of 81?", "Why that?", "Q4 of 81?"]
    assert row["written_by"] == ["question.jsonl", "ask", "Ada (edited ask)", "ask"]
    assert row["accepted_by"] == [None, "Ada", "Ada", None]
    assert row["reference"] == ["A1", "A2", None, None]
    assert row["reference_is_made"] == [True, True, False, False]
    assert row["reference_written_by"] == ["ans", "ans", None, None]
    assert row["context_similarity"] == [None, 12.5, None, None]
    assert row["edited"] == [
        {"turn": 3, "text": "Q3 of 81?", "written_by": "ask", "edited_by": "Ada"}
    ]
    assert row["given"] == 4
    assert read_benchmark(str(file))[0].references == ("A1", "A2", None, None)


def test_an_edit_withdraws_what_was_accepted_after_it(
    decide: Callable[..., int], rows: Rows
) -> None:
    assert decide("s", "a", "a", "q") == 0
    assert rows()[0]["accepted_by"] == [None, None, "Ada", "Ada"]
    assert decide("e", "Why that?", "a", "q") == 0
    assert rows()[0]["accepted_by"] == [None, "Ada", "Ada", None]


def test_an_edit_without_a_change_accepts_and_one_without_text_asks_again(
    decide: Callable[..., int], rows: Rows, capsys: pytest.CaptureFixture[str]
) -> None:
    keys = ["e", "Q2 of 81?", "e", " ", "x", "e", "Old\x1b[D?", "e", "\udcff", "e", "New?", "q"]
    assert decide(*keys) == 0
    printed = capsys.readouterr().out
    assert "1 accepted, 1 edited" in printed
    assert "an edit needs a text; choose again" in printed
    assert "'Old␛[D?' has a control character; choose again" in printed
    assert "'x' is no choice; type one of a, e, r, s, q" in printed
    assert rows()[0]["written_by"] == ["question.jsonl", "ask", "Ada (edited ask)", "ask"]


def test_a_rejection_removes_the_later_turns_too(
    decide: Callable[..., int], rows: Rows, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert decide("a", "r", "r") == 0
    assert "1 accepted, 0 edited, 2 rejected, 0 skipped; 0 are left" in capsys.readouterr().out
    first, second = rows()
    assert first["turns"] == ["Q1 of 81?", "Q2 of 81?"]
    assert first["reference"] == ["A1", "A2"]
    assert (first["given"], first["short"]) == (2, "turn 3 was rejected")
    assert first["rejected"] == [
        {"turn": 3, "text": "Q3 of 81?", "written_by": "ask", "rejected_by": "Ada"}
    ]
    assert second["turns"] == ["Q1 of 82?"]
    assert [len(question.turns) for question in read_benchmark(str(file))] == [2, 1]


@pytest.mark.parametrize("lines", [(), ("a",), ("e",), ("a", "q"), ("a", "e")])
def test_the_end_of_the_input_ends_the_review_with_what_was_decided(
    lines: tuple[str, ...], decide: Callable[..., int], rows: Rows
) -> None:
    assert decide(*lines) == 0
    accepted = rows()[0]["accepted_by"][1]
    assert accepted == ("Ada" if "a" in lines else None)
    assert rows()[0]["turns"][2] == "Q3 of 81?"


def test_what_another_program_wrote_meanwhile_is_kept(file: Path, rows: Rows) -> None:
    lines = iter(["a", "a"])

    def read(_: str) -> str:
        line = next(lines)
        if rows()[0]["accepted_by"][1]:  # an editor, while the second question is shown
            file.write_text(file.read_text().replace("Q4 of 82?", "Corrected by hand"))
        return line

    with pytest.raises(UserError, match="changed, moved or deleted .*; the decision is not saved"):
        review(str(file), reviewer="Ada", read=read)
    assert rows()[0]["accepted_by"] == [None, "Ada", None, None]
    assert rows()[1]["turns"][3] == "Corrected by hand"


@pytest.mark.slow
def test_a_kill_loses_no_decision(file: Path, rows: Rows) -> None:
    command = [sys.executable, "-m", "parrot_jax.cli", "evaluate", "review", str(file)]
    command += ["--reviewer", "Ada"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None
    process.stdin.write(b"a\nr\na\n")
    process.stdin.flush()
    end = time.monotonic() + 60
    while rows()[1]["accepted_by"][1] is None:
        assert time.monotonic() < end
        time.sleep(0.01)
    # Two people at once would overwrite each other.
    second = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert second.returncode == 2
    assert "another process is writing" in second.stderr
    os.kill(process.pid, signal.SIGKILL)
    process.communicate(timeout=60)
    assert [row["accepted_by"] for row in rows()] == [[None, "Ada"], [None, "Ada", None, None]]
    after = subprocess.run(command, input="a\n", capture_output=True, text=True)
    assert "1 accepted, 0 edited, 0 rejected, 0 skipped; 1 are left" in after.stdout


def test_control_characters_and_markup_are_shown_as_text(
    decide: Callable[..., int], file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file.write_text(file.read_text().replace("Q2 of 81?", "[bold]\\u001b[2JWho?"))
    assert decide("s") == 0
    assert ">>> [bold]␛[2JWho?" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"written_by": ["a"]}, "questions.jsonl:2: no list in `written_by`: it must have 4"),
        ({"accepted_by": [None, None, 5, None]}, "a wrong value in `accepted_by`: turn 3 is 5"),
        ({"context_similarity": [None, None, True, None]}, "turn 3 is True"),
        ({"given": 5}, "1 seed turns, 5 given, 4 in all"),
        ({"rejected": [{"turn": 2, "text": "a", "written_by": "b"}]}, "no text in `rejected_by`"),
        ({"question_id": 81}, "the id 81 appears twice"),
        ({"turns": ["a", "b", "", "d"]}, "a turn without text"),
        ({"written_by": ["a", "b", "\ud83d", "d"]}, "half of a surrogate pair in `written_by`"),
        ({"note": "\ud83d"}, "half of a surrogate pair in `other keys`"),
        ({"seed_turns": 0}, "no positive integer in `seed_turns`"),
    ],
)
def test_an_invalid_row_is_refused_with_file_and_line(
    change: dict[str, Any], message: str, file: Path, rows: Rows
) -> None:
    first, second = rows()
    file.write_text(f"{json.dumps(first)}\n{json.dumps(second | change)}\n")
    before = file.read_bytes()
    with pytest.raises(UserError) as caught:
        review(str(file), reviewer="Ada", read=lambda _: "a")
    assert message in str(caught.value)
    assert file.read_bytes() == before


def test_other_files_and_names_are_refused(
    tmp_path: Path, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments, message in (
        ([str(tmp_path / "none.jsonl"), "--reviewer", "Ada"], "there is no file"),
        ([str(file), "--reviewer", " "], "--reviewer is ' '; give a name"),
        (["gs://b/q.jsonl", "--reviewer", "Ada"], "must be on a local disk"),
    ):
        assert main(["evaluate", "review", *arguments]) == 2
        assert message in capsys.readouterr().err
    file.write_text('{"question_id": 81, "turns": ["Why?"]}\n')
    assert main(["evaluate", "review", str(file), "--reviewer", "Ada"]) == 2
    assert "not a built question" in capsys.readouterr().err
