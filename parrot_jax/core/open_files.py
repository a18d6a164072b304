"""The limit of files and connections that the process may have open."""

import contextlib
import resource
import sys

from parrot_jax.core.errors import UserError

_OTHER_FILES = 100
"""Open files besides connections: journals, libraries, the terminal."""


def allow_connections(count: int, *, wanted_by: str) -> None:
    """Raises this process's limit of open files to what `count` connections need.

    The soft limit is commonly 1,024; the hard limit is much higher.

    Args:
      count: Most connections open at once.
      wanted_by: The setting that needs them, for the error.

    Raises:
      UserError: The system allows fewer.
    """
    needed = count + _OTHER_FILES
    now, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if now == resource.RLIM_INFINITY or now >= needed:
        return
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, most))
    except (ValueError, OSError):
        raise UserError(
            f"{wanted_by} may need {needed:,} open files and connections, and the system allows "
            f"this process {most:,}; lower the setting or raise the limit (ulimit -Hn)."
        ) from None


def most_connections() -> int:
    """Returns how many connections the current limit allows."""
    now, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return sys.maxsize if now == resource.RLIM_INFINITY else max(1, now - _OTHER_FILES)


def raise_limit(count: int) -> None:
    """Raises the limit for `count` connections, or as far as the system allows."""
    now, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = (
        count + _OTHER_FILES if most == resource.RLIM_INFINITY else min(count + _OTHER_FILES, most)
    )
    if now != resource.RLIM_INFINITY and now < wanted:
        # macOS has a second limit that it does not report.
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))
