"""Kills commands that keep a journal, at moments when they have just sent more."""

import os
import random
import signal
import sqlite3
import subprocess
import time
from pathlib import Path


def num_requests(journal: Path) -> int:
    if not journal.exists():
        return 0
    try:
        db = sqlite3.connect(f"file:{journal}?mode=ro", uri=True)
        ((count,),) = db.execute("SELECT count(*) FROM requests")
        db.close()
    except sqlite3.Error:
        return 0
    return count


def run_killed(command: list[str], *, times: int, journal: Path, dice: random.Random) -> int:
    """Runs a command, kills it after it sent more, and lets it finish; returns the kills."""
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    kills = 0
    for _ in range(times):
        before, process = num_requests(journal), subprocess.Popen(command, **quiet)
        while process.poll() is None and num_requests(journal) == before:
            time.sleep(0.01)
        time.sleep(dice.uniform(0, 0.15))
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
            kills += 1
        process.wait(timeout=120)
    assert subprocess.run(command, **quiet).returncode == 0
    return kills
