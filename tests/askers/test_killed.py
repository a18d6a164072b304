"""A card whose command is killed again and again is the card of one that is not."""

import hashlib
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from parrot_jax.api.scripted_server import Scripted, ScriptedServer

pytestmark = pytest.mark.slow

KILLS = 5


def reply(body: dict[str, Any]) -> Scripted:
    number = int(hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest(), 16)
    text = "" if number % 9 == 0 else f"And what about {number % 1000}?"
    return Scripted(text=text, delay_s=number % 5 / 50)


def num_requests(journal: Path) -> int:
    try:
        db = sqlite3.connect(f"file:{journal}?mode=ro", uri=True)
        ((count,),) = db.execute("SELECT count(*) FROM requests")
        db.close()
    except sqlite3.Error:
        return 0
    return count


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
        dice, journal, kills = random.Random(0), tmp_path / "killed" / "a" / "journal.sqlite", 0
        for _ in range(KILLS):
            before = num_requests(journal)
            process = subprocess.Popen(command(tmp_path / "killed"), **quiet)
            while process.poll() is None and num_requests(journal) == before:
                time.sleep(0.01)
            time.sleep(dice.uniform(0, 0.3))
            if process.poll() is None:
                os.kill(process.pid, signal.SIGKILL)
                kills += 1
            process.wait(timeout=120)
        assert subprocess.run(command(tmp_path / "killed"), **quiet).returncode == 0
    assert kills >= 3
    for name in ("a/questions.jsonl",):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    whole, killed = (
        json.loads((tmp_path / name / "card.json").read_text()) for name in ("whole", "killed")
    )
    for card in (whole, killed):  # a killed request is lost and sent again
        del card["askers"][0]["requests"]
    assert whole == killed
