"""Fixtures for small collections from a scripted server."""

import asyncio
import json
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from parrot_jax.collect.collect_config import CollectConfig
from parrot_jax.core.config import config_from_dict

MakeConfig = Callable[..., CollectConfig]


def beginnings(count: int) -> list[dict[str, Any]]:
    """Alternately a first question and a short session."""
    rows = []
    for number in range(count):
        messages = [{"role": "user", "content": f"What is {number}?"}]
        if number % 2:
            messages.append({"role": "assistant", "content": f"{number} is a number."})
        rows.append({"id": f"d{number}", "source": "test", "messages": messages})
    return rows


@pytest.fixture
def make_config(tmp_path: Path) -> MakeConfig:
    """Returns a function that makes the config of a small collection."""

    def make(url: str, *, rows: int | list[dict[str, Any]] = 4, **changes: Any) -> CollectConfig:
        path = tmp_path / "beginnings.jsonl"
        if not path.exists():
            rows = beginnings(rows) if isinstance(rows, int) else rows
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        values: dict[str, Any] = {
            "out": str(tmp_path / "out"),
            "asker": {"base_url": url, "model": "asker"},
            "answerer": {"base_url": url, "model": "answerer"},
            "beginnings": [{"kind": "messages", "path": str(path)}],
            "max_turns": 3,
            # Scripted speakers repeat "Yes.", which belongs to no language.
            "stops": {"repeated_question": None, "language_switch": None},
            "retries": {"max_attempts": 3, "first_delay_s": 0.001},
        }
        for part in ("asker", "answerer", "stops"):
            values[part] |= changes.pop(part, {})
        return config_from_dict(CollectConfig, values | changes, where="test")

    return make


def _run_cancelled(coroutine: Coroutine[Any, Any, Any], cancel_when: Callable[[], bool]) -> None:
    async def both() -> None:
        task = asyncio.ensure_future(coroutine)
        while not cancel_when():
            assert not task.done(), "it ended too early"
            await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(both())


@pytest.fixture
def run_cancelled() -> Callable[..., None]:
    """Returns a function that runs a coroutine and, like Ctrl-C, cancels it at a condition."""
    return _run_cancelled
