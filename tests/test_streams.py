"""Closed pipes and full output streams."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

PARROT = f"{sys.executable} -m parrot_jax.cli"


def shell(command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command}"], capture_output=True, text=True
    )


@pytest.mark.parametrize("arguments", ["--help", "train --help", "serve --help", "configs"])
def test_whoever_closes_the_pipe_gets_no_traceback(arguments: str) -> None:
    # `true` reads nothing, so the pipe is closed before the first line.
    closed = shell(f"{PARROT} {arguments} | true")
    assert (closed.returncode, closed.stderr) == (141, "")


@pytest.mark.slow
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


CTRL_C_IN_A_CALLBACK = """
import gc, os, signal, sys, time
from types import SimpleNamespace
from parrot_jax import cli

def run(config):
    def callback(phase, info):
        gc.callbacks.clear()
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0)  # here it is raised, and dropped
    gc.callbacks.append(callback)
    gc.collect()
    time.sleep(30)
    print("it went on")

cli.parse = lambda arguments: (SimpleNamespace(run=run), None)
sys.argv = ["parrot", "train"]
sys.exit(cli.main())
"""


def test_a_ctrl_c_that_comes_while_the_garbage_is_collected_is_not_lost() -> None:
    """jax registers a garbage-collection callback, in which Python drops exceptions."""
    done = subprocess.run(
        [sys.executable, "-c", CTRL_C_IN_A_CALLBACK], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (130, "")
    assert done.stderr == "parrot: interrupted; run the same command again to continue.\n"
