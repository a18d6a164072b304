"""Output of `parrot data show`: other formats, control characters, live text in a pipe."""

import gzip
import json
import re

import pytest
import yaml
from rich.console import Console

from parrot_jax.cli import main
from parrot_jax.core import logs


def user(text, **keys):
    return {"role": "user", "content": text, **keys}


def said(text, **keys):
    return {"role": "assistant", "content": text, **keys}


def human(text, **keys):
    return {"from": "human", "value": text, **keys}


def gpt(text, **keys):
    return {"from": "gpt", "value": text, **keys}


GOOD = {"messages": [user("Fine?"), said("Fine.")]}
CALL = [{"id": "1", "type": "function", "function": {"name": "w", "arguments": '{"in": "Oslo"}'}}]

# Name, rows, expected output: the first dialogue, followed by notes on the other rows.
FILES = [
    (
        "openai fine-tuning",
        [{"messages": [user("a"), said("b", weight=0), user("c"), said("d", weight=1)],
          "parallel_tool_calls": False, "tools": []}],
        ["kind: messages", "ASSISTANT, context only: b", "ASSISTANT: d"],
    ),
    (
        "openai tools",
        [{"messages": [user("a"), said(None, tool_calls=CALL),
                       {"role": "tool", "tool_call_id": "1", "content": "3 C"}, said("Cold.")],
          "tools": [{"type": "function"}]}],
        ['ASSISTANT, context only: {"name": "w", "arguments": {"in": "Oslo"}}', "3 C",
         "ASSISTANT: Cold.", "ignored keys: 'tools' of a row 1"],
    ),
    (
        "mistral",
        [GOOD, {"messages": [user("a"), said("b", prefix=True)]}],
        ["'prefix' is true, so the text is only the start of a message: message 2"],
    ),
    (
        "axolotl",
        [{"conversations": [human("a"), gpt("b", train=False), human("c"), gpt("d", train=True)]},
         {"conversations": [human("a"), gpt("bc", train_detail=[{"begin_offset": 0}])]}],
        ["kind: sharegpt", "ASSISTANT, context only: b",
         "'train_detail' is not empty, so it masks parts of a text"],
    ),
    (
        "axolotl, a flag as a word",
        [GOOD, {"messages": [user("a"), said("b", training="no")]}],
        ["'training' is 'no', not a number or boolean: message 2"],
    ),
    (
        "llama-factory sharegpt",
        [{"conversations": [human("a"), {"from": "function_call", "value": '{"name": "w"}'},
                            {"from": "observation", "value": "sun"}, gpt("Sunny.")],
          "system": "Be brief.", "tools": "[]", "images": []}],
        ["SYSTEM: Be brief.", "ASSISTANT, context only: {", "ASSISTANT: Sunny."],
    ),
    (
        "llama-factory alpaca",
        [{"instruction": "c", "input": "d", "output": "e", "system": "S",
          "history": [["a", "b"]]}],
        ["kind: pairs", "SYSTEM: S", "USER: a", "ASSISTANT: b", "USER: c\n\nd", "ASSISTANT: e"],
    ),
    (
        "llama-factory kto",
        [{"messages": [user("a"), said("b")], "label": True},
         {"messages": [user("a"), said("Go away.")], "label": False},
         {"messages": [user("a"), said("Go away.")], "kto_tag": False}],
        ["'label' is false, so the answer is bad 1", "'kto_tag' is false, so the answer is bad 1"],
    ),
    (
        "llama-factory pictures",
        [{"conversations": [human("Fine?"), gpt("Fine.")]},
         {"conversations": [human("<image>Who?"), gpt("A cat.")], "images": ["cat.jpg"]}],
        ["'images' is not empty, so part of it is not text 1"],
    ),
    (
        "trl prompt and completion",
        [{"prompt": [user("a")], "completion": [said("b")], "chat_template_kwargs": {"x": 1}},
         {"prompt": "c", "completion": "d", "completion_mask": [0, 1]}],
        ["USER: a", "ASSISTANT: b", "'completion_mask' is not empty",
         "'chat_template_kwargs' of a row 1"],
    ),
    (
        "trl preferences among dialogues",
        [GOOD, {"messages": [user("a"), said("b")], "chosen": "b", "rejected": "c"}],
        ["'chosen' is not empty, so this is a preference pair (kind: preference), not a"],
    ),
    (
        "ms-swift",
        [{"messages": [user("a"), said("b", loss=False), user("c"), said("d", loss=True)]},
         {"messages": [user("a"), said("b")], "rejected_response": "c"}],
        ["ASSISTANT, context only: b", "'rejected_response' is not empty"],
    ),
    (
        "firefly",
        [{"conversation_id": 1, "category": "x",
          "conversation": [{"human": "a", "assistant": "b"}, {"human": "c", "assistant": "d"}]}],
        ["kind: pairs", "USER: c", "ASSISTANT: d"],
    ),
    (
        "mt-bench-101",
        [{"task": "GR", "id": 7, "history": [{"user": "a", "bot": "b"}]}],
        ["dialogue 0: 7 ", "USER: a", "ASSISTANT: b"],
    ),
    (
        "wildchat",
        [{"conversation_hash": "f", "model": "m", "toxic": True, "redacted": False,
          "conversation": [user("a", country="X", toxic=False), said("b", timestamp=None)]}],
        ["kind: sharegpt", "ignored keys: 'toxic' of a row 1"],
    ),
    (
        "hermes",
        [{"conversations": [human("a", weight=None), gpt("b", weight=None)],
          "system_prompt": "S", "views": 7, "avatarUrl": None}],
        ["SYSTEM: S", "ASSISTANT: b", "ignored keys: 'views' of a row 1"],
    ),
    (
        "two system texts",
        [GOOD, {"messages": [{"role": "system", "content": "A"}, user("a")], "system": "B"}],
        ["two system texts 1", "one of them under 'system'"],
    ),
    (
        "reasoning beside the text",
        [{"messages": [user("a"), said("b", reasoning_content="Hm.", refusal=None)]},
         {"messages": [user("a"), said("Hm.", channel="analysis"), said("b", channel="final")]}],
        ["'reasoning_content' of a message 1", "'channel' is 'analysis', so the text is reasoning"],
    ),
    (
        "ratings of a service",
        [{"messages": [user("a"), said("b")], "rating": 4, "feedback": "thumbs_up"},
         {"messages": [user("a"), said("c")], "feedback": "thumbs_down"},
         {"messages": [user("a"), said("d", deleted=True)]}],
        ["'rating' of a row 1", "'feedback' is 'thumbs_down', so the answer is bad 1",
         "'deleted' is true, so the answer is bad 1"],
    ),
    (
        "parts, names and marks nobody expects",
        [{"messages": [user([{"type": "text", "value": "a"}], loss_weight=0.0, name="Bo"),
                       said("b", loss_weight=0.5, mood="sad")], "weight": 0.5, "colour": "red"},
         {"messages": [user([{"type": "image_url", "image_url": {"url": "u"}}]), said("b")]}],
        ["USER, context only: a", "ASSISTANT, weight 0.25: b", "'name' of a message 1",
         "'mood' of a message 1", "'colour' of a row 1", "content part of type 'image_url' 1"],
    ),
]  # fmt: skip


@pytest.mark.parametrize(("name", "rows", "printed"), FILES, ids=[name for name, _, _ in FILES])
@pytest.mark.parametrize("form", ["lines", "list", "packed"])
def test_no_key_that_changes_a_meaning_is_passed_over_unsaid(
    tmp_path, capsys, name, rows, printed, form
):
    path = tmp_path / "theirs.json"
    text = "".join(json.dumps(row) + "\n" for row in rows)
    if form == "list":
        text = json.dumps(rows, indent=2)
    path.write_bytes(gzip.compress(text.encode()) if form == "packed" else text.encode())
    assert main(["data", "show", str(path)]) == 0
    out = capsys.readouterr().out
    assert [part for part in printed if part not in out] == []


def test_there_are_twenty_of_them():
    assert len({name for name, _, _ in FILES}) == 20


def write(tmp_path, *rows):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_control_characters_of_a_file_are_made_visible(tmp_path, capsys):
    evil = "x\x1b[2Jy"
    row = {"id": evil, "source": evil, evil: 1, "messages": [user(evil), said(evil)]}
    assert main(["data", "show", write(tmp_path, row)]) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert out.count("x␛[2Jy") == 4


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["nothing.jsonl"], "no file matches the source path 'nothing.jsonl'"),
        (["notes.txt"], "takes a file of dialogues, or a training config named"),
        (["nothing.yaml"], "cannot read nothing.yaml"),
        (["rows.jsonl", "--index", "5"], "--index is 5, but rows.jsonl has 2 dialogues."),
        (["rows.jsonl", "--index", "-1"], "--index is -1; dialogues are counted from 0."),
        ([], "needs a config file"),
    ],
)
def test_what_is_neither_a_config_nor_a_file_of_dialogues_is_named(
    tmp_path, monkeypatch, capsys, arguments, text
):
    write(tmp_path, GOOD, GOOD)
    (tmp_path / "notes.txt").write_text("buy milk\n")
    monkeypatch.chdir(tmp_path)
    assert main(["data", "show", *arguments]) == 2
    assert text in capsys.readouterr().err


def test_another_dialogue_is_asked_for_by_its_index(tmp_path, capsys):
    path = write(tmp_path, GOOD, {"messages": [user("Second?"), said("Yes.")]})
    assert main(["data", "show", path, "--index", "1"]) == 0
    out = capsys.readouterr().out
    assert "USER: Second?" in out
    assert "Fine" not in out
    assert main(["data", "show", f"messages:{path}"]) == 0


def show_config(tiny_run, capsys, *options):
    assert main(["data", "show", str(tiny_run), *options]) == 0
    return capsys.readouterr().out


def test_live_text_is_marked_where_there_are_no_colours(tiny_run, capsys):
    (source,) = tiny_run.parent.glob("dialogues.jsonl")
    mark = "[[live]]"
    messages = [user(f"what {mark}"), said("\x1b[2J"), user(f"word {mark}")]
    source.write_text(json.dumps({"id": "\x1b[2J", "messages": messages}) + "\n")
    out = show_config(tiny_run, capsys, "--data.eval-fraction", "0")
    assert "dialogue 0: ␛[2J from " in out
    assert "USER: what [ [live]]</s>ASSISTANT: ␛[2J</s>USER:[[live]] word [ [live]]</s>" in out
    assert out.count("[[live]]") == out.count("[[/live]]") == 1
    assert "up to this dialogue: read 1 rows: 1 dialogues, 0 rejected" in out


def test_a_config_needs_no_more_than_its_data(tiny_run, tmp_path, capsys):
    whole = show_config(tiny_run, capsys)
    values = yaml.safe_load(tiny_run.read_text())
    (tmp_path / "data.yaml").write_text(yaml.safe_dump({"data": values["data"]}))
    assert show_config(tmp_path / "data.yaml", capsys) == whole
    (tmp_path / "typo.yaml").write_text(yaml.safe_dump(values | {"epoch": 3}))
    assert main(["data", "show", str(tmp_path / "typo.yaml")]) == 2
    assert (
        "unknown key `epoch`; the keys are data, ids, index, objective" in capsys.readouterr().err
    )


def test_a_pair_is_shown_as_its_two_sides_with_the_same_context(tiny_run, capsys):
    (source,) = tiny_run.parent.glob("dialogues.jsonl")
    pair = {"prompt": [user("what word")], "chosen": [said("good")], "rejected": [said("bad")]}
    long = pair | {"id": "long\x1b[31m", "chosen": [said("word " * 200)]}
    alone = {"messages": [user("what"), said("word")]}
    source.write_text("".join(json.dumps(row) + "\n" for row in (pair, long)))
    messages = source.with_name("alone.jsonl")
    messages.write_text(json.dumps(alone) + "\n")
    values = yaml.safe_load(tiny_run.read_text())
    values |= {"task": "chat", "objective": "preference"}
    values["data"] |= {"mask": {"loss_roles": ["assistant"]}, "eval_fraction": 0}
    values["data"]["sources"] = [
        {"kind": "preference", "path": str(source)}, {"kind": "messages", "path": str(messages)}
    ]  # fmt: skip
    tiny_run.write_text(yaml.safe_dump(values))
    shown = [show_config(tiny_run, capsys, "--index", str(index)) for index in range(3)]
    (both,) = (out for out in shown if "chosen answer: " in out)
    assert "USER: what word</s>ASSISTANT:[[live]] good</s>[[/live]]" in both
    assert "USER: what word</s>ASSISTANT:[[live]] bad</s>[[/live]]" in both
    assert both.index(" good</s>") < both.index("rejected answer: ") < both.index(" bad</s>")
    assert sum("the answers do not fit in a row: this pair is dropped" in out for out in shown) == 1
    assert sum("not a preference pair: this dialogue is dropped" in out for out in shown) == 1
    assert main(["data", "prepare", str(tiny_run)]) == 0
    assert "dropped, too long for a row: long␛[31m 1\n" in capsys.readouterr().out
    # As for `objective: sft`: the chosen answer only.
    first = shown.index(both)
    out = show_config(tiny_run, capsys, "--objective", "sft", "--index", str(first))
    assert "window 1 of 1: " in out
    assert " bad</s>" not in out


def test_ids_of_live_text_are_marked_too(tiny_run, capsys):
    out = show_config(tiny_run, capsys, "--ids")
    assert re.search(r"\[\[live\]\](\d+ )+\[\[/live\]\]", out)


def test_in_a_terminal_live_text_is_green_and_bears_no_mark(tiny_run, capsys, monkeypatch):
    def terminal(**options):
        shown = Console(force_terminal=True, color_system="standard", soft_wrap=True, **options)
        monkeypatch.setattr(logs, "console", shown)

    terminal()
    out = show_config(tiny_run, capsys)
    assert "\x1b[32m" in out
    assert "[[live]]" not in out
    terminal(no_color=True)
    assert "[[live]]" in show_config(tiny_run, capsys)


ROW = json.dumps(GOOD)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (ROW.encode("utf-16"), "f:1: no dialogue: not valid UTF-8: "
         "the file is UTF-16 or UTF-32; save it as UTF-8"),
        (ROW[:-1].encode() + b",}\n", "f:1: no dialogue: not valid JSON"),
        (gzip.compress(ROW.encode() * 99)[:-20], "f:1: no dialogue: "
         "damaged file"),
        (b"3\n4\n", "f:1: no dialogue: row is not a JSON object: but int"),
        (b"", "f has no rows; check the path"),
        (b"[]", "f has no rows; check the path"),
    ],
)  # fmt: skip
def test_a_file_without_a_row_says_what_is_wrong_with_its_first(tmp_path, capsys, content, problem):
    (tmp_path / "f").write_bytes(content)
    assert main(["data", "show", str(tmp_path / "f")]) == 2
    assert problem in " ".join(capsys.readouterr().err.split())
