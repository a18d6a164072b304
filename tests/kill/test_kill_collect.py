"""A collection is killed 20 times: no turn is lost, doubled or out of order, none is paid twice."""

import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from parrot_jax.api.scripted_server import Scripted, ScriptedServer, converse

pytestmark = pytest.mark.slow

NUM_KILLS = 20
SEED = 20231011
NUM_DIALOGUES = 120
CONCURRENCY = 8


def write_config(folder: Path, url: str, name: str) -> Path:
    """The config of a collection of 120 dialogues to 10 turns, 8 at once."""
    beginnings = folder / "beginnings.jsonl"
    with open(beginnings, "w") as file:
        for number in range(NUM_DIALOGUES):
            messages = [{"role": "user", "content": f"What is {number}?"}]
            if number % 2:
                messages.append({"role": "assistant", "content": "A number."})
            file.write(json.dumps({"id": f"d{number}", "messages": messages}) + "\n")
    path = folder / f"{name}.yaml"
    values = {
        "out": str(folder / name),
        "asker": {"base_url": url, "model": "asker"},
        "answerer": {"base_url": url, "model": "answerer"},
        "beginnings": [{"kind": "messages", "path": str(beginnings)}],
        "concurrency": CONCURRENCY,
        "retries": {"first_delay_s": 0.01},
        "stops": {"meaningless_answers": ["0$"]},  # one answer in 16 ends its dialogue
    }
    path.write_text(yaml.safe_dump(values))
    return path


def flaky(dice: random.Random) -> Callable[[dict[str, Any]], Scripted]:
    """Some requests fail, some connections break, and replies come out of order."""

    def script(body: dict[str, Any]) -> Scripted:
        fate = dice.random()
        delay_s = dice.random() * 0.02
        if fate < 0.03:
            return Scripted(status=503, text="busy", delay_s=delay_s)
        if fate < 0.05:
            return Scripted(hangs_up=True, delay_s=delay_s)
        return Scripted(text=converse(body).text, delay_s=delay_s)

    return script


def start(config: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "parrot_jax.cli", "collect", str(config)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def finish(config: Path) -> None:
    process = start(config)
    _, error = process.communicate()
    assert process.returncode == 0, error.decode()


def kill_when(config: Path, moment: Callable[[], bool]) -> None:
    process = start(config)
    while not moment():
        assert process.poll() is None, "it ended before its kill"
        time.sleep(0.0005)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL


def rows(run: Path, query: str) -> list[Any]:
    with sqlite3.connect(run / "journal.sqlite") as db:
        return db.execute(query).fetchall()


def num_unanswered(run: Path) -> int:
    """Requests that were journaled as sent and have no reply."""
    if rows(run, "PRAGMA user_version") == [(0,)]:
        return 0  # killed before the journal was begun
    query = "SELECT count(*) FROM requests WHERE id NOT IN (SELECT request FROM replies)"
    return rows(run, query)[0][0]


def test_killed_20_times_it_ends_with_the_same_dialogues(tmp_path: Path) -> None:
    with ScriptedServer() as server:
        finish(write_config(tmp_path, server.url, "whole"))
        num_requests = len(server.bodies)

    dice = random.Random(SEED)
    run = tmp_path / "killed"
    with ScriptedServer(flaky(dice)) as server:
        config = write_config(tmp_path, server.url, "killed")
        lost = 0
        for kill in range(NUM_KILLS):
            # Spread over the collection; the first as soon as there is a journal.
            target = kill * (num_requests - 100) // NUM_KILLS
            delay_s = random.Random(SEED + kill).random() * 0.02

            def behind(target: int = target, delay_s: float = delay_s) -> bool:
                if len(server.bodies) < target or not (run / "journal.sqlite").exists():
                    return False
                time.sleep(delay_s)
                return True

            kill_when(config, behind)
            # Nothing but what was in flight has lost its reply.
            lost_before, lost = lost, num_unanswered(run)
            assert lost - lost_before <= CONCURRENCY
        finish(config)
        bodies = server.bodies

    # No turn is lost, doubled or out of order.
    whole = tmp_path / "whole"
    assert (run / "dialogues.jsonl").read_bytes() == (whole / "dialogues.jsonl").read_bytes()
    doubled = (
        "SELECT dialogue, turn FROM requests JOIN replies ON request = id "
        "WHERE outcome <> 'failed' GROUP BY dialogue, turn HAVING count(*) > 1"
    )
    assert rows(run, doubled) == []

    # Whatever the server got was journaled as sent, each attempt of it.
    got = Counter(json.dumps(body, sort_keys=True) for body in bodies)
    sent = Counter(
        json.dumps(json.loads(body), sort_keys=True)
        for (body,) in rows(run, "SELECT body FROM request_bodies")
    )
    assert got <= sent

    # Sent again was only what had failed, and what a kill had left without its reply.
    summary = json.loads((run / "summary.json").read_text())
    sums = {
        name: sum(speaker[name] for speaker in summary["speakers"].values())
        for name in ("requests", "answered", "failed", "lost")
    }
    assert summary["repeated"] == sums["lost"] == lost
    assert 0 < lost <= NUM_KILLS * CONCURRENCY
    assert sums["failed"] > 0
    assert sums["answered"] == num_requests
    assert sums["requests"] == num_requests + lost + sums["failed"]
    assert rows(run, "SELECT count(*) FROM starts")[0][0] in (NUM_KILLS, NUM_KILLS + 1)
