"""The quickstart's page shows the numbers of the files; a missing file is an error."""

import json
import math
import re
import shlex
import shutil
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from random import Random
from typing import Any

import pytest

from parrot_jax.cli import _find_verb
from parrot_jax.core.arguments import parse_arguments, parse_options
from parrot_jax.core.errors import UserError
from parrot_jax.dialogue.types import Dialogue
from parrot_jax.dialogue.writers import write_messages
from parrot_jax.world import report
from parrot_jax.world.exam_measures import asked_kinds, kind_distance
from parrot_jax.world.facts import make_world
from parrot_jax.world.mistakes import ERROR_KINDS
from parrot_jax.world.people import people_dialogues
from parrot_jax.world.questions import Language
from parrot_jax.world.report import write_report
from parrot_jax.world.report_files import KindsFile, RunFiles, StepRow, read_quickstart

WORLD = make_world("easy", 0)


def write_json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def write_lines(path: Path, rows: list[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_run(folder: Path, *, num_steps: int, floor: float) -> None:
    dice = Random(folder.name)
    write_lines(
        folder / "metrics.jsonl",
        [
            {
                "step": step,
                "epoch": step / 100,
                "loss": floor + 6.4 * math.exp(-step / 60) + dice.uniform(0, 0.15),
                "live_tokens": dice.randint(150, 250),
            }
            for step in range(1, num_steps + 1)
        ],
    )
    versions = {"parrot_jax": "0.1.0", "commit": None, "python": "3.11.9", "jax": "0.10.2"}
    write_json(folder / "versions.json", versions)


def write_exam(path: Path, dialogues: list[Dialogue], *, rights: list[float]) -> None:
    """Writes answers that are right with probability rights[t] at turn t, if they need context."""
    dice = Random(path.name)
    rows = []
    for dialogue in dialogues:
        truths = [turn.text for turn in dialogue.turns if turn.role == "assistant"]
        kinds = dialogue.metadata["kinds"]
        right = [
            dice.random() < (0.97 if kind in ("full", "shift") else rate)
            for kind, rate in zip(kinds, rights, strict=True)
        ]
        answers = [
            truth if is_right else dice.choice([t for t in truths if t != truth] or ["Nothing."])
            for truth, is_right in zip(truths, right, strict=True)
        ]
        rows.append({
            "id": dialogue.id, "kinds": list(kinds), "questions": dialogue.questions(),
            "truths": truths, "answers": answers, "right": right,
        })  # fmt: skip
    write_lines(path, rows)
    write_grades(path.with_suffix(""), rows)


def write_grades(folder: Path, rows: list[dict[str, Any]]) -> None:
    """Grades of the rows; with the true answers the same, without history only full questions."""
    grades = []
    for history in ("own", "reference", "none"):
        for row in rows:
            for turn, (kind, right) in enumerate(zip(row["kinds"], row["right"], strict=True), 1):
                is_right = right and (history != "none" or kind in ("full", "shift"))
                grades.append({
                    "question_id": row["id"], "model": folder.name, "turn": turn,
                    "history": history, "judge": ["exact", "exact"], "scale": [0, 1],
                    "score": float(is_right),
                })  # fmt: skip
    write_lines(folder / "model_judgment" / "exact_single.jsonl", grades)


def as_collected(dialogue: Dialogue, number: int, *, part: str) -> Dialogue:
    """Adds the metadata of a collection; a session starts with two given questions and answers."""
    about = {
        "number": number, "part": part,
        "collected_turns": dialogue.num_rounds - (2 if part == "session" else 0),
        "stop": "max_turns" if dialogue.num_rounds == 10 else "meaningless_answer",
    }  # fmt: skip
    return replace(dialogue, metadata={"collection": about})


def write_quickstart(folder: Path, *, size: int = 30) -> None:
    """Writes the files of a quickstart, from simulated people and random numbers, without models.

    A real quickstart has about the size 300.
    """
    people = list(people_dialogues(WORLD, "people", 4 * size))
    collected = [
        *people_dialogues(WORLD, "collected", size - size // 15, num_rounds=10),
        *people_dialogues(WORLD, "stopped", size // 15, num_rounds=4),
    ]
    exam = list(people_dialogues(WORLD, "exam", 200, num_rounds=8))
    write_messages(folder / "world" / "people.jsonl", people)
    write_json(folder / "world" / "world.json", {"difficulty": "easy", "seed": 0, "facts": []})
    write_messages(
        folder / "collect" / "dialogues.jsonl",
        (
            as_collected(dialogue, number, part="question" if number < size // 2 else "session")
            for number, dialogue in enumerate(collected)
        ),
    )
    write_exam(folder / "exam" / "chat.jsonl", exam, rights=[0.97, 0.95, 0.94, 0.93] + [0.92] * 4)
    write_exam(
        folder / "exam" / "chat_first_turn.jsonl", exam, rights=[0.95, 0.3, 0.22] + [0.15] * 5
    )
    write_exam(folder / "exam" / "capo.jsonl", exam, rights=[0.98] * 8)
    write_run(folder / "ask", num_steps=3 * size, floor=0.75)
    write_run(folder / "chat", num_steps=4 * size, floor=0.05)
    write_run(folder / "chat_first_turn", num_steps=4 * size, floor=0.02)
    language = Language(WORLD)
    asker, crowd, others = (
        asked_kinds(language, ((d.questions(), 1) for d in dialogues)).by_turn
        for dialogues in (
            collected,
            *(people_dialogues(WORLD, name, size, num_rounds=10) for name in ("a", "b")),
        )
    )
    asker[3]["invalid"] += size // 8
    write_json(folder / "kinds.json", {"asker": asker, "people": crowd, "other_people": others})
    write_json(folder / "summary.json", {
        "seed": 0, "wall_s": 413.7,
        "stages": {"world": 1.1, "ask": 80.2, "collect": 75.0, "chat": 120.1,
                   "chat_first_turn": 96.3, "capo": 30.4, "exam": 40.2},
        "ask": {"user_ppl_untrained": 903.14, "user_ppl": 2.24, "valid_question_rate": 0.985,
                "kind_distance": kind_distance(asker, crowd),
                "kind_distance_floor": kind_distance(others, crowd), "n": 9 * size},
        "collection": {"dialogues": size, "mean_turns": 9.6,
                       "stops": {"max_turns": size - size // 15,
                                 "meaningless_answer": size // 15}},
        "capo": {"accuracy_by_turn": [0.98] * 8, "pairs": 15 * size,
                 "errors_by_kind_before": {**dict.fromkeys(ERROR_KINDS, 0.0), "hallucination": 0.01,
                                           "misunderstanding": 0.03},
                 "errors_by_kind": {**dict.fromkeys(ERROR_KINDS, 0.0), "misunderstanding": 0.0123}},
    })  # fmt: skip


def edit(path: Path, change: Any) -> None:
    """Applies `change` to each row of a JSON-lines file."""
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(change(row)) + "\n" for row in rows))


def words(page: Path) -> str:
    """Returns the visible text without charts, with normalised white space."""
    bare = re.sub(r"<svg.*?</svg>|<style>.*?</style>", "", page.read_text(), flags=re.DOTALL)
    return " ".join(re.sub(r"<[^>]*>", " ", bare).replace("\xa0", " ").split())


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    write_quickstart(folder)
    return folder


@pytest.fixture
def quickstart(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "quickstart"))


def test_the_page_is_one_small_file_and_the_same_each_time(quickstart: Path) -> None:
    page = write_report(quickstart)
    first = page.read_bytes()
    assert page == quickstart / "report.html"
    assert len(first) < 500_000
    assert write_report(quickstart).read_bytes() == first


def test_the_numbers_are_those_of_the_files(quickstart: Path) -> None:
    summary = json.loads((quickstart / "summary.json").read_text())
    summary["ask"] = {
        "valid_question_rate": 0.9871, "n": 12345, "kind_distance": 0.234,
        "kind_distance_floor": 0.123, "user_ppl": 3.14, "user_ppl_untrained": 1234.5,
    }  # fmt: skip
    summary["collection"] = {"mean_turns": 8.25, "stops": {"max_turns": 3, "new_reason": 1}}
    summary |= {"seed": 77, "stages": {"world": 1.4, "ask": 119.6, "report": 9}}
    write_json(quickstart / "summary.json", summary)
    said = words(write_report(quickstart))
    assert "of Parrot-Ask’s questions make sense 98.7 % 12,345 questions" in said
    assert (
        "distance from people’s distribution of questions 0.23 between two samples of people: 0.12"
        in said
    )
    assert "questions in a collected dialogue 8.2 in people’s dialogues: " in said
    assert "held-out people is 3.1, as if each token" in said
    assert "Before training it was 1,234." in said
    assert "it reached the maximum number of questions 3 75.0 % new_reason 1 25.0 %" in said
    assert "next question. 2 min 00 s All 2 min 01 s" in said
    assert "Seed 77; parrot_jax 0.1.0, python 3.11.9, jax 0.10.2." in said


def test_accuracies_have_the_intervals_of_their_counts(quickstart: Path) -> None:
    numbers = iter(range(200))

    def grade(row: dict[str, Any]) -> dict[str, Any]:
        number = next(numbers)
        return row | {"right": [True, *[number < 150] * 7]}

    edit(quickstart / "exam" / "chat.jsonl", grade)
    edit(quickstart / "exam" / "chat_first_turn.jsonl", lambda row: row | {"right": [False] * 8})
    said = words(write_report(quickstart))
    assert "1 100 % [98, 100] 0 % [0, 2] 2 75 % [69, 80] 0 % [0, 2]" in said
    assert "on all turns is right in 75 % [69, 80], the one trained on first turns only" in said
    assert "The intervals in brackets do not overlap." in said
    assert "right answers at question 8 75 % trained on first turns only: 0 %" in said


def test_intervals_that_overlap_are_said_to(quickstart: Path) -> None:
    shutil.copy(quickstart / "exam" / "chat.jsonl", quickstart / "exam" / "chat_first_turn.jsonl")
    assert "The intervals in brackets overlap." in words(write_report(quickstart))


def test_questions_that_lean_on_others_are_counted_apart(quickstart: Path) -> None:
    def right_where_nothing_leans(row: dict[str, Any]) -> dict[str, Any]:
        return row | {"right": [kind in ("full", "shift") for kind in row["kinds"]]}

    edit(quickstart / "exam" / "chat_first_turn.jsonl", right_where_nothing_leans)
    edit(quickstart / "exam" / "chat.jsonl", lambda row: row | {"right": [True] * 8})
    said = words(write_report(quickstart))
    assert "right in 100 % by the first model and in 100 % by the second; questions that" in said
    assert "context in 100 % and 0 %." in said


def test_questions_that_were_given_are_not_called_the_askers(quickstart: Path) -> None:
    said = words(write_report(quickstart))
    question = said[said.index("Collected from a first question") :]
    session = said[said.index("Collected from a short session") :]
    assert question[: question.index("Collected from a short session")].count(" given ") == 1
    assert session.count(" given ") == 2


def test_hostile_answers_are_shown_as_they_are(quickstart: Path) -> None:
    hostile = "</td><script>alert(1)</script>"
    for name in ("chat", "chat_first_turn", "capo"):
        edit(
            quickstart / "exam" / f"{name}.jsonl",
            lambda row: row | {"answers": [hostile] * 8, "questions": [hostile] * 8},
        )
    edit(quickstart / "kinds.json", lambda kinds: {s: {"1": {hostile: 1}} for s in kinds})
    html = write_report(quickstart).read_text()
    assert "<script" not in html
    assert html.count("&lt;/td&gt;&lt;script&gt;alert(1)&lt;/script&gt;") > 32


def test_versions_that_changed_between_the_runs_are_all_named(quickstart: Path) -> None:
    write_json(quickstart / "chat" / "versions.json", {"jax": "0.10.3", "commit": None})
    assert "jax 0.10.2 and 0.10.3." in words(write_report(quickstart))


FILES = [
    "summary.json", "kinds.json", "world/world.json", "world/people.jsonl",
    "collect/dialogues.jsonl", "exam/chat.jsonl", "exam/chat_first_turn.jsonl", "exam/capo.jsonl",
    *(f"{run}/{name}" for run in ("ask", "chat", "chat_first_turn")
      for name in ("metrics.jsonl", "versions.json")),
]  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_one_error_that_names_it(quickstart: Path, name: str) -> None:
    (quickstart / name).unlink()
    with pytest.raises(UserError, match=f"cannot read {re.escape(str(quickstart / name))}"):
        write_report(quickstart)
    assert not (quickstart / "report.html").exists()


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_was_cut_is_one_error_that_names_it(quickstart: Path, name: str) -> None:
    path = quickstart / name
    path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(UserError, match=re.escape(str(path))):
        write_report(quickstart)


def test_grades_that_are_missing_or_cut_are_one_error(quickstart: Path) -> None:
    path = quickstart / "exam" / "chat" / "model_judgment" / "exact_single.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:-1]) + lines[-1][:20])
    with pytest.raises(UserError, match=rf"{re.escape(str(path))}:4800: cut off"):
        write_report(quickstart)
    path.write_text("".join(lines[:1600]))
    with pytest.raises(UserError, match="lacks grades of some histories; a stage of the"):
        write_report(quickstart)
    path.unlink()
    with pytest.raises(UserError, match="has no grades"):
        write_report(quickstart)


def test_the_histories_are_compared(quickstart: Path) -> None:
    html = words(write_report(quickstart))
    assert "What the history does" in html
    assert "no history" in html


def test_errors_before_and_after_capo_are_those_of_the_files(quickstart: Path) -> None:
    edit(quickstart / "exam" / "chat.jsonl", lambda row: row | {"right": [True] * 6 + [False] * 2})
    edit(quickstart / "exam" / "capo.jsonl", lambda row: row | {"right": [True] * 7 + [False]})
    said = words(write_report(quickstart))
    assert "answered 450 of the collected questions wrongly on request" in said
    assert "it is right in 88 % [86, 89]; before, in 75 % [73, 77]." in said
    assert "hallucination 1.00 % 0.00 % misunderstanding 3.00 % 1.23 %" in said


@pytest.mark.parametrize("name", [name for name in FILES if name.endswith(".jsonl")])
def test_an_empty_file_is_one_error_that_names_it(quickstart: Path, name: str) -> None:
    (quickstart / name).write_text("")
    with pytest.raises(UserError, match=f"{re.escape(name)} is empty; a stage of the quickstart"):
        write_report(quickstart)


def test_exams_with_different_questions_are_not_compared(quickstart: Path) -> None:
    edit(quickstart / "exam" / "chat.jsonl", lambda row: row | {"questions": ["Why?"] * 8})
    with pytest.raises(UserError, match="the files in .*exam have different questions"):
        write_report(quickstart)


def test_lists_of_unequal_length_are_no_exam(quickstart: Path) -> None:
    edit(quickstart / "exam" / "chat.jsonl", lambda row: row | {"right": [True]})
    with pytest.raises(UserError, match=r"chat.jsonl:1: .*lists of a row differ in length"):
        read_quickstart(quickstart)


def test_kinds_are_compared_at_equal_turns() -> None:
    kinds = KindsFile(
        # Three quarters of the asker's questions are at turn 1.
        asker={1: {"full": 3}, 2: {"back": 1}, 9: {"shift": 5}},
        people={1: {"full": 1, "back": 1}, 2: {"back": 4}},
    )
    assert kinds.shares() == ({"full": 0.75, "back": 0.25}, {"full": 0.375, "back": 0.625})


def test_a_mean_loss_weighs_tokens_and_not_steps() -> None:
    steps = [StepRow(1, 4.0, 1), StepRow(2, 1.0, 2), StepRow(3, 1.0, 5), StepRow(4, 2.0, 5)]
    run = RunFiles(steps=steps, versions={})
    assert run.mean_losses(2) == [(2, 2.0), (4, 1.5)]
    assert run.mean_losses(9) == [(1, 4.0), (2, 1.0), (3, 1.0), (4, 2.0)]


def test_the_commands_on_the_page_are_understood() -> None:
    lines = report._COMMANDS.replace("\\\n", " ").splitlines()
    commands = [shlex.split(line)[1:] for line in lines if line.startswith("parrot ")]
    assert len(commands) == 6
    for command in commands:
        verb, rest = _find_verb(command)
        parse = parse_arguments if verb.argument == "CONFIG" else parse_options
        config = import_module(f"parrot_jax.commands.{verb.module}").Config
        assert isinstance(parse(config, rest, prog=verb.words, description=""), config)
