"""How many files and connections the process may hold open."""

import resource

from parrot_jax.core.errors import UserError


def allow_open_files(count: int, *, wanted_by: str) -> None:
    """Raises the limit of this process, as far as the system lets it.

    Shells commonly allow 1,024 where the system allows much more.

    Args:
      count: Files and connections in all.
      wanted_by: The setting that asks for so many, for the error.

    Raises:
      UserError: The system allows fewer.
    """
    now, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if now == resource.RLIM_INFINITY or now >= count:
        return
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (count, most))
    except (ValueError, OSError):
        raise UserError(
            f"{wanted_by} may need {count:,} open files and connections, and the system allows "
            f"this process {most:,}; lower it, or raise the limit (ulimit -Hn)."
        ) from None
