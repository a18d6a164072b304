"""No key that changes the meaning of a row or a message is ignored silently."""

import json

import pytest

from parrot_jax.dialogue.sources import ReadReport, SourceConfig, read_sources

SAID = [{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4"}]


def read(tmp_path, *rows, kind="messages"):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ({"messages": SAID}, *rows)))
    report = ReadReport()
    return list(read_sources([SourceConfig(kind=kind, path=str(path))], seed=0, report=report))[
        1:
    ], report


def answer_with(**keys):
    return {"messages": [SAID[0], {**SAID[1], **keys}]}


@pytest.mark.parametrize(
    ("keys", "weight"),
    [
        ({"weight": 0}, 0.0),
        ({"weight": 0.5, "train": True}, 0.5),
        ({"train": False}, 0.0),
        ({"training": False}, 0.0),
        ({"trainable": False}, 0.0),
        ({"loss": False}, 0.0),
        ({"loss_weight": 0.25}, 0.25),
        ({"lossWeight": 0.25}, 0.25),
        ({"train": None, "weight": None}, 1.0),
    ],
)
def test_a_message_says_how_much_it_is_learnt(tmp_path, keys, weight):
    ((dialogue,), report) = read(tmp_path, answer_with(**keys))
    assert [turn.weight for turn in dialogue.turns] == [1.0, weight]
    assert not report.passed_over


def test_a_weight_of_the_row_holds_for_all_of_it_and_is_written_once(tmp_path):
    ((dialogue,), _) = read(tmp_path, {"weight": 0.5, **answer_with(weight=0.5)})
    assert [turn.weight for turn in dialogue.turns] == [0.5, 0.25]
    assert "weight" not in dialogue.metadata  # it would count twice when read back


@pytest.mark.parametrize(
    ("keys", "reason"),
    [
        ({"label": False}, "'label' is false, so the answer is bad"),
        ({"label": 0}, "'label' is 0, so the answer is bad"),
        ({"label": "bad"}, "'label' is 'bad', so the answer is bad"),
        ({"kto_tag": False}, "'kto_tag' is false, so the answer is bad"),
        ({"thumbsUp": False}, "'thumbsUp' is false, so the answer is bad"),
        ({"feedback": "thumbs_down"}, "'feedback' is 'thumbs_down', so the answer is bad"),
        ({"deleted": True}, "'deleted' is true, so the answer is bad"),
        ({"chosen": SAID, "rejected": SAID}, "'chosen' is not empty, so this is a preference"),
        ({"rejected_response": "5"}, "'rejected_response' is not empty, so this is a preference"),
        ({"images": ["a.jpg"]}, "'images' is not empty, so part of it is not text"),
        ({"audio": {"bytes": "x"}}, "'audio' is not empty, so part of it is not text"),
        (
            {"completion_mask": [0, 1]},
            "'completion_mask' is not empty, so it masks parts of a text",
        ),
        ({"system": "A.", "messages": [{"role": "system", "content": "B."}, *SAID]}, "two system"),
        ({"label": [False]}, "'label' is a list, so the answer is bad"),
        ({"label": {"value": False}}, "'label.value' is false, so the answer is bad"),
        ({"metadata": {"label": False}}, "'metadata.label' is false, so the answer is bad"),
        ({"feedback": {"rating": "thumbs_down"}}, "'feedback.rating' is 'thumbs_down', so the"),
        ({"label": [{"value": False}]}, "'label.value' is false, so the answer is bad"),
        ({"labels": ["good", "bad"]}, "'labels' is a list, so the answer is bad"),
        ({"annotations": [{"label": "bad"}]}, "'annotations.label' is 'bad', so the answer is"),
        ({"metadata": {"state": "deleted"}}, "'metadata.state' is 'deleted', so the answer is"),
        ({"metadata": {"train": False}}, "'metadata.train' is false, so it must be set on the row"),
        ({"vote": "-1"}, "'vote' is '-1', so the answer is bad"),
        ({"KTOTag": False}, "'KTOTag' is false, so the answer is bad"),
        ({"deleted": 2}, "'deleted' is 2, so the answer is bad"),
        ({"deleted_at": "2024-01-01"}, "'deleted_at' is not empty, so the answer is bad"),
        ({"vote": -1}, "'vote' is -1, so the answer is bad"),
        ({"state": "deleted"}, "'state' is 'deleted', so the answer is bad"),
        ({"type": "rejected"}, "'type' is 'rejected', so the answer is bad"),
        ({"category": "bad"}, "'category' is 'bad', so the answer is bad"),
        ({"tags": ["chat", "rejected"]}, "'tags' is a list, so the answer is bad"),
        ({"weight": 1e39}, "'weight' is neither 0 nor from 1e-12 to 1e+12"),
        ({"weight": 1e-50}, "'weight' is neither 0 nor from 1e-12 to 1e+12"),
        ({"weight": 10**400}, "'weight' is neither 0 nor from 1e-12 to 1e+12"),
        ({"weight": 1e9, "loss_weight": 1e9}, "'loss_weight' is neither 0 nor from"),
        ({"weight": 1e9, **answer_with(weight=1e9)}, "'weight' is neither 0 nor from"),
        ({"train": "no"}, "'train' is 'no', not a number or boolean"),
        ({"label": "false"}, "'label' is 'false', not a boolean"),
        ({"system": ["Be brief."]}, "'system' is not text"),
    ],
)
def test_a_row_that_means_something_else_is_refused_by_the_name_of_the_key(tmp_path, keys, reason):
    dialogues, report = read(tmp_path, {"messages": SAID, **keys})
    assert dialogues == []
    assert report.examples[0].split(": ", 1)[1].startswith(reason)


@pytest.mark.parametrize(
    "key", ["correct", "is_good", "accepted", "keep", "valid", "include", "thumbs_up"]
)
@pytest.mark.parametrize(("value", "kept"), [(0, 0), (-1, 0), (False, 0), (1, 1), (True, 1)])
def test_numbers_answer_a_yes_or_no(tmp_path, key, value, kept):
    dialogues, report = read(tmp_path, {"messages": SAID, key: value})
    assert len(dialogues) == kept
    assert not report.passed_over


@pytest.mark.parametrize(
    "word",
    ["unsafe", "toxic", "not_good", "not good", "unacceptable", "worse", "Bad.", "thumbs_down"],
)
def test_a_word_says_that_the_answer_is_bad(tmp_path, word):
    dialogues, report = read(tmp_path, {"messages": SAID, "label": word})
    assert dialogues == []
    assert report.examples[0].endswith(f"'label' is {word!r}, so the answer is bad")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *[("type", "chat"), ("category", "reasoning"), ("tags", ["math", "error"]), ("kind", "QA")],
        *[("state", "ready"), ("label", []), ("label", "good"), ("deleted", 0)],
        *[("annotations", [{"type": "url_citation"}]), ("feedback", {})],
    ],
)
def test_words_that_sort_are_metadata(tmp_path, key, value):
    dialogues, report = read(tmp_path, {"messages": SAID, key: value})
    assert len(dialogues) == 1
    assert not report.passed_over


@pytest.mark.parametrize(
    ("part", "reason"),
    [
        ({"weight": 0}, "'weight' is 0, so it masks parts of a text"),
        ({"train": False}, "'train' is false, so it masks parts of a text"),
        ({"weight": 0.5}, "'weight' is 0.5, so it masks parts of a text"),
        ({"mask": [1]}, "'mask' is not empty, so it masks parts of a text"),
        ({"label": "bad"}, "'label' is 'bad', so the answer is bad: part 2 of message 2"),
        ({"deleted": True}, "'deleted' is true, so the answer is bad: part 2 of message 2"),
        ({"rejected": "4"}, "'rejected' is not empty"),
        ({"content": "other"}, "two texts, under 'content' and 'text': part 2 of message 2"),
    ],
)
def test_a_part_of_a_message_that_means_something_else_refuses_the_row(tmp_path, part, reason):
    content = [{"type": "text", "text": "4"}, {"type": "text", "text": "5", **part}]
    dialogues, report = read(tmp_path, answer_with(content=content))
    assert dialogues == []
    assert report.examples[0].split(": ", 1)[1].startswith(reason)


def test_a_part_that_says_nothing_more_is_read(tmp_path):
    plain = {"type": "text", "text": "4", "weight": 1, "train": True, "annotations": [], "id": "1"}
    parts = [{**plain, "cache_control": {"type": "ephemeral"}, "index": 0, "mood": "sad"}]
    ((dialogue,), report) = read(tmp_path, answer_with(content=parts))
    assert dialogue.turns[1].text == "4"
    assert report.passed_over == {"'mood' of a part": 1}


@pytest.mark.parametrize(
    ("keys", "reason"),
    [
        ({"type": "reasoning"}, "'type' is 'reasoning', so the text is reasoning, not an answer"),
        ({"type": "thinking"}, "'type' is 'thinking', so the text is reasoning, not an answer"),
        ({"kind": "thinking"}, "'kind' is 'thinking', so the text is reasoning, not an answer"),
        ({"category": "thought"}, "'category' is 'thought', so the text is reasoning"),
        ({"text": "5"}, "two texts, under 'content' and 'text': message 2"),
        ({"label": False}, "'label' is false, so the answer is bad: message 2"),
        ({"train_detail": [{"begin_offset": 0, "train": False}]}, "'train_detail' is not empty"),
        ({"prefix": True}, "'prefix' is true, so the text is only the start of a message"),
        ({"channel": "analysis"}, "'channel' is 'analysis', so the text is reasoning"),
        ({"images": ["a.jpg"]}, "'images' is not empty, so part of it is not text"),
        ({"refusal": "I will not."}, "'refusal' is not empty"),
        ({"weight": "0"}, "'weight' is '0', not a number or boolean"),
        ({"mask": 1}, "'mask' is not empty"),
    ],
)
def test_so_is_one_with_such_a_message(tmp_path, keys, reason):
    dialogues, report = read(tmp_path, answer_with(**keys))
    assert dialogues == []
    assert report.examples[0].split(": ", 1)[1].startswith(reason)


@pytest.mark.parametrize("key", ["system", "system_prompt", "systemPrompt", "instruction"])
def test_a_column_holds_the_system_text(tmp_path, key):
    ((dialogue,), report) = read(tmp_path, {"messages": SAID, key: "Be brief."})
    assert (dialogue.system, dict(dialogue.metadata)) == ("Be brief.", {})
    same = {"messages": [{"role": "system", "content": "Be brief."}, *SAID], key: "Be brief."}
    ((dialogue,), report) = read(tmp_path, same)
    assert (dialogue.system, report.passed_over) == ("Be brief.", {})


def test_a_column_that_repeats_the_first_question_is_no_system_text(tmp_path):
    ((dialogue,), report) = read(tmp_path, {"messages": SAID, "instruction": "2+2?"})
    assert (dialogue.system, report.passed_over) == ("", {})


def test_what_says_nothing_refuses_nothing_and_what_is_harmless_is_not_mentioned(tmp_path):
    row = {
        **{"messages": SAID, "images": [], "audio": [None], "tools": "[]", "rejected": None},
        **{"label": True, "deleted": False, "model": "m", "timestamp": 7, "toxic": False},
    }
    ((dialogue,), report) = read(tmp_path, row)
    assert len(dialogue.turns) == 2
    assert not report.passed_over


@pytest.mark.parametrize("key", ["label", "images", "history", "tools", "mood"])
def test_a_value_nested_as_deep_as_json_allows_ends_no_run(tmp_path, key):
    value = True
    for _ in range(900):
        value = [value]
    dialogues, report = read(tmp_path, {"messages": SAID, key: value})
    assert len(dialogues) + report.broken.total() == 1


def test_what_is_passed_over_is_counted_by_name(tmp_path):
    rows = [
        {**answer_with(mood="sad", reasoning_content="Let me see"), "colour": "red", "score": 2},
        {**answer_with(mood="glad"), "toxic": True},
    ]
    dialogues, report = read(tmp_path, *rows)
    assert len(dialogues) == 2
    assert report.passed_over == {
        "'mood' of a message": 2,
        "'reasoning_content' of a message": 1,
        "'colour' of a row": 1,
        "'score' of a row": 1,
        "'toxic' of a row": 1,
    }
    assert "ignored keys: 'mood' of a message 2, " in report.summary()
    assert report.to_json()["passed_over"]["'mood' of a message"] == 2


def test_a_file_with_a_new_key_in_every_row_makes_no_endless_report(tmp_path):
    _, report = read(tmp_path, *({"messages": SAID, f"key{n}": n} for n in range(200)))
    assert len(report.passed_over) == 51
    assert report.passed_over["other keys"] == 150


CHOICES = [{"index": 0, "message": {"role": "assistant", "content": "5"}}]


@pytest.mark.parametrize(
    ("keys", "reason"),
    [
        (
            {"response": "5"},
            "'response' has an answer that is not in the dialogue: it was read from",
        ),
        ({"completion": [{"role": "assistant", "content": "5"}]}, "'completion' has an answer"),
        ({"choices": CHOICES}, "'choices' has an answer"),
        ({"output": "5"}, "'output' has an answer"),
        ({"output": "4", "messages": SAID[:1]}, "'output' has an answer"),
        ({"history": [["Hi", "Hello"]]}, "'history' has turns that are not in the dialogue"),
        ({"conversations": [{"from": "human", "value": "Hi"}]}, "'conversations' has turns"),
    ],
)
def test_a_part_of_the_dialogue_under_another_key_refuses_the_row(tmp_path, keys, reason):
    dialogues, report = read(tmp_path, {"messages": SAID, **keys})
    assert dialogues == []
    assert report.examples[0].split(": ", 1)[1].startswith(reason)


@pytest.mark.parametrize(
    "keys",
    [{"response": "4 "}, {"choices": []}, {"history": []}, {"history": [["2+2?", "4"]]},
     {"output": ""}, {"answer": "four"}, {"turns": 1}],
)  # fmt: skip
def test_what_repeats_the_dialogue_refuses_nothing(tmp_path, keys):
    dialogues, _ = read(tmp_path, {"messages": SAID, **keys})
    assert len(dialogues) == 1


def test_what_repeats_the_dialogue_is_no_metadata(tmp_path):
    # Otherwise a piece of the dialogue, written with this metadata, would be rejected when read.
    ((dialogue,), report) = read(tmp_path, {"messages": SAID, "response": "4", "mood": "sad"})
    assert dialogue.metadata == {"mood": "sad"}
    assert report.passed_over == {"'mood' of a row": 1}


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("<image>\nWhat is this?", 0),
        ("What is this? <video>", 0),
        ("<|image_pad|> What is this?", 0),
        ("What does `<image>` stand for?", 1),
        ("```html\n<video>\n```\nWhat is this?", 1),
        ("<video><source></video> does not play", 1),
        ("How is a <video> tag closed?", 1),
    ],
)
def test_a_mark_of_an_image_refuses_the_row(tmp_path, text, kept):
    row = {"messages": [{"role": "user", "content": text}, SAID[1]]}
    dialogues, report = read(tmp_path, row)
    assert len(dialogues) == kept
    assert kept or "so part of it is not text" in report.examples[0]


def test_other_answers_and_probabilities_say_nothing_of_the_answer(tmp_path):
    row = {"messages": SAID, "candidates": [{"text": "5", "correct": False}], "spam": 0.1}
    dialogues, report = read(tmp_path, row)
    assert len(dialogues) == 1
    assert set(report.passed_over) == {"'candidates' of a row", "'spam' of a row"}
