"""Collections and evaluations are read from their journals: origin of each turn, and growth."""

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from parrot_jax.api.endpoint_config import EndpointConfig
from parrot_jax.api.scripted_server import Scripted, ScriptedServer, converse
from parrot_jax.collect.collect_config import CollectConfig
from parrot_jax.collect.export import collected_dialogue
from parrot_jax.collect.folder import Collection
from parrot_jax.collect.moderation import moderate
from parrot_jax.collect.run import collect
from parrot_jax.core.config import config_from_dict
from parrot_jax.evaluate.answer_config import AnswerConfig
from parrot_jax.evaluate.answering import answer
from parrot_jax.evaluate.judge_config import JudgeConfig
from parrot_jax.evaluate.judging import judge
from parrot_jax.view.indexing import Part
from parrot_jax.view.query import Query
from parrot_jax.view.reading import IndexReader

from .conftest import Index, update

Open = Callable[[Path | str], Part]


def collection(folder: Path, url: str, **changes: Any) -> CollectConfig:
    path = folder / "beginnings.jsonl"
    rows = [
        {"id": f"d{n}", "messages": [{"role": "user", "content": f"What is {n}?"}]} for n in (0, 1)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    values: dict[str, Any] = {
        "out": str(folder / "out"),
        "asker": {"base_url": url, "model": "a-model"},
        "answerer": {"base_url": url, "model": "b-model", "price": {"prompt": 2, "completion": 8}},
        "beginnings": [{"kind": "messages", "path": str(path)}],
        "max_turns": 2,
        "budget": False,
        "stops": {"repeated_question": None, "language_switch": None},
        "retries": {"max_attempts": 3, "first_delay_s": 0.001},
    }  # fmt: skip
    return config_from_dict(CollectConfig, values | changes, where="test")


class FailsOnce:
    """Fails the first request about dialogue 0, and cuts the second answer of dialogue 1."""

    def __init__(self) -> None:
        self.has_failed = False

    def __call__(self, body: dict[str, Any]) -> Scripted:
        first, length = body["messages"][0]["content"], len(body["messages"])
        if first == "What is 0?" and not self.has_failed:
            self.has_failed = True
            return Scripted(status=500, text="out of order at http://10.0.0.5/")
        if first == "What is 1?" and length == 3:
            return Scripted(text="half an ans", finish_reason="length")
        return converse(body)


def test_a_collection_with_the_origin_of_each_turn(open_part: Open, tmp_path: Path) -> None:
    with ScriptedServer(FailsOnce()) as server:
        collect(collection(tmp_path, server.url, concurrency=1))
    part = update(open_part(tmp_path / "out"))
    assert part.problem == ""
    reader = IndexReader(part.index)
    first, second = reader.page(Query()).rows
    assert (first.stop, first.turns, first.flags) == ("max_turns", 2, ["failed attempts"])
    assert (second.stop, second.turns, second.flags) == ("cut_answer", 2, ["unanswered"])
    assert first.models == ["answerer: scripted", "asker: scripted"]
    shown = reader.dialogue(0)
    assert shown is not None
    given, answer = shown.turns[:2]
    assert given.facts == ("given",)
    # The server counts the words that it writes; 8 USD per million.
    assert answer.facts[0:3] == (
        "answerer: scripted", "0 tokens read, 3 written", "0.000024 USD",
    )  # fmt: skip
    assert answer.facts[-1] == "2 attempts"
    assert answer.notes[0].title == "1 failed attempt"
    assert answer.notes[0].text.startswith("attempt 1: failed\nHTTP 500: out of order")
    assert dict(shown.facts)["requests"] == "4"
    cut = reader.dialogue(1)
    assert cut is not None
    assert (cut.turns[-1].text, cut.turns[-1].is_left_out) == ("half an ans", True)
    assert cut.turns[-1].name == "left out: cut_answer"


def test_a_collection_grows_and_can_be_restarted(open_part: Open, tmp_path: Path) -> None:
    with ScriptedServer() as server:
        collect(collection(tmp_path, server.url, max_turns=1))
        part = update(open_part(tmp_path / "out"))
        reader = IndexReader(part.index)
        assert [one.turns for one in reader.page(Query()).rows] == [1, 1]
        revision = reader.totals().revision
        update(part)
        assert reader.totals().revision == revision  # nothing has changed
        collect(collection(tmp_path, server.url, max_turns=3))
        update(part)
        assert [one.turns for one in reader.page(Query()).rows] == [3, 3]
        assert reader.count(Query(q="answer")) == 2
        assert reader.totals().generation == 1
        collect(collection(tmp_path, server.url, max_turns=2, if_exists="restart"))
        update(part)
        assert [one.turns for one in reader.page(Query()).rows] == [2, 2]
        assert reader.totals().generation == 2


def moderator(body: dict[str, Any]) -> Scripted:
    """Flags the first question of dialogue 1."""
    if "input" not in body:
        return converse(body)
    flags = [
        {"flagged": "1?" in text, "categories": {"hate": "1?" in text}} for text in body["input"]
    ]
    return Scripted(body=json.dumps({"model": "moderator", "results": flags}))


def test_what_a_moderator_flags_is_shown(open_part: Open, tmp_path: Path) -> None:
    with ScriptedServer(moderator) as server:
        collect(collection(tmp_path, server.url))
        part = update(open_part(tmp_path / "out"))
        with contextlib.closing(Collection(tmp_path / "out")) as collected:
            dialogues = [(one.number, collected_dialogue(one)) for one in collected]
            moderate(collected, dialogues, EndpointConfig(base_url=server.url, model="m"))
    reader = IndexReader(update(part).index)
    (row,) = reader.page(Query(flag="moderated")).rows
    assert row.number == 1
    shown = reader.dialogue(1)
    assert shown is not None
    assert shown.turns[0].notes[0].text == "moderation: hate"


def benchmark(folder: Path) -> Path:
    path = folder / "question.jsonl"
    path.write_text(
        json.dumps({"question_id": 81, "category": "writing", "turns": ["Why?", "And then?"]})
        + "\n"
    )
    return path


def grade(body: dict[str, Any]) -> Scripted:
    """The judge: 8 for a first turn, and 3 for a second one."""
    text = body["messages"][-1]["content"]
    if body["model"] != "gpt-4":
        return converse(body)
    return Scripted(text=f"Fine. Rating: [[{3 if 'And then?' in text else 8}]]")


def test_answers_and_judgments_of_an_evaluation(open_part: Open, tmp_path: Path) -> None:
    path = str(benchmark(tmp_path))
    with ScriptedServer(grade) as server:
        endpoint = {"base_url": server.url, "model": "m"}
        values: dict[str, Any] = {
            "out": str(tmp_path / "answers"), "benchmark": path, "answerer": endpoint,
        }  # fmt: skip
        answer(config_from_dict(AnswerConfig, values, where="test"))
        values = {
            "out": str(tmp_path / "judged"), "benchmark": path,
            "answers": [str(tmp_path / "answers")], "judge": endpoint | {"model": "gpt-4"},
        }  # fmt: skip
        judge(config_from_dict(JudgeConfig, values, where="test"))
    (one,) = IndexReader(update(open_part(tmp_path / "answers")).index).page(Query()).rows
    assert (one.opening, one.turns, one.models, one.score) == ("Why?", 2, ["m"], None)
    reader = IndexReader(update(open_part(tmp_path / "judged")).index)
    (row,) = reader.page(Query()).rows
    assert row.score == 5.5
    shown = reader.dialogue(0)
    assert shown is not None
    assert [turn.score for turn in shown.turns] == [None, 8, None, 3]
    assert shown.turns[1].notes[0].text == "Fine. Rating: [[8]]"
    assert shown.turns[1].notes[0].title.startswith("gpt-4: 8 (")


def test_real_answers_and_judgments(index: Index, shared_data: Path) -> None:
    reader = index(shared_data / "mt_bench")
    models = dict(reader.choices()["model"])
    assert models["vicuna-13b-hao-0515"] == 80
    assert len(models) == 3 + 5
    answered = reader.page(Query(model="vicuna-13b-hao-0515")).rows[0]
    assert answered.opening.startswith("Compose an engaging travel blog post")
    judged = reader.page(Query(min_score="10")).rows[0]
    shown = reader.dialogue(judged.number)
    assert shown is not None
    assert [turn.score for turn in shown.turns if turn.score is not None] == [10, 10]
    assert "[Question]" in shown.turns[0].notes[0].text


def test_a_folder_that_is_none(tmp_path: Path, open_part: Open) -> None:
    from parrot_jax.core.errors import UserError

    with pytest.raises(UserError, match="is not a collection folder"):
        open_part(tmp_path)
