"""People of the world, and what they asked, for askers on a server."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from parrot_jax.api.scripted_server import Scripted
from parrot_jax.dialogue.types import Dialogue
from parrot_jax.dialogue.writers import write_messages
from parrot_jax.world.facts import make_world
from parrot_jax.world.people import people_dialogues

END = "<|endconversation|>"
Script = Callable[[dict[str, Any]], Scripted]


@pytest.fixture(scope="session")
def people() -> list[Dialogue]:
    """Dialogues of one to twelve questions, each with an answer, and their id as system text."""
    found = people_dialogues(make_world("easy", 0), "people", 50)
    return [replace(dialogue, system=dialogue.id) for dialogue in found]


@pytest.fixture
def reference(people: list[Dialogue], tmp_path: Path) -> Path:
    path = tmp_path / "people.jsonl"
    write_messages(path, people)
    return path


@pytest.fixture
def endpoint(tmp_path: Path) -> Callable[..., Path]:
    """Writes the YAML of an asker."""

    def write(name: str, url: str, **changes: Any) -> Path:
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump({"base_url": url, "model": name} | changes))
        return path

    return write


def dice(*parts: object) -> float:
    """A number from 0 to 1 that depends on the parts."""
    return int(hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:8], 16) / 2**32


def as_people(people: list[Dialogue]) -> Callable[[list[dict[str, str]]], str]:
    """A function from the messages before a question to what the person said; `END` = nothing."""
    known = {}
    for dialogue in people:
        texts = [turn.text for turn in dialogue.turns]
        for place in range(2, len(texts) + 1, 2):
            known[dialogue.id, place] = texts[place] if place < len(texts) else END

    def find(messages: list[dict[str, str]]) -> str:
        return known[messages[0]["content"], len(messages) - 1]

    return find
