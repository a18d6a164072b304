"""Errors that are shown as one line, with their exit codes.

    ParrotError            one line, no traceback
    ├── UserError          exit 2: invalid config, file or option; nothing was changed
    │   └── DiskFullError  exit 2: the disk is full
    ├── RunError           exit 1: the run itself failed (e.g. a loss is not finite)
    └── PreemptedError     exit 75: the run was stopped from outside; start it again

Any other exception is a bug and keeps its traceback.
"""

import contextlib
import errno
from collections.abc import Iterator

_DISK_FULL_ERRNOS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
# TensorStore reports the operating system's text, not its number.
_DISK_FULL_TEXTS = ("No space left on device", "Disk quota exceeded", "File too large")


RESTART_EXIT_CODE = 75
"""Tells a launcher to run the same command again (EX_TEMPFAIL of sysexits.h)."""


class ParrotError(Exception):
    """An error whose text says what was seen, what is allowed and what to do next."""

    exit_code = 1


class UserError(ParrotError):
    """The input is invalid; the user can fix it and run the same command again."""

    exit_code = 2


class DiskFullError(UserError):
    """The disk or the quota is full."""


class RunError(ParrotError):
    """The run failed although its input was valid."""


class PreemptedError(ParrotError):
    """The run was stopped from outside or lost its hardware; the same command resumes it."""

    exit_code = RESTART_EXIT_CODE


def is_disk_full(error: BaseException) -> bool:
    """Whether `error`, or one that caused it, comes from a full disk or quota."""
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        if isinstance(current, OSError) and current.errno in _DISK_FULL_ERRNOS:
            return True
        if any(text in str(current) for text in _DISK_FULL_TEXTS):
            return True
        current = current.__cause__ or current.__context__
    return False


@contextlib.contextmanager
def disk_full_is_a_user_error(what: str) -> Iterator[None]:
    """Turns a full disk inside the block into a `DiskFullError` that names `what`.

    Args:
      what: What was being written and where, e.g. `"the checkpoint in runs/a"`.

    Raises:
      DiskFullError: The disk, the quota or the file size limit was reached.
    """
    try:
        yield
    except Exception as error:
        if not isinstance(error, ParrotError) and is_disk_full(error):
            raise DiskFullError(
                f"no room left on the disk for {what}; free some space or choose another folder, "
                "then run the same command again: it resumes where it stopped."
            ) from error
        raise
