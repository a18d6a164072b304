"""Tells whether a failed read means that a checkpoint is damaged."""

import contextlib
import errno
from collections.abc import Iterator

import jax

from parrot_jax.core.errors import ParrotError, UserError

_NOT_DAMAGE = (
    "PERMISSION_DENIED",
    "UNAUTHENTICATED",
    "UNAVAILABLE",
    "DEADLINE_EXCEEDED",
    "ABORTED",
    "CANCELLED",
    "RESOURCE_EXHAUSTED",
)
"""How TensorStore's errors begin that say nothing of what is stored."""

_OF_THIS_PROCESS = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EACCES, errno.EPERM)
"""Of the system's errors those that would come with any bytes: its limits and rights."""

_MAX_REASON_CHARS = 300


class Unreadable(Exception):  # noqa: N818
    """What is stored makes no sense."""


@contextlib.contextmanager
def reading() -> Iterator[None]:
    """Wraps a block that only reads, so that other errors are not taken for damage.

    Raises:
      Unreadable: The stored bytes could not be read; the message is one line.
    """
    try:
        yield
    except Exception as error:
        raise Unreadable(_reason(error)) from None


def _reason(error: Exception) -> str:
    """Describes the damage behind a failed read, in one line.

    Raises:
      Exception: `error` itself, if it is not about the stored bytes.
      UserError: The storage could not be asked.
    """
    chain: list[BaseException] = [error]
    while (cause := chain[-1].__cause__) is not None:
        chain.append(cause)
    # A warning comes here where warnings are made errors; none of them is of what was read.
    others = (ParrotError, MemoryError, Warning, jax.errors.JaxRuntimeError)
    if any(isinstance(e, others) for e in chain):
        raise error
    text = " ".join(str(chain[-1]).split())[:_MAX_REASON_CHARS] or type(chain[-1]).__name__
    number = chain[-1].errno if isinstance(chain[-1], OSError) else None
    if number in _OF_THIS_PROCESS or text.startswith(_NOT_DAMAGE):
        raise UserError(
            f"cannot read a checkpoint: {text}; check your rights, the network, and how many files "
            "a process may have open."
        )
    return text.rstrip(".")
