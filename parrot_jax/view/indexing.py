"""Keeps the indexes of all paths up to date, in a thread of their own."""

import sqlite3
import threading
import time
from collections.abc import Iterator
from typing import Any, Protocol, runtime_checkable

from filelock import FileLock, Timeout

from parrot_jax.core.errors import ParrotError, UserError
from parrot_jax.view.index_file import explain, index_path, is_damage, remove
from parrot_jax.view.shown import Shown
from parrot_jax.view.writing import IndexWriter

_POLL_S = 1.0
_LONGEST_POLL_S = 60.0
_REST = 20
"""A check that found nothing new is followed by a pause of this many times its duration."""


@runtime_checkable
class Source(Protocol):
    """What an index is made from."""

    kind: str
    """What it is, in a word or two."""

    @property
    def key(self) -> str:
        """Identifies it, as an index does."""
        ...

    def update(self, index: IndexWriter) -> Iterator[None]:
        """Brings an index up to date; each step is saved.

        An index that holds something else is started over before the first step.

        Raises:
          ParrotError: It cannot be read; what is in the index stays.
        """
        ...

    def progress(self) -> float | None:
        """The share that was read; None = unknown."""
        ...

    def live_text(self, shown: Shown) -> Any:
        """How a training config renders a dialogue; None for all other sources."""
        ...


class Part:
    """A path of the command, with its index."""

    def __init__(self, label: str, source: Source, cache_dir: str) -> None:
        """Creates no index yet; see `Keeper`."""
        self.label, self.source = label, source
        self.index = index_path(cache_dir, source.key)
        self.problem = ""
        """Why it cannot be read further; empty = nothing is wrong."""
        self.is_reading = True
        """Whether the first pass still runs."""
        self.checked = threading.Event()
        """Set once the index is known to belong to what is there now."""
        self._lock = FileLock(self.index.with_suffix(".lock"))
        self._writer: IndexWriter | None = None

    def update(self) -> Iterator[None]:
        """One pass: reads what is new, in steps. Does nothing while another process does it."""
        try:
            self.index.parent.mkdir(parents=True, exist_ok=True)
            if self._writer is None:
                self._lock.acquire(timeout=0)
                self._writer = IndexWriter(self.index)
            for _ in self.source.update(self._writer):
                self.checked.set()
                yield
            self.problem = ""
        except Timeout:
            pass  # another `parrot view` keeps it up to date
        except ParrotError as error:
            self.problem = str(error)
        except OSError as error:
            self.problem = f"cannot use {error.filename or self.index}: {error.strerror}."
        except sqlite3.Error as error:
            if is_damage(error) and self._writer is not None:
                self._writer.close()
                self._writer = None
                remove(self.index)
                self.problem = f"the index {self.index} was damaged; the next pass makes it again."
                return
            self.problem = str(explain(error, self.index))
        self.is_reading = False
        self.checked.set()

    @property
    def is_writing(self) -> bool:
        """Whether the last pass was made here, not by another process."""
        return self._writer is not None

    def close(self) -> None:
        """Closes the index and lets go of it."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None
        self._lock.release()


class Keeper:
    """Updates all parts in turns while the `with` block runs."""

    def __init__(self, parts: list[Part]) -> None:
        """Starts with the `with` block."""
        self._parts = parts
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="indexing", daemon=True)

    def __enter__(self) -> "Keeper":
        """Starts the thread."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stops after the current step; the next start continues after it."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                start = time.monotonic()
                found = self._pass()
                pause = (1 if found else _REST) * (time.monotonic() - start)
                self._stop.wait(min(max(pause, _POLL_S), _LONGEST_POLL_S))
        finally:
            for part in self._parts:
                part.close()

    def _pass(self) -> bool:
        """One pass over all parts, in turns; returns whether any has grown."""
        left, rounds = [part.update() for part in self._parts], 0
        while left and not self._stop.is_set():
            left = [steps for steps in left if next(steps, self) is not self]
            rounds += 1
        return rounds > 1


def build(parts: list[Part]) -> Iterator[Part]:
    """Brings all indexes up to date in this thread, for a program that serves no pages.

    Yields:
      The part, after each step.

    Raises:
      UserError: A part cannot be read, or another process keeps its index.
    """
    for part in parts:
        try:
            for _ in part.update():
                yield part
            if part.problem:
                raise UserError(part.problem)
            if not part.is_writing:
                raise UserError(
                    f"another `parrot view` keeps the index of {part.label}, which may not be "
                    "complete; stop it, or choose another --cache-dir."
                )
        finally:
            part.close()
