"""Small benchmarks, and configs for servers that follow a script."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

WriteBenchmark = Callable[..., Path]
WriteConfig = Callable[..., Path]


@pytest.fixture
def write_benchmark(tmp_path: Path) -> WriteBenchmark:
    """Writes FastChat's questions: each is a list of turns, all with references "R1", "R2", ..."""

    def write(questions: Sequence[Sequence[str]], *, references: bool = True) -> Path:
        path = tmp_path / "question.jsonl"
        rows = []
        for number, turns in enumerate(questions, 81):
            row: dict[str, Any] = {"question_id": number, "category": "math", "turns": turns}
            if references:
                row["reference"] = [f"R{turn}" for turn in range(1, len(turns) + 1)]
            rows.append(row)
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return path

    return write


@pytest.fixture
def write_config(tmp_path: Path) -> WriteConfig:
    """Writes the config of an answer or judge run with a server of this machine."""

    def write(role: str, url: str, **changes: Any) -> Path:
        endpoint = {
            "base_url": url, "model": "org/m" if role == "answerer" else "gpt-4",
            "max_tokens": 100, "concurrency": 4, "retries": {"max_attempts": 2, "first_delay_s": 0},
        }  # fmt: skip
        values = {
            "out": str(tmp_path / role),
            "benchmark": str(tmp_path / "question.jsonl"),
            role: endpoint | changes.pop("endpoint", {}),
        }
        path = tmp_path / f"{role}.yaml"
        path.write_text(yaml.safe_dump(values | changes))
        return path

    return write
