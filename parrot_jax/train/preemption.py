"""Handles preemption: schedulers send SIGTERM, and some minutes later SIGKILL.

A Python signal handler runs only when jax returns from C++, which takes minutes in a compilation.
The handler is therefore installed only after the first step. Before that there is nothing to save,
and SIGTERM ends the process at once.
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
"""A scheduler signals every process of a job, and a supervisor forwards its own signal, so one
request may arrive more than once."""


class Preemption:
    """Whether this process has received SIGTERM."""

    def __init__(self) -> None:
        self._asked_at: float | None = None
        self._before: Any = None
        self._catches = False

    def catch(self) -> None:
        """Records SIGTERM from now on. Does nothing outside the main thread: Python forbids it.

        `jax.distributed.initialize` sets a handler in C++, unless jax's preemption service is off.
        The handler that is set last gets the signal, so call this afterwards.
        """
        if not self._catches and threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGTERM, self._on_sigterm)
            self._catches = True

    def release(self) -> None:
        """Restores the previous handler."""
        if self._catches:
            # None = a handler that was not set from Python, so Python cannot restore it.
            signal.signal(signal.SIGTERM, self._before or signal.SIG_DFL)
            self._catches = False

    @property
    def asked(self) -> bool:
        """True after the first caught SIGTERM.

        The processes of a run must agree on their reaction: they get the signal at different
        times, and some never do.
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
    """Lets the block finish its work on SIGTERM, once it has called `catch`.

    A SIGTERM more than 10 s after the first has its usual effect. The previous handler is restored
    after the block.

    Yields:
      An object to check between two steps.
    """
    held = Preemption()
    try:
        yield held
    finally:
        held.release()
