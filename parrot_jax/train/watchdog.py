"""Ends a process that hangs, with the stacks of its threads, so that a supervisor starts it again.

When one host of a run dies or a collective goes wrong, the others wait for it in C code, where no
exception reaches them: hours of a pod are lost in silence. A thread sees that no step ends.
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
    """Ends the process with `RESTART_EXIT_CODE` when `reset` was not called for `timeout_s`.

    The time runs from the beginning of the block, so it must be longer than whatever lies between
    two calls: compilation, an evaluation, a checkpoint. Nothing is cleaned up at the end, as what
    hangs would hang there too. Code that holds the GIL for ever stops the watchdog as well.

    `with Watchdog(1800, folder / "hang.txt") as watchdog: ...; watchdog.reset()`
    """

    def __init__(self, timeout_s: float | None, report: Path) -> None:
        """Starts nothing yet.

        Args:
          timeout_s: Seconds without a `reset`; 0, less or None = never.
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
        """Says that the run is alive; costs nothing."""
        self._last = time.monotonic()

    def _watch(self, timeout_s: float) -> None:
        while (left := self._last + timeout_s - time.monotonic()) > 0:
            if self._stopped.wait(left):
                return
        self._end(timeout_s)

    def _end(self, timeout_s: float) -> None:
        line = (
            f"parrot: nothing has moved for {timeout_s:g} s, so this process ends itself with "
            f"code {RESTART_EXIT_CODE}. The stacks of its threads are above and in {self._report}; "
            "run the same command again to continue."
        )
        # Straight to the descriptors: what hangs may hold the lock of a Python stream.
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
