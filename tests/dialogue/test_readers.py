import json
from typing import get_args

import pytest

from parrot_jax.dialogue.oasst import parse_oasst_tree
from parrot_jax.dialogue.readers import PARSERS, FileKind, detect_kind, read_json_file
from parrot_jax.dialogue.turns import RowPlace


def read_one(tmp_path, kind, row):
    path = tmp_path / "row.json"
    path.write_text(json.dumps(row) + "\n")
    (result,) = read_json_file(path, kind)
    if result.problem:
        return str(result.problem)
    return [[turn.text for turn in dialogue.turns] for dialogue in result.dialogues]


def test_every_kind_has_a_parser():
    assert tuple(PARSERS) == get_args(FileKind)


def test_messages_keep_system_id_and_metadata(tmp_path):
    path = tmp_path / "m.jsonl"
    row = {
        "id": "a1",
        "model": "gpt-4",
        "messages": [
            {"role": "system", "content": "Be kind."},
            {"role": "user", "content": "hi"},
            {"role": "assistant", "content": "hello", "weight": 0},
        ],
    }
    path.write_text(json.dumps(row))
    ((dialogue,),) = (row.dialogues for row in read_json_file(path, "messages"))
    assert (dialogue.id, dialogue.system) == ("a1", "Be kind.")
    assert dict(dialogue.metadata) == {"model": "gpt-4"}
    assert [turn.weight for turn in dialogue.turns] == [1.0, 0.0]
    assert dialogue.source == str(path)


@pytest.mark.parametrize("key", ["conversations", "items", "conversation"])
def test_sharegpt_rows_are_read_under_each_of_their_keys(tmp_path, key):
    row = {key: [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "hello"}]}
    assert read_one(tmp_path, "sharegpt", row) == [["hi", "hello"]]


def test_sharegpt_html_is_left_for_the_cleaning(tmp_path):
    row = {"items": [{"from": "human", "value": "<p>a</p>"}]}
    assert read_one(tmp_path, "sharegpt", row) == [["<p>a</p>"]]


def test_the_same_row_is_read_from_a_list_and_from_lines(tmp_path):
    row = {"conversations": [{"from": "human", "value": "hi"}]}
    (tmp_path / "list.json").write_text(json.dumps([row, row], indent=2))
    (tmp_path / "lines.json").write_text(json.dumps(row) + "\n" + json.dumps(row))
    for name in ("list.json", "lines.json"):
        rows = list(read_json_file(tmp_path / name, "sharegpt"))
        assert [row.dialogues[0].turns[0].text for row in rows] == ["hi", "hi"]


def test_ultrachat_texts_alternate_from_the_user(tmp_path):
    assert read_one(tmp_path, "ultrachat", {"id": "0", "data": ["q", "a", "q2"]}) == [
        ["q", "a", "q2"]
    ]
    problem = read_one(tmp_path, "ultrachat", {"data": ["q", None]})
    assert problem == "data is not a list of texts"


def test_baize_preface_and_empty_last_speaker_belong_to_the_format(tmp_path):
    text = (
        "The conversation between human and AI assistant.\n"
        "[|Human|] hi\n[|AI|] hello\n\nthere\n[|Human|] bye\n[|AI|] see you\n[|Human|] "
    )
    path = tmp_path / "baize.json"
    path.write_text(json.dumps([{"topic": "greetings", "input": text}]))
    (row,) = read_json_file(path, "baize")
    (dialogue,) = row.dialogues
    assert [turn.text for turn in dialogue.turns] == ["hi", "hello\n\nthere", "bye", "see you"]
    assert dict(dialogue.metadata) == {"topic": "greetings"}
    assert row.place.repairs.total() == 0
    assert read_one(tmp_path, "baize", {"topic": "x", "input": "hi"}) == "input has no [|Human|]"


def message(name, role, *replies, **more):
    return {"message_id": name, "text": name, "role": role, "replies": list(replies), **more}


def tree(prompt, **more):
    return {"message_tree_id": "t", "tree_state": "ready_for_export", "prompt": prompt, **more}


def test_every_path_of_a_tree_is_a_dialogue_with_the_id_of_its_leaf():
    answer = message("a1", "assistant", message("q2", "prompter"), message("q3", "prompter"))
    row = tree(message("q1", "prompter", answer, message("a2", "assistant")))
    dialogues = parse_oasst_tree(row, RowPlace("f", 1))
    assert [[turn.text for turn in d.turns] for d in dialogues] == [
        ["q1", "a1", "q2"],
        ["q1", "a1", "q3"],
        ["q1", "a2"],
    ]
    assert [dialogue.id for dialogue in dialogues] == ["q2", "q3", "a2"]
    assert all(dialogue.metadata["tree_id"] == "t" for dialogue in dialogues)


def test_deleted_and_rejected_replies_are_pruned_and_counted():
    gone = message("a1", "assistant", message("q2", "prompter"), deleted=True)
    rejected = message("a2", "assistant", review_result=False)
    kept = message("a3", "assistant", message("q3", "prompter", deleted=True), review_result=None)
    place = RowPlace("f", 1)
    (dialogue,) = parse_oasst_tree(tree(message("q1", "prompter", gone, rejected, kept)), place)
    assert [turn.text for turn in dialogue.turns] == ["q1", "a3"]
    assert place.repairs == {"deleted or rejected reply pruned": 3}


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        (tree(message("q", "prompter", deleted=True)), "the first message is deleted"),
        (tree(message("q", "prompter"), tree_state="aborted_low_grade"), "aborted_low_grade"),
        (tree(message("q", "moderator")), "unknown role 'moderator'"),
        (tree({"text": "q", "role": "prompter", "replies": "x"}), "replies is not a list"),
        (tree("q"), "prompt is not a message"),
    ],
)
def test_unusable_trees_are_broken(tmp_path, row, problem):
    assert problem in read_one(tmp_path, "oasst", row)


def test_a_very_deep_tree_does_not_overflow():
    prompt = message("m0", "assistant")
    for depth in range(1, 5001):
        prompt = message(f"m{depth}", "prompter" if depth % 2 else "assistant", prompt)
    prompt["role"] = "prompter"
    (dialogue,) = parse_oasst_tree(tree(prompt), RowPlace("f", 1))
    assert len(dialogue.turns) == 5000  # the first two messages are both the user's and are merged


def test_deep_nesting_in_a_file_is_a_broken_row(tmp_path):
    path = tmp_path / "deep.jsonl"
    path.write_text('{"prompt": ' + '{"replies": [' * 50_000 + "\n")
    (row,) = read_json_file(path, "oasst")
    assert "nested too deeply" in str(row.problem)


@pytest.mark.parametrize(
    ("row", "kind"),
    [
        ({"messages": []}, "messages"),
        ({"id": 1, "items": []}, "sharegpt"),
        ({"data": []}, "ultrachat"),
        ({"topic": "x", "input": "y"}, "baize"),
        ({"prompt": {"replies": []}}, "oasst"),
        ({"data": "one text"}, None),
        ({"instruction": "x"}, None),
    ],
)
def test_a_row_tells_its_kind_by_its_keys(row, kind):
    assert detect_kind(row) == kind


def test_a_row_that_is_no_object_is_broken(tmp_path):
    assert read_one(tmp_path, "messages", "hi") == "row is not a JSON object: but str"
