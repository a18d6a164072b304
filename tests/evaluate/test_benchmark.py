"""Benchmarks in all common forms; a wrong row is one line that names file, line and question."""

import json
from pathlib import Path
from typing import Any

import pytest

from parrot_jax.core.errors import UserError
from parrot_jax.evaluate.benchmark import KNOWN_WRONG, read_benchmark


def write(path: Path, *rows: Any) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_the_forms_of_real_benchmarks(shared_data: Path) -> None:
    fastchat = read_benchmark(str(shared_data / "mt_bench" / "question.jsonl"))
    assert [len(fastchat), {len(q.turns) for q in fastchat}] == [80, {2}]
    assert (fastchat[0].id, fastchat[0].category) == (81, "writing")
    assert len({q.category for q in fastchat}) == 8
    mt_eval = read_benchmark(str(shared_data / "mt_eval" / "mt-bench_extended.jsonl"))
    assert {len(q.turns) for q in mt_eval} == {5}
    assert all(None not in q.references for q in mt_eval)
    assert mt_eval[0].turns[:2] == fastchat[0].turns
    outputs = shared_data / "alpaca_eval" / "model_outputs" / "text_davinci_003.json"
    alpaca = read_benchmark(str(outputs))
    assert [q.id for q in alpaca] == list(range(1, 806))
    assert alpaca[0].category == "helpful_base"
    assert all(q.references == (None,) for q in alpaca)  # the baseline's answer is no reference
    wildchat = read_benchmark(str(shared_data / "dialogues" / "wildchat.jsonl"))
    assert sum(len(q.turns) for q in wildchat) == 978


def test_each_form_gives_the_same_question(tmp_path: Path) -> None:
    forms = {
        "fastchat": {"question_id": 1, "turns": ["Why?", "How?"], "reference": ["A", "B"]},
        "mt_bench_101": {
            "task": "CM", "id": 1,
            "history": [{"user": "Why?", "bot": "A"}, {"user": "How?", "bot": "B"}],
        },
        "mt_eval": {
            "question_id": 1,
            "conversation": [{"user": "Why?", "sys": "A"}, {"user": "How?", "sys": "B"}],
        },
        "messages": {
            "id": 1,
            "messages": [
                {"role": "user", "content": "Why?"}, {"role": "assistant", "content": "A"},
                {"role": "user", "content": "How?"}, {"role": "assistant", "content": "B"},
            ],
        },
    }  # fmt: skip
    for name, row in forms.items():
        (question,) = read_benchmark(write(tmp_path / f"{name}.jsonl", row))
        assert question.id == 1, name
        assert question.turns == ("Why?", "How?"), name
        assert question.references == ("A", "B"), name
    blank = {"question_id": 1, "turns": ["Why?", "How?"], "reference": [" ", "B"]}
    (question,) = read_benchmark(write(tmp_path / "blank.jsonl", blank))
    assert question.references == (None, "B")
    last = {"messages": [{"role": "system", "content": "Be brief."},
                         {"role": "user", "content": "Why?"}]}  # fmt: skip
    (question,) = read_benchmark(write(tmp_path / "last.jsonl", last))
    assert (question.system, question.references) == ("Be brief.", (None,))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"question_id": 2, "turns": []}, "no turns: question 2"),
        ({"question_id": 2, "turns": ["Why?", " "]}, "a turn without text: question 2, turn 2"),
        ({"question_id": 2, "turns": ["Why?", None]}, "no text in `turns`: turn 2 is None"),
        ({"question_id": 2, "turns": ["Why?"], "reference": ["A", "B"]},
         "references that do not fit: 2 for 1 turns"),
        ({"question_id": 2, "turns": ["Why?"], "reference": ["$ERROR$"]},
         "a reference that is no answer: turn 1 is FastChat's $ERROR$"),
        ({"question_id": 2, "turns": ["Why?"], "reference": [0]}, "no text in `reference`"),
        ({"question_id": 2, "turns": ["Why?"], "category": 7}, "no text in `category`: found 7"),
        ({"question_id": 2, "turns": ["Why?"], "system": ["Be brief."]}, "no text in `system`"),
        ({"question_id": 2, "turns": ["Why \ud83d?"]}, "half of a surrogate pair in `turns`"),
        ({"question_id": "\ud83d", "turns": ["Why?"]}, "half of a surrogate pair in `question_id`"),
        ({"question_id": None, "turns": ["Why?"]}, "no `question_id`: found None"),
        ({"messages": [{"role": "assistant", "content": "A"}, {"role": "user", "content": "B"}]},
         "a dialogue that needs repairs"),
        ({"prompt": "Why?"}, "not a question: its keys are prompt"),
        (["Why?"], "not an object"),
    ],
)  # fmt: skip
def test_an_invalid_row_is_one_line_with_file_and_line(
    row: Any, message: str, tmp_path: Path
) -> None:
    path = write(tmp_path / "q.jsonl", {"question_id": 1, "turns": ["Why?"]}, row)
    with pytest.raises(UserError) as caught:
        read_benchmark(path)
    assert str(caught.value).startswith(f"{path}:2: {message}")
    assert "\n" not in str(caught.value)


def test_an_id_may_not_appear_twice(tmp_path: Path) -> None:
    path = write(tmp_path / "q.jsonl", {"question_id": 7, "turns": ["Why?"]},
                 {"question_id": "7", "turns": ["How?"]})  # fmt: skip
    with pytest.raises(UserError, match="the id 7 appears twice"):
        read_benchmark(path)
    with pytest.raises(UserError, match=r"empty.jsonl has no question"):
        read_benchmark(write(tmp_path / "empty.jsonl"))


def answers(number: int, *turns: str) -> dict[str, Any]:
    return {"question_id": number, "model_id": "gpt-4", "choices": [{"turns": list(turns)}]}


def test_references_come_from_one_place(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    questions = write(
        tmp_path / "question.jsonl",
        {"question_id": 1, "turns": ["Why?"], "reference": ["of the file"]},
        {"question_id": 2, "turns": ["How?"], "reference": ["of the file"]},
    )
    (tmp_path / "reference_answer").mkdir()
    file = tmp_path / "reference_answer" / "good.jsonl"
    write(file, answers(1, "of the set"), answers(9, "of no question"))
    for name in ("good", str(file)):
        first, second = read_benchmark(questions, references=name)
        assert (first.references, second.references) == (("of the set",), (None,))
        assert first.reference_model == "gpt-4"
    assert "1 references belong to no question; not used" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"no references 'best': the sets beside .* are good"):
        read_benchmark(questions, references="best")
    write(file, answers(1, "A", "B"))
    with pytest.raises(UserError, match="question 1 has 2 references for 1 turns"):
        read_benchmark(questions, references="good")
    write(file, answers(1, "$ERROR$"))
    with pytest.raises(UserError, match=r"good.jsonl:1: a reference that is no answer: turn 1 is"):
        read_benchmark(questions, references="good")
    write(file, answers(9, "A"))
    with pytest.raises(UserError, match="has references for none of the questions"):
        read_benchmark(questions, references="good")


def test_the_wrong_references_of_mt_bench_are_named(
    shared_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shared_data / "mt_bench"
    file = folder / "reference_answer_gpt-4.jsonl"
    questions = read_benchmark(str(folder / "question.jsonl"), references=str(file))
    assert sum(q.references != (None, None) for q in questions) == 30
    said = capsys.readouterr().out.replace("\n", " ")
    assert "13 of its 30 references are known to be wrong" in said
    assert all(str(number) in said for number in KNOWN_WRONG)
