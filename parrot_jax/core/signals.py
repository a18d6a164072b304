"""What ends a program from outside: a scheduler, a closed terminal, Ctrl-C."""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType


@contextlib.contextmanager
def as_ctrl_c() -> Iterator[None]:
    """Lets SIGTERM and SIGHUP do what Ctrl-C does while the block runs.

    `docker stop`, Kubernetes, systemd and SLURM send SIGTERM, a terminal that is closed SIGHUP.
    What the shell ignores (`nohup`) stays ignored.
    """
    before = {}
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is signal.SIG_DFL:
                before[number] = signal.signal(number, _interrupt)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _interrupt(number: int, _: FrameType | None) -> None:
    if number == signal.SIGHUP:
        # There is no terminal any more, and what is still said must not fail.
        for stream in (sys.stdout, sys.stderr):
            if stream.isatty():
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    signal.raise_signal(signal.SIGINT)
