"""What is drawn, and in which order."""

import json
from pathlib import Path

import pytest

from parrot_jax.annotate.answers import read_answers
from parrot_jax.annotate.items import Candidate, Item, Round, draw_items, shuffled
from parrot_jax.annotate.judgments import read_judgments
from parrot_jax.annotate.questions import draw_questions
from parrot_jax.cli import main
from parrot_jax.core.errors import UserError

from .conftest import write_dialogues

ALL = {"count": None, "per_dialogue": 9, "seed": 0}


def test_a_question_after_the_first_is_shown_with_all_that_came_before(tmp_path: Path) -> None:
    file = write_dialogues(tmp_path / "d.jsonl", [["Q1", "A1", "Q2", "A2", "Q3"], ["only"]])
    drawn = draw_questions(str(file), "d", **ALL)
    two, three = sorted(drawn.items, key=lambda item: item.turn)
    assert two.dialogue.startswith("d0 ")
    assert two == Item(("d",), two.dialogue, 2, (Round("Q1", ("A1",)), Round("Q2")))
    assert three.rounds[1:] == (Round("Q2", ("A2",)), Round("Q3"))
    assert drawn.notes[1:] == ("d: 1 dialogues have no question to draw",)
    assert Item.parse('["d"]', two.dialogue, 2, two.content()) == two


def test_equal_ids_of_different_dialogues_are_told_apart(tmp_path: Path) -> None:
    file = tmp_path / "d.jsonl"
    texts = [["Q1", "A1", f"Q{n}"] for n in (2, 3)]
    file.write_text(write_dialogues(file, texts).read_text().replace('"d1"', '"d0"'))
    items = draw_questions(str(file), "d", **ALL).items
    again = draw_questions(str(file), "other", **ALL).items
    assert len({item.dialogue for item in items}) == 2
    assert [item.dialogue for item in again] == [item.dialogue for item in items]


def test_only_questions_of_the_asker_are_drawn_from_a_collection(tmp_path: Path) -> None:
    turns = [{"role": ("user", "assistant")[n % 2], "content": f"{n}"} for n in range(10)]
    file = tmp_path / "dialogues.jsonl"
    about = {"part": "session", "collected_turns": 2}
    file.write_text(json.dumps({"messages": turns, "collection": about}) + "\n")
    drawn = draw_questions(str(file), "d", **ALL)
    assert sorted(item.turn for item in drawn.items) == [4, 5]


def test_copies_of_branches_are_drawn_once(tmp_path: Path) -> None:
    file = write_dialogues(tmp_path / "d.jsonl", [["Q", "A", "R", end] for end in "xyz"])
    drawn = draw_questions(str(file), "d", **ALL)
    assert len(drawn.items) == 1
    assert drawn.notes[1:] == ("d: 2 questions are copies with the same dialogue before them",)


def test_a_larger_draw_contains_the_smaller_and_dialogues_stay_together() -> None:
    candidates = [
        Candidate(f"g{n}", Item(("s",), f"g{n}", turn, (Round(f"{n}"),)))
        for n in range(50)
        for turn in (1, 2)
    ]
    ten = draw_items(candidates, 10, seed=1)
    assert len({item.dialogue for item in ten}) == 5
    assert draw_items(candidates, 20, seed=1)[:10] == ten
    assert draw_items(reversed(candidates), 1, seed=1)[0].dialogue == ten[0].dialogue
    assert draw_items(candidates, 10, seed=2) != ten


def test_the_order_mixes_the_sources_and_does_not_depend_on_the_order_of_the_files() -> None:
    items = [Item((name,), f"{n}", 2, (Round(f"{n}"),)) for name in "ab" for n in range(100)]
    order = shuffled(items, seed=0)
    assert order == shuffled(reversed(items), seed=0) != shuffled(items, seed=1)
    assert 35 < sum(item.sources == ("a",) for item in order[:100]) < 65


def test_too_few_questions_name_the_number(tmp_path: Path) -> None:
    file = write_dialogues(tmp_path / "d.jsonl", [["Q", "A", "R"]])
    with pytest.raises(
        UserError, match="has 1 questions after the first one to draw, and --questi"
    ):
        draw_questions(str(file), "d", count=2, per_dialogue=1, seed=0)


@pytest.fixture
def answers(tmp_path: Path) -> list[str]:
    """Three questions of two turns; n lacks an answer of the last."""
    benchmark = tmp_path / "question.jsonl"
    rows = [{"question_id": n, "turns": [f"Q{n}", f"R{n}"], "system": f"S{n}"} for n in (1, 2, 3)]
    benchmark.write_text("".join(json.dumps(row) + "\n" for row in rows))
    paths = [str(benchmark)]
    for model in "mn":
        turns = {n: [f"{model}{n}", f"{model}{n}b"] for n in (1, 2, 3)}
        if model == "n":
            turns[3][1] = ""
        rows = [
            {"question_id": n, "model_id": model, "choices": [{"turns": turns[n]}]} for n in turns
        ]
        paths.append(str(tmp_path / f"{model}.jsonl"))
        Path(paths[-1]).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return paths


def test_grades_are_of_the_same_turns_for_all_models(answers: list[str]) -> None:
    found = read_answers(answers[1:], answers[0])
    m, n = found.draw(sides=1, count=None, per_dialogue=1, seed=0)
    places = [{(item.dialogue, item.turn) for item in one.items} for one in (m, n)]
    assert len(places[0]) == len(places[1]) == 3
    assert len(places[0] & places[1]) >= 2  # n lacks an answer to question 3
    item = next(item for item in m.items if item.turn == 2)
    q = item.dialogue
    assert item.rounds == (Round(f"Q{q}", (f"m{q}",)), Round(f"R{q}", (f"m{q}b",)))


def test_two_answers_are_swapped_by_the_seed(answers: list[str]) -> None:
    found = read_answers(answers[1:], answers[0])
    (drawn,) = found.draw(sides=2, count=None, per_dialogue=2, seed=0)
    assert drawn.label == "m against n"
    assert len(drawn.items) == 5
    assert drawn.notes == (
        "m against n: 1 turns that lack an answer, or follow different questions; not drawn",
    )
    sides = set()
    for item in drawn.items:
        first = item.rounds[0]
        assert [answer[0] for answer in first.answers] == list(item.sources)
        sides.add(item.sources)
    assert sides == {("m", "n"), ("n", "m")}


def test_options_that_do_not_fit(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for arguments, message in (
        ([], "no file was given"),
        (["a.jsonl"], "--out is missing"),
        (["a.jsonl", "--out", "gs://b/a.sqlite"], "--out"),
        (["a.jsonl", "--task", "review", "--out", "x"], "--out is not for the task review"),
        (["a.jsonl", "--task", "review", "--seed", "1"], "and --seed are not for the task review"),
        (["a.jsonl", "b.jsonl", "--task", "review"], "review takes one file, and 2 were given"),
        (["a.jsonl", "--out", "x", "--questions", "0"], "--questions is 0"),
        (["a.jsonl", "--out", "x", "--per-dialogue", "0"], "--per-dialogue is 0"),
        (["a.jsonl", "--out", "x", "--benchmark", "q"], "--benchmark is for the tasks grade and"),
        ([str(tmp_path / "none.jsonl"), "--out", str(tmp_path / "x")], "none.jsonl"),
        ([str(tmp_path / "none.jsonl"), "--task", "review"], "there is no file"),
    ):
        assert main(["annotate", *arguments]) == 2
        assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_real_dialogues_and_answers_are_drawn(shared_data: Path) -> None:
    for name, count in (("wildchat.jsonl", 245), ("oasst_trees.jsonl", 347)):
        drawn = draw_questions(
            str(shared_data / "dialogues" / name), name, count=None, per_dialogue=1, seed=0
        )
        assert len(drawn.items) == count
        assert all(item.turn == len(item.rounds) > 1 for item in drawn.items)
    answers = [
        str(shared_data / "mt_bench" / "model_answer" / f"{model}.jsonl")
        for model in ("gpt-3.5-turbo", "vicuna-13b-v1.3")
    ]
    found = read_answers(answers, str(shared_data / "mt_bench" / "question.jsonl"))
    (drawn,) = found.draw(sides=2, count=None, per_dialogue=2, seed=0)
    assert len(drawn.items) == 160
    assert 60 < sum(item.sources[0] == "gpt-3.5-turbo" for item in drawn.items) < 100


def test_real_judgments_are_read(shared_data: Path) -> None:
    file = shared_data / "mt_bench" / "model_judgment" / "llama2_7b_family.jsonl"
    found = read_judgments([str(file)], num_models=1)
    assert {place.turn for place in found.by_judge["gpt-4"]} == {1, 2}
    assert all(1 <= grade <= 10 for grade in found.by_judge["gpt-4"].values())
    with pytest.raises(UserError, match="has no comparisons with a clear verdict: .* other kind"):
        read_judgments([str(file)], num_models=2)
