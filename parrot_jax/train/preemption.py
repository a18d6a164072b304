"""Hears that the process is to end: schedulers send SIGTERM, and some minutes later SIGKILL."""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType

_SAME_REQUEST_S = 10.0
"""A scheduler signals every process of a job, and a supervisor passes on what it got itself, so one
request arrives more than once."""


class Preemption:
    """Whether this process was asked to end."""

    def __init__(self) -> None:
        self._asked_at: float | None = None

    @property
    def asked(self) -> bool:
        """True from the first SIGTERM on.

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
def catch_sigterm() -> Iterator[Preemption]:
    """Lets the block finish what it does when SIGTERM comes, instead of dying at once.

    A SIGTERM more than 10 s after the first ends the process as it would have without us. After the
    block, the handler from before is back. In another thread than the main one, Python allows no
    handler: there `asked` stays False.

    `jax.distributed.initialize` sets a handler of its own, in C++, unless jax's preemption service
    is off: whichever is set later hears the signal, so enter this block after it.

    Yields:
      An object to look at between two steps.
    """
    preemption = Preemption()
    if threading.current_thread() is not threading.main_thread():
        yield preemption
        return
    before = signal.signal(signal.SIGTERM, preemption._on_sigterm)
    try:
        yield preemption
    finally:
        # None = a handler that was not set from Python, which Python cannot put back.
        signal.signal(signal.SIGTERM, signal.SIG_DFL if before is None else before)
