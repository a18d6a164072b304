"""The papers' two baselines over real HTTP, with the shipped prompts."""

import contextlib
import json
import sqlite3
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from parrot_jax.api.scripted_server import Scripted, ScriptedServer
from parrot_jax.collect.collect_config import CollectConfig
from parrot_jax.collect.run import collect
from parrot_jax.core.errors import UserError

MakeConfig = Callable[..., CollectConfig]
PROMPTS = Path(__file__).parents[2] / "configs" / "collect" / "prompts"
FIRST = [{"id": f"d{n}", "messages": [{"role": "user", "content": f"Is {n} odd?"}]} for n in (1, 2)]


def texts(config: CollectConfig) -> dict[str, list[str]]:
    lines = (Path(config.out) / "dialogues.jsonl").read_text().splitlines()
    return {row["id"]: [m["content"] for m in row["messages"]] for row in map(json.loads, lines)}


def write_dialogue(body: dict[str, Any]) -> Scripted:
    """A writer of whole dialogues: four turns about 1; about 2 one turn with a telephone number."""
    (prompt,) = body["messages"]
    first = next(line for line in prompt["content"].splitlines() if line.startswith("Is "))
    said = [first, "Ask on.", "Why?", "Because.", "Since when?", "1834.", "And before?", "No."]
    if "2" in first:
        said[5] = "Call +44 20 7946 0958."
    marks = ("[|Human|]", "[|AI|]")
    return Scripted(text="\n".join(f"{marks[n % 2]} {text}" for n, text in enumerate(said)))


def self_chat(config: CollectConfig, url: str, **changes: Any) -> CollectConfig:
    assert config.asker is not None
    prompt = str(PROMPTS / "dialogue.jinja")
    writer = replace(config.asker, base_url=url, model="writer", prompt=prompt)
    return replace(config, asker=None, answerer=None, writer=writer, **changes)


def test_one_reply_is_a_dialogue_and_ends_before_its_first_bad_turn(
    make_config: MakeConfig,
) -> None:
    with ScriptedServer(write_dialogue) as server:
        config = self_chat(make_config(server.url, rows=FIRST), server.url)
        assert collect(config).stops == {"max_turns": 1, "sensitive": 1}
        asked = len(server.bodies)
        assert asked == 2
        assert texts(config) == {
            "d1": ["Is 1 odd?", "Ask on.", "Why?", "Because.", "Since when?", "1834."],
            "d2": ["Is 2 odd?", "Ask on.", "Why?", "Because."],
        }
        # The reply already has a fourth turn; the bad turn stays out.
        more = self_chat(make_config(server.url), server.url, max_turns=4)
        assert collect(more).stops == {"max_turns": 1, "sensitive": 1}
        assert [len(said) for said in texts(more).values()] == [8, 4]
        assert len(server.bodies) == asked
    with contextlib.closing(sqlite3.connect(Path(config.out) / "journal.sqlite")) as db, db:
        verdicts = db.execute("SELECT verdict FROM replies ORDER BY request").fetchall()
    assert sorted(verdicts, key=str) == [("sensitive: turn 6, phone",), (None,)]


def test_a_prompted_model_asks_and_is_told_to_at_the_end(make_config: MakeConfig) -> None:
    instruction = (PROMPTS / "user.jinja").read_text().strip()

    def speak(body: dict[str, Any]) -> Scripted:
        messages = body["messages"]
        if messages[-1]["content"] == instruction:
            return Scripted(text=f"And {len(messages)}?")
        return Scripted(text=f"Yes, {len(messages)}.")

    with ScriptedServer(speak) as server:
        asker = {"model": "chat", "prompt": str(PROMPTS / "user.jinja")}
        config = make_config(server.url, rows=FIRST[:1], asker=asker)
        collect(config)
    # Only the asker gets the instruction; it is in no dialogue and never sent to the answerer.
    assert texts(config) == {
        "d1": ["Is 1 odd?", "Yes, 1.", "And 3?", "Yes, 3.", "And 5?", "Yes, 5."]
    }
    asked, answered = (
        [b for b in server.bodies if (b["messages"][-1]["content"] == instruction) is is_asker]
        for is_asker in (True, False)
    )
    assert [len(body["messages"]) for body in asked] == [3, 5]
    assert instruction not in json.dumps(answered)


def test_a_prompt_belongs_to_its_collection(make_config: MakeConfig, tmp_path: Path) -> None:
    prompt = tmp_path / "user.jinja"
    prompt.write_text("Ask about {{ first_question }}")
    with ScriptedServer() as server:
        config = make_config(server.url, asker={"prompt": str(prompt)})
        collect(config)
        prompt.write_text("Ask.")
        with pytest.raises(UserError, match="asker.prompt_text: sha256 .* -> "):
            collect(config)
