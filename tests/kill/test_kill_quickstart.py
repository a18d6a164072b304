"""A quickstart killed in each stage ends with the summary of an uninterrupted one."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.nightly]

SEED = 20240523
STAGES = ("world", "ask", "collect", "chat", "chat_first_turn", "capo", "exam", "report")

# The quickstart in a minute instead of ten, otherwise unchanged.
SMALL = """
import sys
from pathlib import Path
from parrot_jax.world.world_files import Sizes
from parrot_jax.world.quickstart import QuickstartScale, quickstart
sizes = Sizes(people=300, held_out=10, beginnings=40, exam=10)
scale = QuickstartScale(sizes=sizes, ask_epochs=1.5, chat_epochs=6, capo_pairs=20)
quickstart(Path(sys.argv[-1]), seed=0, scale=scale)
"""
COMMANDS = {
    "small": [sys.executable, "-c", SMALL],
    "full": [sys.executable, "-m", "parrot_jax.cli", "quickstart", "--out"],
}


def start(size: str, folder: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [*COMMANDS[size], str(folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd=folder.parent,
    )


def finish(size: str, folder: Path) -> None:
    process = start(size, folder)
    output, _ = process.communicate()
    assert process.returncode == 0, output.decode()


def wait_for(process: subprocess.Popen[bytes], line: str) -> None:
    assert process.stdout is not None
    seen = []
    for found in process.stdout:
        seen.append(found.decode())
        if seen[-1].strip() == line:
            return
    pytest.fail(f"the line {line!r} did not come:\n{''.join(seen)}")


def summary_without_times(folder: Path) -> dict[str, Any]:
    summary = json.loads((folder / "summary.json").read_text())
    del summary["wall_s"], summary["stages"]
    return summary


@pytest.mark.parametrize("size", ["small", "full"])
def test_killed_in_each_stage_it_ends_with_the_same_summary(tmp_path: Path, size: str) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    finish(size, whole)
    dice = random.Random(SEED)
    lengths = json.loads((whole / "summary.json").read_text())["stages"]
    for stage in STAGES:
        process = start(size, killed)
        wait_for(process, f"== {stage}")
        # Within the first half: stages are shorter now, since their programs are already compiled.
        time.sleep(dice.random() * lengths[stage] * 0.5)
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL, f"{stage} had ended before its kill"
    finish(size, killed)
    assert summary_without_times(killed) == summary_without_times(whole)
    exams = [f"exam/{model}.jsonl" for model in ("chat", "chat_first_turn", "capo")]
    for name in ("collect/dialogues.jsonl", *exams):
        # Dialogues contain the path of their source.
        texts = [(folder / name).read_text().replace(str(folder), "") for folder in (whole, killed)]
        assert texts[0] == texts[1]
