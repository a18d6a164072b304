"""Ends a process that hangs, with the stacks of its threads, so that a supervisor restarts it.

When one host of a run dies or a collective fails, the others wait in C code, where no exception
reaches them, and a pod may idle for hours. A watchdog thread notices that no step ends.
"""

import contextlib
import faulthandler
import os
import threading
import time
from pathlib import Path
from types import TracebackType

from parrot_jax.core.errors import RESTART_EXIT_CODE

_STDERR = 2


class Watchdog:
    """Ends the process with `RESTART_EXIT_CODE` if `reset` is not called for `timeout_s`.

    The time starts with the block, so it must be longer than anything between two calls:
    compilation, an evaluation, a checkpoint. There is no cleanup at exit, because that would hang
    too. Code that never releases the GIL also blocks the watchdog.

    `with Watchdog(1800, folder / "hang.txt") as watchdog: ...; watchdog.reset()`
    """

    def __init__(self, timeout_s: float | None, report: Path) -> None:
        """Starts nothing yet.

        Args:
          timeout_s: Seconds without a `reset`; None or <= 0 = never.
          report: A local file to which the stacks are appended, besides the standard error stream.
        """
        self._timeout_s = timeout_s if timeout_s is not None and timeout_s > 0 else None
        self._report = report
        self._last = time.monotonic()
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> "Watchdog":
        if self._timeout_s is not None:
            self.reset()
            self._stopped.clear()
            self._thread = threading.Thread(
                target=self._watch, args=(self._timeout_s,), name="watchdog", daemon=True
            )
            self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stopped.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def reset(self) -> None:
        """Restarts the timer; cheap."""
        self._last = time.monotonic()

    def _watch(self, timeout_s: float) -> None:
        while (left := self._last + timeout_s - time.monotonic()) > 0:
            if self._stopped.wait(left):
                return
        self._end(timeout_s)

    def _end(self, timeout_s: float) -> None:
        line = (
            f"parrot: no progress for {timeout_s:g} s; exiting with "
            f"code {RESTART_EXIT_CODE}. The stacks of all threads are above and in {self._report}; "
            "run the same command again to resume."
        )
        # Straight to the descriptors: the hanging thread may hold the lock of a Python stream.
        with contextlib.suppress(OSError):
            faulthandler.dump_traceback(_STDERR, all_threads=True)
            os.write(_STDERR, f"{line}\n".encode())
        with contextlib.suppress(OSError):  # a full disk must not keep it alive
            self._report.parent.mkdir(parents=True, exist_ok=True)
            with open(self._report, "ab") as file:
                now = time.strftime("%Y-%m-%d %H:%M:%S %z")
                file.write(f"{now} process {os.getpid()}: {line}\n".encode())
                file.flush()
                faulthandler.dump_traceback(file, all_threads=True)
                file.write(b"\n")
                file.flush()
                os.fsync(file.fileno())
        os._exit(RESTART_EXIT_CODE)
