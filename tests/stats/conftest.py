"""Fixtures: small dialogue files, and configs of a scripted judge."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import yaml

WriteSessions = Callable[..., Path]
WriteJudge = Callable[..., Path]


@pytest.fixture
def write_sessions(tmp_path: Path) -> WriteSessions:
    """Writes a `messages` file from questions; every answer is "Yes it is."."""

    def write(sessions: Sequence[Sequence[str]], name: str = "people.jsonl") -> Path:
        path = tmp_path / name
        with open(path, "w") as file:
            for questions in sessions:
                messages = []
                for question in questions:
                    messages.append({"role": "user", "content": question})
                    messages.append({"role": "assistant", "content": "Yes it is."})
                file.write(json.dumps({"messages": messages}) + "\n")
        return path

    return write


@pytest.fixture
def write_judge(tmp_path: Path) -> WriteJudge:
    """Writes the config of a judge at a local server."""

    def write(url: str, **changes: object) -> Path:
        values: dict[str, object] = {
            "base_url": url,
            "model": "judge",
            "temperature": 0.0,
            "max_tokens": 100,
            "concurrency": 1,
            "retries": {"max_attempts": 2, "first_delay_s": 0.001},
        }
        path = tmp_path / "judge.yaml"
        path.write_text(yaml.safe_dump(values | changes))
        return path

    return write
