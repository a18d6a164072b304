"""Dialogues about rivers whose later questions need them, and configs for local servers."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from parrot_jax.api.scripted_server import Scripted

WriteRivers = Callable[..., Path]
WriteConfig = Callable[..., Path]


def words(*parts: object) -> str:
    """Eight words that depend on the parts, so that different parts give unlike texts."""
    digest = hashlib.sha256(json.dumps(parts).encode()).hexdigest()
    return " ".join(f"w{digest[n : n + 6]}" for n in range(0, 48, 6))


def answer(body: dict[str, Any]) -> Scripted:
    """An answer that depends on all messages."""
    return Scripted(text=words(body["messages"]))


@pytest.fixture
def write_rivers(tmp_path: Path) -> WriteRivers:
    """Writes dialogues of three questions: the second needs its dialogue, the third does not."""

    def write(count: int, **changes: Any) -> Path:
        path = tmp_path / "dialogues.jsonl"
        with open(path, "w") as file:
            for number in range(count):
                asked = [f"Where is river {number}?", "How long is it?", "Name a lake in Peru."]
                messages = [
                    message
                    for turn, text in enumerate(asked)
                    for message in (
                        {"role": "user", "content": text},
                        {"role": "assistant", "content": words(number, turn)},
                    )
                ]
                row = {"id": f"r{number}", "model": "gpt-4o", "messages": messages} | changes
                file.write(json.dumps(row) + "\n")
        return path

    return write


@pytest.fixture
def write_config(tmp_path: Path) -> WriteConfig:
    """Writes a config for `dialogues.jsonl`; `role` is the key of the endpoint."""

    def write(role: str, url: str, **changes: Any) -> Path:
        endpoint = {
            "base_url": url, "model": "org/m", "max_tokens": 100, "concurrency": 4,
            "retries": {"max_attempts": 2, "first_delay_s": 0},
        }  # fmt: skip
        values = {
            "out": str(tmp_path / "out"),
            "sources": [{"kind": "messages", "path": str(tmp_path / "dialogues.jsonl")}],
            role: endpoint | changes.pop("endpoint", {}),
        }
        path = tmp_path / f"{role}.yaml"
        path.write_text(yaml.safe_dump(values | changes))
        return path

    return write


def read(path: Path) -> list[dict[str, Any]]:
    """The rows of a file, or of all files of a folder."""
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]
