"""The watchdog in real processes: a hanging process ends with its stacks, others continue."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from parrot_jax.core.errors import RESTART_EXIT_CODE, ParrotError, PreemptedError
from parrot_jax.train.watchdog import Watchdog

PROGRAM = """
import ctypes, sys, threading, time
from pathlib import Path
from parrot_jax.train.watchdog import Watchdog

def wait_for_a_host_that_died():
    ctypes.CDLL(None).sleep(60)  # releases the GIL, and no signal of Python's ends it

with Watchdog({timeout_s}, Path(sys.argv[1])) as watchdog:
    for _ in range(3):
        time.sleep(0.2)
        watchdog.reset()
    print("alive after three steps", flush=True)
    {then}
print("done")
"""


def run(
    timeout_s: float, then: str, report: Path
) -> tuple[subprocess.CompletedProcess[str], float]:
    started = time.monotonic()
    program = PROGRAM.format(timeout_s=timeout_s, then=then)
    done = subprocess.run(
        [sys.executable, "-c", program, str(report)],
        capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    return done, time.monotonic() - started


def test_a_process_that_hangs_in_c_ends_with_75_and_says_where(tmp_path: Path) -> None:
    report = tmp_path / "run" / "hang.txt"
    report.parent.mkdir()
    report.write_text("the hang of yesterday\n")
    done, seconds = run(1.5, "wait_for_a_host_that_died()", report)
    assert done.returncode == RESTART_EXIT_CODE == 75
    assert done.stdout == "alive after three steps\n"
    assert seconds < 20
    for text in (done.stderr, report.read_text()):
        assert "in wait_for_a_host_that_died" in text
        assert "no progress for 1.5 s" in text
        assert str(report) in text
    assert report.read_text().startswith("the hang of yesterday\n")


def test_a_report_that_cannot_be_written_keeps_no_hanging_process_alive(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done, _ = run(1.5, "wait_for_a_host_that_died()", tmp_path / "file" / "hang.txt")
    assert done.returncode == 75
    assert "in wait_for_a_host_that_died" in done.stderr


@pytest.mark.parametrize("timeout_s", [0, -1, 5])
def test_a_process_that_moves_or_is_not_watched_ends_as_it_likes(
    timeout_s: float, tmp_path: Path
) -> None:
    done, _ = run(timeout_s, "time.sleep(0.3)", tmp_path / "hang.txt")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("done\n")
    assert not (tmp_path / "hang.txt").exists()


def test_after_the_block_nothing_watches(tmp_path: Path) -> None:
    with Watchdog(0.2, tmp_path / "hang.txt") as watchdog:
        pass
    watchdog.reset()
    time.sleep(0.4)  # this process was not ended
    with Watchdog(None, tmp_path / "hang.txt"):
        time.sleep(0.1)


def test_the_exit_code_of_a_run_that_was_stopped_from_outside() -> None:
    assert (ParrotError.exit_code, PreemptedError.exit_code) == (1, 75)
