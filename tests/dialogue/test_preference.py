"""Preference pairs in the forms of TRL and LLaMA-Factory."""

import json
from pathlib import Path
from typing import Any

import pytest

from parrot_jax.core.errors import UserError
from parrot_jax.dialogue.preference import kind_of
from parrot_jax.dialogue.readers import detect_kind
from parrot_jax.dialogue.sources import ReadReport, SourceConfig, read_sources
from parrot_jax.dialogue.types import Dialogue, Turn
from parrot_jax.dialogue.writers import messages_row


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def said(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def human(text: str) -> dict[str, str]:
    return {"from": "human", "value": text}


def gpt(text: str) -> dict[str, str]:
    return {"from": "gpt", "value": text}


CONTEXT = [user("Who wrote Emma?"), said("Jane Austen."), user("When did she die?")]
PAIR = [("user", "Who wrote Emma?", 0), ("assistant", "Jane Austen.", 0),
        ("user", "When did she die?", 0), ("assistant", "In 1817.", 1)]  # fmt: skip


def read(path: Path, *rows: Any) -> tuple[list[Dialogue], ReadReport]:
    path.write_text("\n".join(map(json.dumps, rows)))
    report = ReadReport()
    source = SourceConfig(kind="preference", path=str(path))
    return list(read_sources([source], seed=0, report=report)), report


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": CONTEXT, "chosen": [said("In 1817.")], "rejected": [said("Who?")]},
        {"prompt": CONTEXT, "chosen": "In 1817.", "rejected": "Who?"},
        {"prompt": CONTEXT, "chosen": [*CONTEXT, said("In 1817.")],
         "rejected": [*CONTEXT, said("Who?")]},
        {"chosen": [*CONTEXT, said("In 1817.")], "rejected": [*CONTEXT, said("Who?")]},
        {"prompt": "Who wrote Emma?", "chosen": [*CONTEXT, said("In 1817.")],
         "rejected": [*CONTEXT, said("Who?")]},
        {"conversations": [human("Who wrote Emma?"), gpt("Jane Austen."),
                           human("When did she die?")],
         "chosen": gpt("In 1817."), "rejected": gpt("Who?")},
        {"history": [["Who wrote Emma?", "Jane Austen."]], "instruction": "When did she die?",
         "input": "", "chosen": "In 1817.", "rejected": "Who?"},
        {"messages": CONTEXT, "chosen_response": "In 1817.", "rejected_response": "Who?"},
        # UltraFeedback: the chosen dialogue is there twice.
        {"chosen": [*CONTEXT, said("In 1817.")], "rejected": [*CONTEXT, said("Who?")],
         "messages": [*CONTEXT, said("In 1817.")]},
    ],
)  # fmt: skip
def test_every_form_gives_the_same_pair(tmp_path: Path, row: dict[str, Any]) -> None:
    (pair,), report = read(tmp_path / "pairs.jsonl", {**row, "kind": "hallucination", "turn": 2})
    assert [(t.role, t.text, t.weight) for t in pair.turns] == PAIR
    assert pair.rejected == Turn("assistant", "Who?")
    assert (kind_of(pair), pair.metadata["turn"]) == ("hallucination", 2)
    assert (report.broken, report.repairs) == ({}, {})
    assert detect_kind(row) == "preference"


def test_a_prompt_may_be_a_text_and_a_system_message_stays(tmp_path: Path) -> None:
    rows = [
        {"prompt": "Hi", "chosen": "Hello!", "rejected": "Go away.", "weight": 2},
        {"system": "Be brief.", "question": "Hi", "chosen": "Hello!", "rejected": "Go away."},
        {"prompt": [{"role": "system", "content": "Be brief."}, user("Hi")],
         "chosen": said("Hello!"), "rejected": said("Go away.")},
    ]  # fmt: skip
    pairs, report = read(tmp_path / "pairs.jsonl", *rows)
    assert [pair.system for pair in pairs] == ["", "Be brief.", "Be brief."], report.broken
    assert [[t.weight for t in pair.turns] for pair in pairs] == [[0, 2], [0, 1], [0, 1]]


def test_a_kind_may_be_any_word_or_number(tmp_path: Path) -> None:
    row = {"prompt": "Hi", "chosen": "Hello!", "rejected": "Go away."}
    kinds = ({"kind": "rejected"}, {"Kind": "rejected"}, {"kind": 0}, {"kind": ["a"]}, {})
    pairs, report = read(tmp_path / "pairs.jsonl", *({**row, **kind} for kind in kinds))
    assert [kind_of(pair) for pair in pairs] == ["rejected", "rejected", "0", "", ""], report.broken
    assert pairs[3].metadata["kind"] == ["a"]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"prompt": CONTEXT, "chosen": "a", "rejected": " a "},
         "chosen and rejected are the same answer"),
        ({"chosen": [user("a"), said("b")], "rejected": [user("x"), said("c")]},
         "chosen and rejected have different contexts"),
        ({"prompt": CONTEXT, "chosen": "a", "rejected": ""}, "no answer under 'rejected'"),
        ({"prompt": CONTEXT, "chosen": [user("a")], "rejected": "b"}, "no answer under 'chosen'"),
        ({"chosen": [said("a")], "rejected": [said("b")]}, "no context"),
        ({"prompt": CONTEXT, "chosen": [], "rejected": "b"}, "'chosen' is empty"),
        ({"prompt": CONTEXT, "chosen": 7, "rejected": "b"}, "a message is not an object"),
        ({"prompt": CONTEXT, "chosen": "a", "rejected": "b", "messages": [user("x")]},
         "two contexts"),
        ({"prompt": [*CONTEXT, said("x")], "chosen": "", "rejected": "b"},
         "the context ends with an answer"),
        ({"prompt": CONTEXT, "chosen": [user("Hi"), said("a")], "rejected": "b"},
         "no answer under 'chosen'"),
        ({"prompt": CONTEXT, "chosen": "a", "rejected": "b", "chosen_response": "c",
          "rejected_response": "d"}, "two pairs of answers"),
        ({"prompt": "Hi", "chosen": "a", "rejected": "b", "output": "c"},
         "two answers, under 'chosen' and 'output'"),
        ({"prompt": CONTEXT, "chosen": [said("a")], "rejected": [{**said("b"), "weight": 0}]},
         "chosen and rejected have different weights"),
        ({"prompt": CONTEXT, "chosen": "a", "rejected": "b", "images": ["x.png"]},
         "'images' is not empty, so part of it is not text"),
    ],
)  # fmt: skip
def test_what_is_no_pair_is_rejected_with_its_reason(
    tmp_path: Path, row: dict[str, Any], reason: str
) -> None:
    good = {"prompt": "Hi", "chosen": "Hello!", "rejected": "No."}
    pairs, report = read(tmp_path / "pairs.jsonl", good, row)
    assert len(pairs) == 1
    assert list(report.broken) == [reason]
    assert f"{tmp_path}/pairs.jsonl:2: " in report.examples[0]


def test_real_pairs_are_read(shared_data: Path) -> None:
    path = shared_data / "dialogues" / "preference_pairs.json"
    report = ReadReport()
    source = SourceConfig(kind="preference", path=str(path))
    pairs = list(read_sources([source], seed=0, report=report))
    assert (len(pairs), report.broken.total()) == (300, 0)
    assert sum(len(pair.turns) > 2 for pair in pairs) == 106
    assert sum(bool(pair.system) for pair in pairs) == 80
    for row, pair in zip(json.loads(path.read_text()), pairs, strict=True):
        assert pair.turns[-1].text == row["chosen"]["value"]
        assert pair.rejected is not None
        assert pair.rejected.text == row["rejected"]["value"]


def test_pairs_differ_by_their_rejected_answer_and_are_not_written_as_dialogues(
    tmp_path: Path,
) -> None:
    pairs, _ = read(
        tmp_path / "pairs.jsonl",
        {"prompt": "Hi", "chosen": "Hello!", "rejected": "No."},
        {"prompt": "Hi", "chosen": "Hello!", "rejected": "Go away."},
    )
    assert pairs[0].content_hash() != pairs[1].content_hash()
    with pytest.raises(UserError, match=r"pairs.jsonl:1 is a preference pair"):
        messages_row(pairs[0])
