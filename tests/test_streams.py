"""The program and its shell: closed pipes, full streams, signals at any moment."""

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

PARROT = f"{sys.executable} -m parrot_jax.cli"


def shell(command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command}"], capture_output=True, text=True
    )


@pytest.mark.parametrize("arguments", ["--help", "train --help", "serve --help", "configs"])
def test_whoever_closes_the_pipe_gets_no_traceback(arguments: str) -> None:
    # `true` reads nothing: the pipe is closed before the first line.
    closed = shell(f"{PARROT} {arguments} | true")
    assert (closed.returncode, closed.stderr) == (141, "")


def test_a_run_whose_output_nobody_reads_is_no_success(tmp_path: Path) -> None:
    messages = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]
    (tmp_path / "a.jsonl").write_text(json.dumps({"messages": messages}) + "\n")
    closed = shell(f"{PARROT} stats {tmp_path}/a.jsonl --json | true")
    assert (closed.returncode, closed.stderr.strip()) == (141, "")
    closed = shell(f"{PARROT} nonsense 2>&1 >/dev/null | true")
    assert closed.returncode == 141


def test_a_full_or_a_closed_stream_is_one_line_or_none() -> None:
    full = shell(f"{PARROT} --help >/dev/full")
    assert full.returncode == 2
    assert full.stderr.count("\n") == 1
    assert full.stderr.startswith("parrot: no room left")
    for arguments in ("--help", "serve --help"):
        closed = shell(f"{PARROT} {arguments} >&-")
        assert (closed.returncode, closed.stderr) == (0, "")


LONG_COMMANDS = {
    "quickstart": ["quickstart", "--out", "{folder}/q"],
    "train": ["train", "{config}", "--epochs", "1000"],
    "serve": ["serve", "{run}", "--port", "0"],
    "world serve": ["world", "serve", "{folder}/world", "--port", "0"],
}
SEED = 17
KILLS = 4
WITHIN_S = 20
"""Generous: the machine may be busy. Before, a signal in the first seconds changed nothing."""


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda n: n.name)
@pytest.mark.parametrize("name", LONG_COMMANDS)
def test_a_signal_ends_a_long_command_at_any_moment_without_a_traceback(
    name: str, number: signal.Signals, tiny_run: Path, trained_run: Path, tmp_path: Path
) -> None:
    from parrot_jax.cli import main

    assert main(["world", "write", "--out", str(tmp_path / "world")]) == 0
    places = {"folder": tmp_path, "config": tiny_run, "run": trained_run}
    arguments = [part.format(**places) for part in LONG_COMMANDS[name]]
    dice = random.Random(SEED)
    for _ in range(KILLS):
        process = subprocess.Popen(
            [sys.executable, "-m", "parrot_jax.cli", *arguments],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        # From the imports over data and compilation to what the command is for.
        time.sleep(0.3 + dice.random() * 12)
        assert process.poll() is None, process.communicate()
        process.send_signal(number)
        _, errors = process.communicate(timeout=WITHIN_S)
        expected = {0, 75, 128 + number, -number} if "serve" in name else {75, 130, -number}
        assert process.returncode in expected
        assert "Traceback" not in errors
        assert "Exception" not in errors
