"""Hears that the process is to end: schedulers send SIGTERM, and some minutes later SIGKILL.

A handler written in Python waits until jax returns from C++, which for a compilation takes minutes.
So the signal is caught only from the first step on. Before it there is nothing to save, and SIGTERM
ends the process at once.
"""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType
from typing import Any

_SAME_REQUEST_S = 10.0
"""A scheduler signals every process of a job, and a supervisor passes on what it got itself, so one
request arrives more than once."""


class Preemption:
    """Whether this process was asked to end."""

    def __init__(self) -> None:
        self._asked_at: float | None = None
        self._before: Any = None
        self._catches = False

    def catch(self) -> None:
        """From now on a SIGTERM is remembered. Outside of the main thread Python allows no handler.

        `jax.distributed.initialize` sets a handler of its own, in C++, unless jax's preemption
        service is off: whichever is set later hears the signal, so call this after it.
        """
        if not self._catches and threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGTERM, self._on_sigterm)
            self._catches = True

    def release(self) -> None:
        """Puts the handler from before back."""
        if self._catches:
            # None = a handler that was not set from Python, which Python cannot put back.
            signal.signal(signal.SIGTERM, self._before or signal.SIG_DFL)
            self._catches = False

    @property
    def asked(self) -> bool:
        """True from the first SIGTERM on that was caught.

        The processes of a run must agree on what they do about it: they are told at different
        moments, and some are not told.
        """
        return self._asked_at is not None

    def _on_sigterm(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self._asked_at is None:
            self._asked_at = now
        elif now - self._asked_at > _SAME_REQUEST_S:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)


@contextlib.contextmanager
def preemption() -> Iterator[Preemption]:
    """Lets the block finish what it does when SIGTERM comes, once it has called `catch`.

    A SIGTERM more than 10 s after the first ends the process as it would have without us. After the
    block, the handler from before is back.

    Yields:
      An object to look at between two steps.
    """
    held = Preemption()
    try:
        yield held
    finally:
        held.release()
