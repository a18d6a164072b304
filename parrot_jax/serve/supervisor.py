"""A program that runs a server and ends all its processes, even if parrot is killed.

    parrot ──pipe──▶ this program ──▶ the server ──▶ its child processes

When the pipe is closed, by parrot or because parrot was killed, this program stops the server:
SIGTERM to it, SIGTERM to its remaining processes, then SIGKILL. If the server ends by itself, its
remaining processes are ended in the same way. On Linux, orphaned processes of the server become
children of this program, so it knows when the last one has ended, even if they left their process
group; and the kernel sends SIGTERM to the server if this program is killed.
"""

import contextlib
import ctypes
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import psutil

STOP_S = 20.0
"""Seconds for a server to stop after SIGTERM."""

_REST_S = 5.0  # for its remaining processes, before SIGKILL
_KILLED_S = 20.0  # for a killed process to end: a driver may hold it for a while
_TICK_S = 0.1
_CLOCK_S = 5.0  # tolerance for start times, which change when the clock is adjusted

# From Linux's <sys/prctl.h>.
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36


class Supervised:
    """A command that runs only while the `with` block runs.

    Attributes:
      pid: The id of the supervising process.
    """

    def __init__(
        self, command: Sequence[str], *, output: IO[Any], record: Path, env: dict[str, str]
    ) -> None:
        """Stores the command; the `with` block starts it.

        Args:
          command: The program and its arguments.
          output: An open file for its output.
          record: A file that lists the processes while they run; its folder must exist.
          env: The environment.
        """
        self._command, self._output, self._record, self._env = command, output, record, env

    def __enter__(self) -> "Supervised":
        # Run by path and with -I, independent of this package and the working directory; in a new
        # session, so that Ctrl-C in a terminal reaches only parrot.
        self._process = subprocess.Popen(
            [sys.executable, "-I", __file__, str(self._record), *self._command],
            stdin=subprocess.PIPE,
            stdout=self._output,
            stderr=subprocess.STDOUT,
            env=self._env,
            start_new_session=True,
        )
        self.pid = self._process.pid
        return self

    def wait(self, timeout_s: float | None = None) -> int | None:
        """Returns the shell-style exit code after all processes ended; None if still running."""
        try:
            return self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return None

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stops the command and waits until all processes have ended; Ctrl-C ends the wait."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        if self._process.wait() < 0:
            self._end_survivors()

    def _end_survivors(self) -> None:
        """Cleans up after a killed supervisor; the server got SIGTERM, but may ignore it."""
        deadline = time.monotonic() + STOP_S
        while (left := survivors(self._record)[0]) and time.monotonic() < deadline:
            time.sleep(_TICK_S)
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._record.unlink(missing_ok=True)


def survivors(record: Path) -> tuple[list[int], bool]:
    """Finds the processes of a record that are still running.

    Returns:
      Their ids, and whether they are supervised. No ids if all have ended, or if the record is from
      another machine, whose processes are not visible.

    Raises:
      ValueError: The record is damaged.
    """
    if not record.exists():
        return [], False
    match json.loads(record.read_text()):
        case {"host": host, "supervisor": [int(), _] as supervisor, "server": [int(), _] as server}:
            pass
        case _:
            raise ValueError("no process ids")
    if host != socket.gethostname():
        return [], False
    if _runs(*supervisor):
        return [supervisor[0]], True
    pid, created = server
    if psutil.pid_exists(pid) and not _runs(pid, created):
        return [], False  # the id was reused by another process
    return [each.pid for each in psutil.process_iter() if _is_of_group(each, pid, created)], False


def _runs(pid: int, created: float) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        is_it = abs(process.create_time() - created) < _CLOCK_S
        return is_it and process.status() != psutil.STATUS_ZOMBIE
    return False


def _is_of_group(process: psutil.Process, group: int, created: float) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError, PermissionError):
        return (
            os.getpgid(process.pid) == group
            and process.create_time() > created - _CLOCK_S
            and process.status() != psutil.STATUS_ZOMBIE
        )
    return False


# ---- the program --------------------------------------------------------------------------------


class _Server:
    """The started process and all its descendants."""

    def __init__(self, command: Sequence[str]) -> None:
        prctl = getattr(ctypes.CDLL(None), "prctl", None)  # Linux only
        if prctl is not None:
            prctl(_PR_SET_CHILD_SUBREAPER, 1)

        def end_with_this_program() -> None:
            if prctl is not None:
                prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)

        self.pid = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            preexec_fn=end_with_this_program,
        ).pid
        self.code: int | None = None
        """Shell-style exit code; None while it runs."""
        self.all_gone = False

    def look(self) -> None:
        """Reaps processes that have ended."""
        try:
            while (ended := os.waitpid(-1, os.WNOHANG))[0] != 0:
                if ended[0] == self.pid:
                    code = os.waitstatus_to_exitcode(ended[1])
                    self.code = 128 - code if code < 0 else code
        except ChildProcessError:
            self.all_gone = True

    def end(self) -> None:
        """Ends all remaining processes, first with SIGTERM, then with SIGKILL."""
        with contextlib.suppress(ProcessLookupError):
            if self.code is None:
                os.kill(self.pid, signal.SIGTERM)
        self._wait(lambda: self.code is not None, STOP_S)
        self._signal_all(signal.SIGTERM)
        self._wait(lambda: self.all_gone, _REST_S)
        self._signal_all(signal.SIGKILL)
        self._wait(lambda: self.all_gone, _KILLED_S)

    def _wait(self, done: Callable[[], bool], timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        self.look()
        while not done() and time.monotonic() < deadline:
            time.sleep(_TICK_S)
            self.look()

    def _signal_all(self, number: signal.Signals) -> None:
        if self.all_gone:
            return
        with contextlib.suppress(ProcessLookupError, PermissionError):  # macOS: all are zombies
            os.killpg(self.pid, number)
        for child in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                child.send_signal(number)


def _supervise(record: Path, command: Sequence[str]) -> int:
    """Runs a command until it ends, the pipe is closed or a signal arrives.

    Returns:
      The exit code of the command, or 0 if it was stopped.
    """
    signals: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda number, _: signals.append(number))
    server = _Server(command)
    here = psutil.Process()
    processes = {
        "host": socket.gethostname(),
        "supervisor": [here.pid, here.create_time()],
        "server": [server.pid, psutil.Process(server.pid).create_time()],
    }
    temporary = record.with_name(f".{record.name}.tmp")
    temporary.write_text(json.dumps(processes))
    os.replace(temporary, record)
    while server.code is None and not signals and not select.select([0], [], [], _TICK_S)[0]:
        server.look()
    code = server.code or 0
    server.end()
    if server.all_gone:
        record.unlink(missing_ok=True)
    return code


if __name__ == "__main__":
    raise SystemExit(_supervise(Path(sys.argv[1]), sys.argv[2:]))
