"""A card whose command is killed again and again is the card of one that is not."""

import hashlib
import json
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from parrot_jax.api.scripted_server import Scripted, ScriptedServer

from ..killing import run_killed

pytestmark = pytest.mark.slow

KILLS = 5


def reply(body: dict[str, Any]) -> Scripted:
    number = int(hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest(), 16)
    text = "" if number % 9 == 0 else f"And what about {number % 1000}?"
    return Scripted(text=text, delay_s=number % 5 / 50)


@pytest.mark.nightly
def test_a_killed_card_ends_as_an_uninterrupted_one(
    reference: Path, endpoint: Callable[..., Path], tmp_path: Path
) -> None:
    with ScriptedServer(reply) as server:
        file = endpoint("a", server.url, concurrency=4)

        def command(out: Path) -> list[str]:
            program = [sys.executable, "-m", "parrot_jax.cli", "evaluate", "asker", str(file)]
            return [*program, "--reference", str(reference), "--out", str(out)]

        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        assert subprocess.run(command(tmp_path / "whole"), **quiet).returncode == 0
        journal = tmp_path / "killed" / "a" / "journal.sqlite"
        kills = run_killed(
            command(tmp_path / "killed"), times=KILLS, journal=journal, dice=random.Random(0)
        )
    assert kills >= 3
    whole, killed = (tmp_path / name / "a" / "questions.jsonl" for name in ("whole", "killed"))
    assert whole.read_bytes() == killed.read_bytes()
    whole, killed = (
        json.loads((tmp_path / name / "card.json").read_text()) for name in ("whole", "killed")
    )
    for card in (whole, killed):  # a killed request is lost and sent again
        del card["askers"][0]["requests"]
    assert whole == killed
