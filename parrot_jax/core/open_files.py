"""How many files and connections the process may hold open."""

import contextlib
import resource
import sys

from parrot_jax.core.errors import UserError

_OTHERS = 100
"""Open files besides connections: journals, libraries, the terminal."""


def allow_connections(count: int, *, wanted_by: str) -> None:
    """Raises this process's limit of open files, as far as the system lets it.

    Shells commonly allow 1,024 where the system allows much more.

    Args:
      count: Connections that may be open at once.
      wanted_by: The setting that needs them, for the error.

    Raises:
      UserError: The system allows fewer.
    """
    needed = count + _OTHERS
    now, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if now == resource.RLIM_INFINITY or now >= needed:
        return
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, most))
    except (ValueError, OSError):
        raise UserError(
            f"{wanted_by} may need {needed:,} open files and connections, and the system allows "
            f"this process {most:,}; lower it, or raise the limit (ulimit -Hn)."
        ) from None


def most_connections() -> int:
    """Connections for which this process's limit has room."""
    now, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return sys.maxsize if now == resource.RLIM_INFINITY else max(1, now - _OTHERS)


def raise_limit(count: int) -> None:
    """Makes room for connections as far as the system lets it, and is content with less."""
    now, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count + _OTHERS if most == resource.RLIM_INFINITY else min(count + _OTHERS, most)
    if now != resource.RLIM_INFINITY and now < wanted:
        # macOS has a second limit, which it does not tell.
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))
