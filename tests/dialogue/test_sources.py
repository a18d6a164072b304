import json

import pytest

from parrot_jax.core.errors import UserError
from parrot_jax.dialogue.sources import ReadReport, SourceConfig, read_sources


def line(text, **more):
    return json.dumps({"messages": [{"role": "user", "content": text}], **more}) + "\n"


def read(*sources, seed=0):
    report = ReadReport()
    return list(read_sources(sources, seed=seed, report=report)), report


def texts(dialogues):
    return [dialogue.turns[0].text for dialogue in dialogues]


@pytest.fixture
def hundred(tmp_path):
    path = tmp_path / "hundred.jsonl"
    path.write_text("".join(line(f"question {number}") for number in range(100)))
    return str(path)


def messages(path, **more):
    return SourceConfig(kind="messages", path=str(path), **more)


def test_a_glob_reads_its_files_in_the_order_of_their_names(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    for name in ("b.jsonl", "a/c.jsonl", "a/b/d.jsonl"):
        (tmp_path / name).write_text(line(name))
    dialogues, _ = read(messages(tmp_path / "**" / "*.jsonl"))
    assert texts(dialogues) == ["a/b/d.jsonl", "a/c.jsonl", "b.jsonl"]


def test_a_file_with_brackets_in_its_name_is_found(tmp_path):
    (tmp_path / "part[1].jsonl").write_text(line("x"))
    assert texts(read(messages(tmp_path / "part[1].jsonl"))[0]) == ["x"]


def test_a_weight_below_one_keeps_a_seeded_share_that_is_stable(hundred, tmp_path):
    kept = texts(read(messages(hundred, weight=0.25))[0])
    assert 15 <= len(kept) <= 35
    assert kept == texts(read(messages(hundred, weight=0.25))[0])
    assert kept != texts(read(messages(hundred, weight=0.25), seed=1)[0])
    # The choice depends only on content: reversed lines give the same dialogues.
    with open(hundred) as file:
        backwards = "".join(reversed(file.readlines()))
    (tmp_path / "backwards.jsonl").write_text(backwards)
    again = texts(read(messages(tmp_path / "backwards.jsonl", weight=0.25))[0])
    assert again[::-1] == kept


def test_a_larger_share_holds_the_smaller_one(hundred):
    quarter = set(texts(read(messages(hundred, weight=0.25))[0]))
    half = set(texts(read(messages(hundred, weight=0.5))[0]))
    assert quarter < half


def test_whole_weights_repeat_each_dialogue(hundred):
    dialogues, report = read(messages(hundred, weight=2.0))
    assert len(dialogues) == 200
    assert texts(dialogues)[:3] == ["question 0", "question 0", "question 1"]
    assert (report.dialogues, report.sources[0].used) == (100, 200)
    assert 130 <= len(read(messages(hundred, weight=1.5))[0]) <= 170


def test_a_larger_sample_contains_the_smaller_one_whatever_the_seed_draws(hundred):
    def drawn(count, seed=0):
        dialogues, report = read(messages(hundred, sample=count), seed=seed)
        assert report.sources[0].used == count
        return {dialogue.id for dialogue in dialogues}

    assert len(drawn(20)) == 20
    assert drawn(20) < drawn(50) < drawn(100)
    assert drawn(20) != drawn(20, seed=1)


def test_more_than_there_are_cannot_be_drawn(hundred):
    with pytest.raises(UserError, match="sample is 101, but only 100 dialogues are usable"):
        read(messages(hundred, sample=101))


def test_a_limit_stops_the_source_before_the_weight(hundred):
    dialogues, report = read(messages(hundred, limit=3, weight=2.0), messages(hundred, limit=1))
    assert texts(dialogues) == ["question 0"] * 2 + ["question 1"] * 2 + ["question 2"] * 2 + [
        "question 0"
    ]
    assert [source.rows for source in report.sources] == [3, 1]


def test_a_broken_row_is_counted_with_its_place_and_the_stream_goes_on(tmp_path):
    path = tmp_path / "dirty.jsonl"
    path.write_text(
        line("a")
        + "{broken\n\n"
        + json.dumps({"messages": [{"role": "referee", "content": "x"}]})
        + "\n"
        + json.dumps({"messages": [{"role": "user", "content": "b"}] * 2})
        + "\n"
    )
    dialogues, report = read(messages(path))
    assert texts(dialogues) == ["a", "b\n\nb"]
    assert (report.rows, report.dialogues) == (4, 2)
    assert report.broken == {"not valid JSON": 1, "unknown role 'referee'": 1}
    assert report.repairs == {"two turns of one speaker merged": 1}
    assert report.examples[0].startswith(f"{path}:2: not valid JSON: Expecting property name")
    assert report.examples[1] == f"{path}:4: unknown role 'referee': message 1"
    summary = report.summary().splitlines()
    assert summary[0] == "read 4 rows: 2 dialogues, 2 rejected"
    assert "repaired: two turns of one speaker merged 1" in summary[1]
    assert report.to_json()["sources"][0]["broken"] == dict(report.broken)
    json.dumps(report.to_json())


def test_broken_lines_of_a_list_have_real_numbers(tmp_path):
    path = tmp_path / "dirty.json"
    path.write_text('[\n  {"conversations": [\n    {"from": "human", "value": "a"}]},\n  {"x":}\n]')
    dialogues, report = read(SourceConfig(kind="sharegpt", path=str(path)))
    assert texts(dialogues) == ["a"]
    assert report.examples[0].startswith(f"{path}:4: not valid JSON")


def test_what_utf8_cannot_hold_does_not_break_the_report(tmp_path):
    path = tmp_path / "half.jsonl"
    half = '{"messages": [{"role": "\\ud800", "content": "x"}]}\n'
    path.write_text(line("a") + half)
    _, report = read(messages(path))
    json.dumps(report.to_json(), ensure_ascii=False).encode("utf-8")


def test_ever_new_reasons_do_not_fill_the_memory(tmp_path):
    path = tmp_path / "roles.jsonl"
    rows = [{"messages": [{"role": f"r{n}", "content": "x"}]} for n in range(200)]
    path.write_text(line("a") + "".join(json.dumps(row) + "\n" for row in rows))
    _, report = read(messages(path))
    assert len(report.broken) == 51
    assert report.broken["other reasons"] == 150
    assert len(report.examples) == 10


def test_a_path_without_files_is_an_error_before_anything_is_read(tmp_path):
    with pytest.raises(UserError, match=r"no file matches the source path '.*\*\.json'"):
        read_sources([messages(tmp_path / "*.json")], seed=0, report=ReadReport())
    with pytest.raises(UserError, match="is a folder; name its files"):
        read_sources([messages(tmp_path)], seed=0, report=ReadReport())
    with pytest.raises(UserError, match="there are no sources"):
        read_sources([], seed=0, report=ReadReport())


def test_no_usable_dialogue_is_an_error_with_counts_and_a_place(tmp_path):
    path = tmp_path / "bad.jsonl"
    path.write_text('{"messages": []}\n{"messages": []}\n{\n')
    with pytest.raises(UserError) as caught:
        read(messages(path))
    assert str(caught.value) == (
        f"no usable dialogue in 3 rows of {path}: no user turn 2, not valid JSON 1; "
        f"the first is {path}:1: no user turn: every turn is blank or the assistant's"
    )
    assert caught.value.exit_code == 2
    path.write_text("\n")
    with pytest.raises(UserError, match="the files have no rows"):
        read(messages(path))


@pytest.mark.parametrize(
    ("kind", "row", "hint"),
    [
        ("messages", {"conversations": []}, "no key 'messages'.*looks like kind: sharegpt"),
        ("sharegpt", {"messages": []}, "no key 'conversations'.*looks like kind: messages"),
        ("baize", {"data": []}, "no key 'input'.*looks like kind: ultrachat"),
        ("oasst", {"topic": "", "input": ""}, "no key 'prompt'.*looks like kind: baize"),
        ("messages", {"chosen": "a", "rejected": "b"}, ".*looks like kind: preference"),
    ],
)
def test_a_file_of_another_kind_is_an_error_that_names_the_kind(tmp_path, kind, row, hint):
    path = tmp_path / "other.jsonl"
    path.write_text(json.dumps(row) + "\n" + line("a"))
    with pytest.raises(UserError, match=f"other.jsonl:1: not a row of kind '{kind}': {hint}"):
        read(SourceConfig(kind=kind, path=str(path)))


def test_a_row_of_another_kind_further_down_is_only_broken(tmp_path):
    path = tmp_path / "mixed.jsonl"
    path.write_text(line("a") + '{"conversations": []}\n')
    dialogues, report = read(messages(path))
    assert (texts(dialogues), report.broken) == (["a"], {"no key 'messages'": 1})


@pytest.mark.parametrize(
    ("setting", "text"),
    [
        ({"weight": 0.0}, "weight is 0.0; it must be finite and > 0"),
        ({"weight": float("nan")}, "weight is nan; it must be finite and > 0"),
        ({"weight": float("inf")}, "weight is inf"),
        ({"limit": 0}, "limit is 0; it must be >= 1"),
        ({"sample": 0}, "sample is 0; it must be >= 1"),
    ],
)
def test_a_number_out_of_range_is_an_error_with_the_value_seen(setting, text):
    with pytest.raises(UserError, match=text):
        messages("a.jsonl", **setting)


@pytest.mark.parametrize(
    ("kind", "name", "rows", "dialogues"),
    [
        ("messages", "wildchat.jsonl", 245, 245),
        ("sharegpt", "sharegpt_templated.json", 500, 500),
        ("oasst", "oasst_trees.jsonl", 100, 626),
    ],
)
def test_real_files_are_read_without_a_broken_row(shared_data, kind, name, rows, dialogues):
    found, report = read(SourceConfig(kind=kind, path=str(shared_data / "dialogues" / name)))
    assert (report.rows, len(found)) == (rows, dialogues)
    assert (report.broken, report.repairs) == ({}, {})


def test_real_user_turns_are_counted_as_the_data_says(shared_data):
    path = str(shared_data / "dialogues" / "wildchat.jsonl")
    found, _ = read(SourceConfig(kind="messages", path=path))
    assert sum(dialogue.num_rounds for dialogue in found) == 978


def test_first_questions_are_no_dialogues_and_say_so(shared_data):
    path = str(shared_data / "dialogues" / "ultrachat_first_questions.json")
    with pytest.raises(
        UserError, match=r"no usable dialogue in 385 rows.*data is not a list of texts"
    ):
        read(SourceConfig(kind="ultrachat", path=path))
