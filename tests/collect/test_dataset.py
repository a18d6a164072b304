"""Exporting a collection as a dataset: files, filters and moderation."""

import contextlib
import json
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest
import yaml

from parrot_jax.api.endpoint_config import EndpointConfig
from parrot_jax.api.scripted_server import Scripted, ScriptedServer, converse
from parrot_jax.cli import main
from parrot_jax.collect.collect_config import CollectConfig
from parrot_jax.collect.dataset import DatasetSummary
from parrot_jax.collect.filters import RepeatsConfig
from parrot_jax.collect.publish import export_dataset
from parrot_jax.collect.run import collect
from parrot_jax.core.errors import RunError, UserError

MakeConfig = Callable[..., CollectConfig]
LONG = "Could you tell me a little more about that number, please?"


def export(config: CollectConfig, out: Path, **more: Any) -> DatasetSummary:
    return export_dataset(config.out, out, **more)


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def load(folder: Path, name: str | None = None) -> list[dict[str, Any]]:
    cache = str(folder.parent / "cache")
    return list(datasets.load_dataset(str(folder), name, split="train", cache_dir=cache))


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "parrot"


def test_the_folder_is_read_by_its_parts_and_in_every_form(
    make_config: MakeConfig, out: Path
) -> None:
    with ScriptedServer() as server:
        config = make_config(server.url, rows=5)
        collect(config)
    summary = export(config, out, license="cc-by-4.0")

    # 0, 2 and 4 start from a question, 1 and 3 from a session of one turn; all have three turns.
    parts = {n: (p.dialogues, p.turns, p.collected_turns) for n, p in summary.parts.items()}
    assert parts == {"sessions": (2, 6, 4), "questions": (3, 9, 9)}
    assert [row["id"] for row in load(out)] == ["d0", "d2", "d4", "d1", "d3"]
    sessions = load(out, "sessions")
    assert [row["id"] for row in sessions] == ["d1", "d3"]
    written = rows(out / "messages" / "sessions.jsonl")
    assert [row["messages"] for row in sessions] == [row["messages"] for row in written]
    both = written + rows(out / "messages" / "questions.jsonl")
    expected = rows(Path(config.out) / "dialogues.jsonl")
    assert sorted(both, key=lambda row: row["id"]) == expected
    (first, _) = json.loads((out / "sharegpt" / "sessions.json").read_text())
    assert first["conversations"][:2] == [
        {"from": "human", "value": "What is 1?"},
        {"from": "gpt", "value": "1 is a number."},
    ]
    card = (out / "README.md").read_text()
    header = yaml.safe_load(card.split("---")[1])
    assert (header["license"], header["size_categories"]) == ("cc-by-4.0", ["n<1K"])
    assert "| asker | `asker` | `scripted` |" in card
    assert "| sessions | 2 | 6 | 4 |" in card


def test_no_published_file_names_a_folder_of_this_machine_or_a_model_that_did_not_speak(
    make_config: MakeConfig, out: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "home" / "ann"
    folder.mkdir(parents=True)
    prompt, model = folder / "prompt.txt", str(folder / "llama-3")
    prompt.write_text("Ask on.")
    row = {
        "id": "w1", "model": "gpt-4", "timestamp": "2023", "license": "x", "hashed_ip": "abc",
        "moderation": [], "messages": [{"role": "user", "content": "Who?"}],
    }  # fmt: skip
    path = folder / "wildchat.jsonl"
    path.write_text(json.dumps(row) + "\nbroken\n")

    def script(body: dict[str, Any]) -> Scripted:
        said = {"message": {"content": converse(body).text}, "finish_reason": "stop"}
        # As in vLLM, the model's name is the folder that it was started with.
        name = model if is_question(body) else "gpt-3.5-turbo-0125"
        return Scripted(body=json.dumps({"model": name, "choices": [said]}))

    def is_question(body: dict[str, Any]) -> bool:
        return body["messages"][-1]["content"] == "Ask on."

    with ScriptedServer(script) as server:
        config = make_config(
            server.url, asker={"model": model, "prompt": str(prompt)},
            answerer={"model": "gpt-3.5-turbo"},
            beginnings=[{"kind": "messages", "path": str(path)}],
        )  # fmt: skip
        collect(config)
    export(config, out)
    stats = tmp_path / "stats"
    paths = [str(path), str(out / "messages" / "questions.jsonl")]
    assert main(["stats", *paths, "--out", str(stats)]) == 0

    (written,) = rows(out / "messages" / "questions.jsonl")
    said = {"asker": ["llama-3"], "answerer": ["gpt-3.5-turbo-0125"]}
    assert written["collection"]["models"] == said
    assert written["source"] == "wildchat.jsonl"
    assert written["beginning"] == {k: row[k] for k in row if k not in ("id", "messages")}
    assert set(written) == {"id", "source", "messages", "beginning", "collection"}
    (loaded,) = load(out)
    assert (loaded["asker"], loaded["answerer"]) == ("llama-3", "gpt-3.5-turbo-0125")
    assert loaded["writer"] is None
    published = [p for folder in (out, stats) for p in folder.rglob("*") if p.is_file()]
    published.append(Path(config.out) / "dialogues.jsonl")
    assert len(published) >= 9
    for file in published:
        assert str(folder).encode() not in file.read_bytes(), file
        assert str(tmp_path).encode() not in file.read_bytes(), file
    assert json.dumps(loaded["metadata"]).find(str(tmp_path)) < 0


def test_paths_in_the_ids_and_in_what_a_source_says_are_cut_in_every_form(
    make_config: MakeConfig, out: Path, tmp_path: Path
) -> None:
    ids = [
        "/home/alice/secret/x.jsonl:0", "/home/alice/other/x.jsonl:0", "x.jsonl:0", "~/alice/9",
        "file:///home/alice/a", "C:\\alice\\b", "org/name-7",
    ]  # fmt: skip
    said = {
        "file": "/home/alice/private/y.json", "model": "/home/alice/m", "url": "https://a.org/b/c",
        "more": {"from": ["~/alice/z", "file:///home/alice/w", "D:\\alice\\v", 5],
                 "/home/alice/k": True, "/home/alice/2/k": None},
        "note": "/one and/or\ntwo",
    }  # fmt: skip
    cut = {
        "file": "y.json", "model": "m", "url": "https://a.org/b/c",
        "more": {"from": ["z", "w", "v", 5], "k": True, "k+": None}, "note": "/one and/or\ntwo",
    }  # fmt: skip
    lines = [
        {"id": id, **said, "messages": [{"role": "user", "content": f"What is {number}?"}]}
        for number, id in enumerate(ids)
    ]
    path = tmp_path / "begin.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with ScriptedServer() as server:
        config = make_config(server.url, beginnings=[{"kind": "messages", "path": str(path)}])
        collect(config)
    export(config, out)
    stats = tmp_path / "stats"
    assert main(["stats", str(out / "messages" / "questions.jsonl"), "--out", str(stats)]) == 0

    expected = ["x.jsonl:0-0", "x.jsonl:0-1", "x.jsonl:0", "9-3", "a-4", "b-5", "org/name-7"]
    written = rows(out / "messages" / "questions.jsonl")
    assert [row["id"] for row in written] == expected
    assert all(row["beginning"] == cut for row in written)
    assert [row["id"] for row in load(out)] == expected
    assert json.loads(load(out)[0]["metadata"])["beginning"] == cut
    sharegpt = json.loads((out / "sharegpt" / "questions.json").read_text())
    assert [row["id"] for row in sharegpt] == expected
    published = [p for folder in (out, stats) for p in folder.rglob("*") if p.is_file()]
    for file in [*published, Path(config.out) / "dialogues.jsonl"]:
        assert b"alice" not in file.read_bytes(), file


def test_a_question_that_another_dialogue_has_asked_ends_the_later_one(
    make_config: MakeConfig, out: Path
) -> None:
    def script(body: dict[str, Any]) -> Scripted:
        said = converse(body)
        is_question = said.text.startswith("question")
        # The second question of d0, and in capitals the third of d1.
        if is_question and len(body["messages"]) == (2 if "What is 0?" in str(body) else 4):
            return Scripted(text=LONG if len(body["messages"]) == 2 else LONG.upper())
        return said

    with ScriptedServer(script) as server:
        config = make_config(server.url, rows=2, max_turns=4)
        collect(config)
    summary = export(config, out)
    assert (summary.dialogues, summary.cut) == (2, {"repeated_elsewhere": 1})
    assert summary.stops == {"max_turns": 1, "repeated_elsewhere": 1}
    (whole,) = rows(out / "messages" / "questions.jsonl")
    assert len(whole["messages"]) == 8
    (cut,) = rows(out / "messages" / "sessions.jsonl")
    assert [m["role"] for m in cut["messages"]] == ["user", "assistant"] * 2
    assert cut["collection"] == {
        "number": 1, "stop": "max_turns", "part": "session", "collected_turns": 1,
        "models": {"answerer": ["scripted"], "asker": ["scripted"]}, "cut": "repeated_elsewhere",
    }  # fmt: skip
    (line,) = rows(out / "left_out.jsonl")
    assert line == {"number": 1, "id": "d1", "turn": 4, "reason": "repeated_elsewhere",
                    "text": LONG.upper()}  # fmt: skip

    # It stays if repeats are allowed or the question is too short to count.
    for repeats in (RepeatsConfig(threshold=None), RepeatsConfig(fewest_words=12)):
        assert export(config, out, repeats=repeats).cut == {}


class Moderator:
    """Flags texts with one of its words; counts the texts that it gets."""

    def __init__(self, *words: str) -> None:
        self.words, self.asked = words, 0

    def __call__(self, body: dict[str, Any]) -> Scripted:
        if "input" not in body:
            return converse(body)
        self.asked += len(body["input"])
        results = []
        for text in body["input"]:
            found = any(word in text for word in self.words)
            results.append({"flagged": found, "categories": {"violence": found, "hate": False}})
        return Scripted(body=json.dumps({"model": "moderator", "results": results}))


def test_a_dialogue_ends_before_what_the_moderator_flags_and_is_asked_about_once(
    make_config: MakeConfig, out: Path
) -> None:
    moderator = Moderator("answer 5", "What is 1?")
    with ScriptedServer(moderator) as server:
        config = make_config(server.url, rows=3)
        collect(config)
        endpoint = EndpointConfig(base_url=server.url, model="m")
        summary = export(config, out, moderator=endpoint)
        # Three dialogues with six texts each.
        assert moderator.asked == 18
        assert export(config, out, moderator=endpoint) == summary
        assert moderator.asked == 18

        more = make_config(server.url, rows=3, max_turns=4)
        collect(more)
        export(more, out, moderator=endpoint)
        assert moderator.asked == 24, "two new texts per dialogue"

        # A journal of an earlier version lacks new settings; they get their defaults.
        journal = Path(config.out) / "moderation.sqlite"
        with contextlib.closing(sqlite3.connect(journal)) as db, db:
            db.execute("UPDATE starts SET config = json_remove(config, '$.extra_body')")
        export(more, out, moderator=endpoint)
        assert moderator.asked == 24

        export(more, out, moderator=EndpointConfig(base_url=server.url, model="another"))
        assert moderator.asked == 48

        # After a restart the numbers denote other dialogues, so no earlier verdict applies.
        collect(make_config(server.url, rows=3, if_exists="restart", seed=1))
        export(more, out, moderator=EndpointConfig(base_url=server.url, model="another"))
        assert moderator.asked == 66
    # d0 and d2 are cut before the question with the flagged answer; d1 is removed.
    assert summary.cut == {"moderation: violence": 2}
    assert summary.left_out == {"moderation: violence": 1}
    assert [len(r["messages"]) for r in rows(out / "messages" / "questions.jsonl")] == [4, 4]
    assert not (out / "messages" / "sessions.jsonl").exists()
    assert {line["turn"] for line in rows(out / "left_out.jsonl")} == {0, 5}


def test_what_the_moderator_does_not_judge_does_not_pass(
    make_config: MakeConfig, out: Path
) -> None:
    results = [{"flagged": True, "categories": {"hate": True}}]

    def script(body: dict[str, Any]) -> Scripted:
        is_asked = "input" in body
        return Scripted(body=json.dumps({"results": results})) if is_asked else converse(body)

    with ScriptedServer(script) as server:
        config = make_config(server.url, rows=2)
        collect(config)
        endpoint = EndpointConfig(base_url=server.url, model="m")
        # One result for six texts cannot be assigned, so the request failed and is retried.
        with pytest.raises(RunError, match="it has 1 results for 6 texts.; check the endpoint"):
            export(config, out, moderator=endpoint)
        results *= 6
        with pytest.raises(
            UserError, match="the filters removed all 2 finished dialogues"
        ) as error:
            export(config, out, moderator=endpoint)
    assert not out.exists()
    # The reasons are kept, and the error names their file.
    report = out.with_name("parrot-left-out")
    assert f"{report / 'left_out.jsonl'} lists each removed dialogue" in str(error.value)
    reasons = [line["reason"] for line in rows(report / "left_out.jsonl")]
    assert reasons == ["moderation: hate"] * 2
    assert json.loads((report / "export.json").read_text())["dialogues"] == 0


def test_a_moderator_that_takes_no_request_stops_and_one_that_refuses_a_text_does_not(
    make_config: MakeConfig, out: Path
) -> None:
    moderator = Moderator()
    refused = ["What is"]

    def script(body: dict[str, Any]) -> Scripted:
        if "input" in body and any(word in body["input"][0] for word in refused):
            return Scripted(status=400, text="no")
        return moderator(body)

    with ScriptedServer(script) as server:
        config = make_config(server.url, rows=8)
        collect(config)
        endpoint = EndpointConfig(base_url=server.url, model="m", concurrency=1)
        with pytest.raises(
            RunError, match=r"the moderator at .* rejected requests of 3 of 8 .*HTTP 400: no"
        ):
            export(config, out, moderator=endpoint)
        assert not out.exists()
        refused[:] = ["What is 3?"]
        summary = export(config, out, moderator=endpoint)
        assert summary.left_out == {"moderation: not moderated: rejected": 1}
        assert summary.dialogues == 7
        asked = moderator.asked
        assert export(config, out, moderator=endpoint) == summary
    assert moderator.asked == asked


def test_a_moderator_that_fails_stops_the_export_and_is_asked_for_the_rest_later(
    make_config: MakeConfig, out: Path
) -> None:
    moderator = Moderator()
    is_broken, asked_of = [True], list[str]()

    def script(body: dict[str, Any]) -> Scripted:
        if "input" in body:
            asked_of.append(body["input"][0])
            if is_broken and len(asked_of) >= 3:
                return Scripted(status=401, text="who are you?")
        return moderator(body)

    with ScriptedServer(script) as server:
        config = make_config(server.url, rows=8)
        collect(config)
        endpoint = EndpointConfig(base_url=server.url, model="m", concurrency=1)
        with pytest.raises(RunError, match=r"the moderator at .* failed 3 times .*HTTP 401: who"):
            export(config, out, moderator=endpoint)
        assert not out.exists()
        asked = moderator.asked
        assert asked == 12
        assert len(asked_of) == 5, "three failures in a row stop the run"
        is_broken.clear()
        assert export(config, out, moderator=endpoint).dialogues == 8
    assert moderator.asked == 48, "the texts of the first two dialogues were not sent again"


def test_an_export_is_whole_or_not_there_and_replaces_only_an_export(
    make_config: MakeConfig, out: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    with ScriptedServer() as server:
        config = make_config(server.url, rows=2)
        collect(config)
    assert main(["collect", "export", config.out, "--out", str(out)]) == 0
    assert "2 dialogues exported; 0 are not finished" in capsys.readouterr().out
    before = {p.name: p.read_bytes() for p in out.rglob("*") if p.is_file()}
    (tmp_path / ".parrot.partial").mkdir()
    (tmp_path / ".parrot.partial" / "half").write_text("what a kill left")
    export(config, out)
    assert {p.name: p.read_bytes() for p in out.rglob("*") if p.is_file()} == before

    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.tex").write_text("all of it")
    assert main(["collect", "export", config.out, "--out", str(other)]) == 2
    assert f"{other} is not empty and not an earlier export" in capsys.readouterr().err
    assert [p.name for p in other.iterdir()] == ["thesis.tex"]


def test_no_name_breaks_out_of_the_card(make_config: MakeConfig, out: Path) -> None:
    evil = "`<script>`\n# Free |"
    with ScriptedServer() as server:
        config = make_config(server.url, rows=2, asker={"model": evil})
        collect(config)
    export(config, out, license="x\ny: z")
    card = (out / "README.md").read_text()
    assert "\n# Free" not in card
    assert r"| asker | `` `<script>` # Free \| `` |" in card
    assert yaml.safe_load(card.split("---")[1])["license"] == "x\ny: z"
