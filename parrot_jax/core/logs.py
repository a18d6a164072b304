"""The output of a run: metrics as JSON lines that survive a kill, and progress with time left."""

import contextlib
import json
import re
import time
from collections.abc import Callable, Iterator
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from parrot_jax.core.errors import UserError, disk_full_is_a_user_error
from parrot_jax.core.files import atomic_write, open_input
from parrot_jax.core.paths import AnyPath
from parrot_jax.core.remote import RemotePath

LINE_EVERY_S = 30
"""Seconds between progress lines if there is no progress bar."""

# Text from models and data must be printed literally, not as rich markup.
console = Console(highlight=False, markup=False, soft_wrap=True)


# Control characters, halves of surrogate pairs, and the two marks that reverse what follows.
_UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\u202d\u202e]")


def visible(text: str) -> str:
    r"""Makes text from models or data safe for a terminal: control characters become symbols.

    >>> visible("a\x1b[2Jb\n")
    'a␛[2Jb\n'
    """
    return _UNSAFE.sub(
        lambda found: chr(0x2400 + ord(found[0])) if found[0] < " " else "\ufffd", text
    )


class MetricsFile:
    """A file of JSON objects, one per line; on disk each line is written immediately.

    A killed run can leave lines of steps after its last checkpoint, and a partial line.
    `keep_through` removes both, so that a resumed run has each step once.

    An object in a bucket cannot be appended to: its lines are buffered until `flush` uploads the
    whole file.
    """

    def __init__(self, path: AnyPath) -> None:
        """Does not create the file, so a run that fails before its first line leaves none."""
        self.path = path
        self._lines: list[str] | None = None
        """All lines of a file in a bucket; None = not read yet."""
        self._is_unflushed = False

    def append(self, **values: Any) -> None:
        """Adds a line.

        Raises:
          DiskFullError: The disk is full.
          ValueError: A value is NaN or infinite, which JSON cannot represent.
        """
        line = json.dumps(values, allow_nan=False) + "\n"
        if isinstance(self.path, RemotePath):
            if self._lines is None:
                there = self.read() if self.path.exists() else ()
                self._lines = [json.dumps(values) + "\n" for values in there]
            self._lines.append(line)
            self._is_unflushed = True
            return
        with (
            disk_full_is_a_user_error(f"the metrics in {self.path}"),
            open(self.path, "a", encoding="utf-8") as file,
        ):
            file.write(line)

    def keep_through(self, step: int) -> None:
        """Removes the lines of steps after `step`, and an incomplete last line.

        Raises:
          UserError: A line is damaged.
        """
        if not self.path.exists():
            return
        kept = []
        for number, line in enumerate(self.read(), 1):
            if not isinstance(line.get("step"), int):
                raise self._damaged(number)
            if line["step"] <= step:
                kept.append(line)
        with atomic_write(self.path) as file:
            file.writelines(json.dumps(line) + "\n" for line in kept)

    def flush(self) -> None:
        """Uploads buffered lines; does nothing for a file on disk.

        Raises:
          UserError: The bucket cannot be written.
        """
        if self._lines is not None and self._is_unflushed:
            with atomic_write(self.path) as file:
                file.writelines(self._lines)
            self._is_unflushed = False

    def read(self) -> Iterator[dict[str, Any]]:
        """Yields the lines, without an incomplete last line.

        Raises:
          UserError: The file cannot be read, or a line is not a JSON object; the message names it.
        """
        with open_input(self.path, "rb") as file:
            for number, line in enumerate(file, 1):
                if not line.endswith(b"\n"):
                    return
                try:
                    values = json.loads(line)
                except (ValueError, RecursionError):
                    values = None
                if not isinstance(values, dict):
                    raise self._damaged(number)
                yield values

    def _damaged(self, number: int) -> UserError:
        return UserError(
            f"{self.path}:{number} is damaged: it is not the JSON of a step; delete that line or "
            "restore a copy of the file, then run the same command again."
        )


def duration(seconds: int | float) -> str:
    """Formats a time in its two largest units.

    >>> duration(42.4), duration(200), duration(7260), duration(200_000)
    ('42 s', '3 min 20 s', '2 h 1 min', '2 d 7 h')
    """
    units = [("d", 86_400), ("h", 3600), ("min", 60), ("s", 1)]
    left, parts = max(round(seconds), 0), []
    for name, size in units:
        count, left = divmod(left, size)
        if count or parts or size == 1:
            parts.append((count, name))
    return " ".join(f"{count} {name}" for count, name in parts[:2] if count or len(parts) == 1)


class Pace:
    """Estimates the time left from the speed so far.

    The clock starts at the first call of `left`, so compilation before it does not count.
    """

    def __init__(self, total: int | float) -> None:
        """`total` is the amount of work, in any unit."""
        self._total = total
        self._first: tuple[float, int | float] | None = None
        self._last_line = time.monotonic()

    def left(self, done: int | float) -> str:
        """Returns e.g. `about 3 min 20 s left`; empty if no estimate is possible yet.

        Args:
          done: The amount of work done, of the total.
        """
        now = time.monotonic()
        if self._first is None:
            self._first = (now, done)
        since, before = self._first
        if done <= before:
            return ""
        return f"about {duration((now - since) / (done - before) * (self._total - done))} left"

    def line(self, what: str, done: int, unit: str) -> None:
        """Prints the progress, at most every `LINE_EVERY_S` seconds; call it for each `done`."""
        left = self.left(done)
        if time.monotonic() - self._last_line >= LINE_EVERY_S:
            self._last_line = time.monotonic()
            console.print(
                f"{what}: {done:,} of {self._total:,} {unit}" + (f", {left}" if left else "")
            )


@contextlib.contextmanager
def progress(unit: str, *, total: int) -> Iterator[Callable[[], None]]:
    """Shows the progress of a long loop: a bar, or without a terminal an occasional line.

    Args:
      unit: What is counted, e.g. `"tensors"`.
      total: Number of items.

    Yields:
      A function to call once per item, from any thread.
    """
    pace, last, done = Pace(total), time.monotonic(), 0
    pace.left(0)
    with progress_bar(unit) as bar:
        task = bar.add_task("", total=total)

        def advance() -> None:
            nonlocal done, last
            done += 1
            bar.update(task, completed=done)
            now = time.monotonic()
            if not console.is_terminal and now - last >= LINE_EVERY_S:
                last = now
                console.print(f"{done:,} of {total:,} {unit}, {pace.left(done)}")

        yield advance


@contextlib.contextmanager
def counting(what: str, *, total: int | None = None) -> Iterator[Callable[[], None]]:
    """Shows a counter on standard error, so that standard output can be piped.

    Args:
      what: What is counted, e.g. `"dialogues read"`.
      total: Number of items; None = unknown.

    Yields:
      A function to call once per item.
    """
    columns = (
        SpinnerColumn(),
        TextColumn("{task.completed:,} {task.fields[of]}{task.description}"),
    )
    errors = Console(stderr=True)
    with Progress(*columns, TimeElapsedColumn(), console=errors, transient=True) as bar:
        of = "" if total is None else f"of {total:,} "
        task = bar.add_task(what, total=total, of=of)
        yield lambda: bar.advance(task)


def progress_bar(unit: str) -> Progress:
    """Returns a bar with count, elapsed time and time left; it is disabled without a terminal.

    Args:
      unit: What is counted, e.g. `"steps"`.
    """
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
