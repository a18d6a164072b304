"""supervise.sh with real processes: which exit codes restart, how often, and signals."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

SUPERVISE = Path(__file__).resolve().parents[2] / "scripts" / "launch" / "supervise.sh"

# Appends a line at each start and exits with the next given code; a negative code is a signal to
# itself.
CHILD = """
import os, sys
from pathlib import Path

starts = Path(sys.argv[1])
count = len(starts.read_text().splitlines()) if starts.exists() else 0
starts.write_text(starts.read_text() + "start\\n" if count else "start\\n")
code = [int(code) for code in sys.argv[2:]][count]
if code < 0:
    os.kill(os.getpid(), -code)
sys.exit(code)
"""

# Prints the signals it gets and exits with a given code. The handler must not print: Python may run
# it inside an interrupted `print`, whose stream is not reentrant.
LISTENER = """
import os, signal, sys, time

def hear(number, frame):
    os.write(1, f"heard {signal.Signals(number).name}\\n".encode())
    time.sleep(0.2)  # time to save
    sys.exit(int(sys.argv[1]))

signal.signal(signal.SIGTERM, hear)
signal.signal(signal.SIGINT, hear)
print("ready", flush=True)
time.sleep(30)
"""


def environ(pause_s: int) -> dict[str, str]:
    return {**os.environ, "SUPERVISE_PAUSE_S": str(pause_s)}


def supervise(starts: Path, restarts: int, *codes: int) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [SUPERVISE, str(restarts), sys.executable, "-c", CHILD, starts, *map(str, codes)],
        env=environ(0), capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def count(starts: Path) -> int:
    return len(starts.read_text().splitlines())


@pytest.mark.parametrize("code", [0, 1, 2, 127, -signal.SIGINT])
def test_a_code_that_no_restart_mends_is_passed_on_at_once(code: int, tmp_path: Path) -> None:
    done = supervise(tmp_path / "starts", 5, code, 0)
    assert done.returncode == (code if code >= 0 else 130)
    assert count(tmp_path / "starts") == 1
    assert done.stderr.count("not restarted") == (code != 0)


@pytest.mark.parametrize("code", [75, 134, 143, -signal.SIGKILL, -signal.SIGSEGV])
def test_a_run_that_was_ended_from_outside_is_started_again(code: int, tmp_path: Path) -> None:
    done = supervise(tmp_path / "starts", 5, code, code, 0)
    assert done.returncode == 0
    assert count(tmp_path / "starts") == 3
    shown = code if code >= 0 else 128 - code
    lines = [line for line in done.stderr.splitlines() if line.startswith("supervise:")]
    assert len(lines) == 2  # one per restart
    assert f"code {shown}: restart 1 of 5 in 0 s" in lines[0]
    assert f"code {shown}: restart 2 of 5 in 0 s" in lines[1]


def test_a_failed_run_ends_the_restarts(tmp_path: Path) -> None:
    done = supervise(tmp_path / "starts", 5, 75, 134, 1, 0)
    assert done.returncode == 1
    assert count(tmp_path / "starts") == 3


@pytest.mark.parametrize("restarts", [0, 2])
def test_restarts_are_counted(restarts: int, tmp_path: Path) -> None:
    done = supervise(tmp_path / "starts", restarts, *[134] * 9)
    assert done.returncode == 134
    assert count(tmp_path / "starts") == restarts + 1
    assert f"code 134 after {restarts} restarts: giving up" in done.stderr


@pytest.mark.slow
def test_each_pause_is_twice_the_last(tmp_path: Path) -> None:
    starts = tmp_path / "starts"
    started = time.monotonic()
    done = subprocess.run(
        [SUPERVISE, "2", sys.executable, "-c", CHILD, starts, "75", "75", "0"],
        env=environ(1), capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert time.monotonic() - started > 3
    assert "restart 1 of 2 in 1 s" in done.stderr
    assert "restart 2 of 2 in 2 s" in done.stderr


def test_a_command_that_is_not_there_ends_at_once() -> None:
    done = subprocess.run(
        [SUPERVISE, "5", "no-such-command"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 127


@pytest.mark.parametrize("arguments", [[], ["3"], ["-1", "true"], ["many", "true"]])
def test_a_wrong_call_gets_its_usage(arguments: list[str]) -> None:
    done = subprocess.run([SUPERVISE, *arguments], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.split(":")[0]) == (2, "usage")


def listen(code: int) -> "subprocess.Popen[str]":
    process = subprocess.Popen(
        [SUPERVISE, "5", sys.executable, "-c", LISTENER, str(code)],
        env=environ(0), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize(
    ("sent", "heard", "code"),
    [
        (signal.SIGTERM, "SIGTERM", 75),
        (signal.SIGTERM, "SIGTERM", 134),
        (signal.SIGTERM, "SIGTERM", 0),
        (signal.SIGHUP, "SIGTERM", 75),
        (signal.SIGINT, "SIGINT", 130),
    ],
)
def test_a_signal_is_passed_on_and_nothing_is_started_again(
    sent: signal.Signals, heard: str, code: int
) -> None:
    with listen(code) as process:
        process.send_signal(sent)
        output, errors = process.communicate(timeout=10)
    # One signal and no second `ready`.
    assert (output, process.returncode) == (f"heard {heard}\n", code), errors
    assert "restart " not in errors


def test_ctrl_c_reaches_the_command_once() -> None:
    # A terminal signals its foreground process group, to which the command does not belong.
    process = subprocess.Popen(
        [SUPERVISE, "5", sys.executable, "-c", LISTENER, "130"],
        stdout=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        os.killpg(process.pid, signal.SIGINT)
        output, _ = process.communicate(timeout=10)
    assert output == "heard SIGINT\n"
    assert process.returncode == 130


def test_a_signal_during_the_pause_ends_it(tmp_path: Path) -> None:
    starts = tmp_path / "starts"
    process = subprocess.Popen(
        [SUPERVISE, "5", sys.executable, "-c", CHILD, starts, "134", "0"],
        env=environ(30), stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    with process:
        assert process.stderr is not None
        assert "restart 1 of 5 in 30 s" in process.stderr.readline()
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 134
    assert count(starts) == 1
