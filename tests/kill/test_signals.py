"""SIGTERM and Ctrl-C end long commands at any moment, even during imports."""

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from parrot_jax.cli import main

pytestmark = pytest.mark.slow

LONG_COMMANDS = {
    "quickstart": ["quickstart", "--out", "{folder}/q"],
    "train": ["train", "{config}", "--epochs", "1000"],
    "serve": ["serve", "{run}", "--port", "0"],
    "world serve": ["world", "serve", "{folder}/world", "--port", "0"],
}
SEED = 17
KILLS = 4
WITHIN_S = 20
"""Long, because the machine may be busy. Once, signals in the first seconds were ignored."""


# CI has time for only one kind of signal, and one kind of server.
@pytest.mark.parametrize(
    "number",
    [pytest.param(signal.SIGTERM, id="SIGTERM"),
     pytest.param(signal.SIGINT, id="SIGINT", marks=pytest.mark.nightly)],
)  # fmt: skip
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.nightly if name == "world serve" else [])
        for name in LONG_COMMANDS
    ],
)
def test_a_signal_ends_a_long_command_at_any_moment_without_a_traceback(
    name: str, number: signal.Signals, tiny_run: Path, trained_run: Path, tmp_path: Path
) -> None:
    assert main(["world", "write", "--out", str(tmp_path / "world")]) == 0
    places = {"folder": tmp_path, "config": tiny_run, "run": trained_run}
    arguments = [part.format(**places) for part in LONG_COMMANDS[name]]
    dice = random.Random(SEED)
    for _ in range(KILLS):
        process = subprocess.Popen(
            [sys.executable, "-m", "parrot_jax.cli", *arguments],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        # Anywhere from imports, data and compilation to the command's main work.
        time.sleep(0.3 + dice.random() * 12)
        assert process.poll() is None, process.communicate()
        process.send_signal(number)
        _, errors = process.communicate(timeout=WITHIN_S)
        expected = {0, 75, 128 + number, -number} if "serve" in name else {75, 130, -number}
        assert process.returncode in expected
        assert "Traceback" not in errors
        assert "Exception" not in errors
