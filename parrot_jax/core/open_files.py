"""How many files and connections the process may hold open."""

import resource

from parrot_jax.core.errors import UserError

_OTHERS = 100
"""Open files besides connections: journals, libraries, the terminal."""


def allow_connections(count: int, *, wanted_by: str) -> None:
    """Raises this process's limit of open files, as far as the system lets it.

    Shells commonly allow 1,024 where the system allows much more.

    Args:
      count: Connections that may be open at once.
      wanted_by: The setting that asks for so many, for the error.

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
