"""The log of another program: written to a file, shown while waiting, quoted in errors."""

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from rich.console import Console

from parrot_jax.core.errors import UserError
from parrot_jax.core.logs import LINE_EVERY_S, visible

_LAST_LINES = 15
_LAST_BYTES = 20_000
_LINE_CHARS = 300

# Not on stdout, since programs read the address from its first line.
notices = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)


class Log:
    """A log file to which each start of a program appends.

    Attributes:
      path: The file.
    """

    def __init__(self, path: Path) -> None:
        """Stores the path; does not open the file."""
        self.path = path
        self._start = 0

    @contextlib.contextmanager
    def open(self, first_line: str) -> Iterator[IO[bytes]]:
        """Opens the file for a program's output; writes a first line to it and to the console.

        Raises:
          UserError: The file cannot be written.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            file = open(self.path, "ab")  # noqa: SIM115 - closed below
        except OSError as error:
            raise UserError(
                f"cannot write {self.path}: {error.strerror}; check the folder and its owner."
            ) from None
        with file:
            notices.print(f"{first_line}\nits log: {self.path}")
            now = time.strftime("%Y-%m-%d %H:%M:%S %z")
            file.write(f"{now}\n{first_line}\n".encode())
            file.flush()
            self._start = file.tell()
            yield file

    def last_lines(self, count: int = _LAST_LINES) -> list[str]:
        """Returns the last non-empty lines since `open`, in printable form."""
        with open(self.path, "rb") as file:
            size = file.seek(0, 2)
            file.seek(max(self._start, size - _LAST_BYTES))
            text = visible(file.read().decode(errors="replace"))
        return [line[:_LINE_CHARS] for line in text.splitlines() if line.strip()][-count:]

    def end(self) -> str:
        """Returns the end of an error message: the log's path and last lines."""
        lines = self.last_lines() or ["(nothing)"]
        return "\n  ".join([f"its log {self.path} ends with:", *lines])


@contextlib.contextmanager
def follow(what: str, log: Log) -> Iterator[Callable[[], None]]:
    """Shows the elapsed time and the last line of a log.

    Args:
      what: The start of the line, e.g. `"vLLM starts"`.
      log: The log to follow.

    Yields:
      A function that updates the line; call it regularly.
    """
    started = last = time.monotonic()
    with notices.status(what) if notices.is_terminal else contextlib.nullcontext() as status:

        def say() -> None:
            nonlocal last
            now = time.monotonic()
            line = f"{what}, {now - started:.0f} s: {' '.join(log.last_lines(1))}"
            if status is not None:
                status.update(line[: notices.width - 4])
            elif now - last >= LINE_EVERY_S:
                last = now
                notices.print(line)

        yield say
