import json

import pytest

from parrot_jax.dialogue.readers import detect_kind, read_json_file


def read_one(tmp_path, row, kind="pairs"):
    path = tmp_path / "row.json"
    path.write_text(json.dumps(row) + "\n")
    (result,) = read_json_file(path, kind)
    if result.problem:
        return str(result.problem)
    (dialogue,) = result.dialogues
    return dialogue


def texts(dialogue):
    return [turn.text for turn in dialogue.turns]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"instruction": "a", "input": "", "output": "b"}, ["a", "b"]),
        ({"instruction": "a", "input": "x", "output": "b"}, ["a\n\nx", "b"]),
        ({"instruction": "a", "context": "x", "response": "b"}, ["a\n\nx", "b"]),
        ({"prompt": "a", "completion": "b"}, ["a", "b"]),
        ({"prompt": "a", "response": "b"}, ["a", "b"]),
        ({"question": "a", "answer": "b"}, ["a", "b"]),
        ({"query": "a", "response": "b", "history": [["x", "y"]]}, ["x", "y", "a", "b"]),
        ({"Human": "a", "Assistant": "b"}, ["a", "b"]),
        ({"input": "a", "target": "b", "kind": "NLI"}, ["a", "b"]),
        ({"history": [{"user": "a", "bot": "b"}, {"user": "c", "bot": "d"}]}, list("abcd")),
        ({"conversation": [{"human": "a", "assistant": "b"}]}, ["a", "b"]),
        ({"conversations": [{"question": "a", "answer": "b"}]}, ["a", "b"]),
        ({"history": [{"user": "a", "bot": "b"}, {"user": "c", "bot": None}]}, list("abc")),
        (
            {
                "prompt": [{"role": "user", "content": "a"}],
                "completion": [{"role": "assistant", "content": "b"}],
            },
            ["a", "b"],
        ),
    ],
)
def test_questions_with_their_answers_are_found_by_their_names(tmp_path, row, said):
    assert detect_kind(row) == "pairs"
    assert texts(read_one(tmp_path, row)) == said


def test_an_alpaca_row_has_a_system_text_and_a_history(tmp_path):
    row = {"instruction": "c", "output": "d", "system": "S", "history": [["a", "b"]], "id": 3}
    dialogue = read_one(tmp_path, row)
    assert (dialogue.system, texts(dialogue), dialogue.id) == ("S", list("abcd"), "3")
    assert dict(dialogue.metadata) == {}


def test_keys_of_a_pair_and_of_its_row_are_judged(tmp_path):
    pair = {"human": "a", "assistant": "b"}
    dialogue = read_one(tmp_path, {"conversation": [{**pair, "train": False}, pair]})
    assert [turn.weight for turn in dialogue.turns] == [0, 0, 1, 1]
    assert "'label' is false" in read_one(
        tmp_path, {"prompt": "a", "completion": "b", "label": False}
    )
    assert "'image' is not empty" in read_one(tmp_path, {**pair, "image": "x.png"})
    wrong = read_one(tmp_path, {"conversation": [{**pair, "label": False}]})
    assert wrong == "'label' is false, so the answer is bad: pair 1"


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ({"question": ["a"], "answer": "b"}, "'question' is not text"),
        ({"instruction": "a", "output": None}, "no question with an answer: the row has"),
        (
            {"history": [["a", "b"], "c"], "question": "d", "answer": "e"},
            "a pair is not a question",
        ),
        ({"history": [["a", "b"], {"x": 1}], "question": "d", "answer": "e"}, "a pair has no"),
        (
            {"prompt": "a", "chosen": "b", "rejected": "c"},
            "this looks like kind: preference",
        ),
    ],
)
def test_what_is_no_pair_is_broken(tmp_path, row, problem):
    assert problem in read_one(tmp_path, row)


@pytest.mark.parametrize("kind", ["messages", "sharegpt"])
def test_the_wrong_kind_names_the_right_one(tmp_path, kind):
    row = {"conversation": [{"human": "a", "assistant": "b"}]}
    assert "this looks like kind: pairs" in read_one(tmp_path, row, kind)


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        (
            {"instruction": "Be brief.", "question": "a", "answer": "b"},
            "two questions, under 'instruction' and 'question': row",
        ),
        (
            {"instruction": "Be brief.", "prompt": "a", "output": "b"},
            "two questions, under 'instruction' and 'prompt': row",
        ),
        (
            {"history": [{"prompt": "a", "question": "c", "answer": "b"}]},
            "two questions, under 'prompt' and 'question': pair 1",
        ),
        ({"prompt": "a", "output": "b", "response": "c"}, "two answers, under 'output' and 'resp"),
        (
            {"prompt": "a", "output": "b", "messages": [{"role": "user", "content": "c"}]},
            "'messages' has turns that are not in the dialogue: it was read from 'output'",
        ),
        (
            {"conversation": [{"human": "a", "assistant": "b"}], "history": [["c", "d"]]},
            "'history' has turns that are not in the dialogue: it was read from 'conversation'",
        ),
    ],
)
def test_no_part_of_a_dialogue_is_lost(tmp_path, row, problem):
    assert read_one(tmp_path, row).startswith(problem)


def test_what_is_said_twice_and_what_is_only_a_reference_loses_nothing(tmp_path):
    row = {"instruction": "a", "prompt": "a", "output": "b", "response": "b", "answer": "4"}
    assert texts(read_one(tmp_path, row)) == ["a", "b"]
    pair = {"instruction": "a", "input": "x", "output": "b"}
    assert texts(read_one(tmp_path, {"history": [pair]})) == ["a\n\nx", "b"]
