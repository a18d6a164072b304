"""Records the finished stages of a quickstart and their times."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from parrot_jax.core.errors import UserError, disk_full_is_a_user_error
from parrot_jax.core.files import read_object, write_json
from parrot_jax.core.logs import console


class Progress:
    """The file `quickstart.json`: settings, and the seconds of every finished stage.

    Use it in a `with` block: it locks the folder.
    """

    def __init__(self, folder: Path, settings: dict[str, Any]) -> None:
        """Reads the file, if it exists.

        Args:
          folder: Of the quickstart; created if missing.
          settings: Settings that affect the result, as JSON.

        Raises:
          UserError: The folder cannot be written, or has a quickstart with other settings.
        """
        self.path = folder / "quickstart.json"
        self.settings = settings
        self.seconds: dict[str, float] = {}
        """Seconds of every finished stage."""
        self.wall_s = 0.0
        """Seconds up to the last finished stage, summed over the processes that finished one."""
        self._since = time.perf_counter()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = FileLock(folder / ".lock", blocking=False)
        except OSError as error:
            raise UserError(
                f"cannot write to {folder}: {error.strerror}; choose another --out."
            ) from None

    def __enter__(self) -> "Progress":
        """Locks the folder.

        Raises:
          UserError: Another process works here, or the folder has another quickstart.
        """
        try:
            self._lock.acquire()
        except Timeout:
            raise UserError(
                f"another quickstart runs in {self.path.parent}; wait for it or choose another "
                "--out."
            ) from None
        except OSError as error:
            raise UserError(
                f"cannot write to {self.path.parent}: {error.strerror}; choose another --out."
            ) from None
        try:
            self._continue()
        except UserError:
            self._lock.release()
            raise
        return self

    def _continue(self) -> None:
        if not self.path.exists():
            self._save()
            return
        match read_object(self.path):
            case {"settings": settings, "stages": dict(stages), "wall_s": float(wall_s)}:
                self.seconds, self.wall_s = stages, wall_s
            case _:
                raise UserError(
                    f"{self.path} is damaged: it does not list finished stages; restore a "
                    "copy, or choose another --out."
                )
        if settings != self.settings:
            raise UserError(
                f"{self.path.parent} has a quickstart with {settings}, not {self.settings}; "
                "choose another --out."
            )

    def __exit__(self, *_: object) -> None:
        """Unlocks the folder."""
        self._lock.release()

    def stage(self, name: str, work: Callable[[], None]) -> None:
        """Runs a stage unless it is finished, and records it."""
        if name in self.seconds:
            console.print(f"== {name}: already done, in {self.seconds[name]:.0f} s")
            return
        console.print(f"== {name}")
        started = time.perf_counter()
        work()
        now = time.perf_counter()
        self.seconds[name] = round(now - started, 1)
        self.wall_s, self._since = self.wall_s + now - self._since, now
        self._save()
        console.print(f"== {name}: {self.seconds[name]:.0f} s")

    def _save(self) -> None:
        with disk_full_is_a_user_error(f"the quickstart in {self.path.parent}"):
            write_json(
                self.path,
                {"settings": self.settings, "stages": self.seconds, "wall_s": self.wall_s},
            )
