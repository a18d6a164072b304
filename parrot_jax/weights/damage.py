"""Decides whether a failed read means that a checkpoint is damaged."""

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
"""Prefixes of TensorStore errors that do not concern the stored bytes."""

_OF_THIS_PROCESS = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EACCES, errno.EPERM)
"""System errors that do not concern the stored bytes: limits and permissions."""

_MAX_REASON_CHARS = 300


class Unreadable(Exception):  # noqa: N818
    """The stored bytes are damaged."""


@contextlib.contextmanager
def reading() -> Iterator[None]:
    """Turns errors in a block that only reads into `Unreadable` if they mean damage.

    Raises:
      Unreadable: The stored bytes are damaged; the message is one line.
      UserError: The storage could not be accessed.
    """
    try:
        yield
    except Exception as error:
        raise Unreadable(_reason(error)) from None


def _reason(error: Exception) -> str:
    """Describes the damage behind a failed read, in one line.

    Raises:
      Exception: `error` itself, if it does not concern the stored bytes.
      UserError: The storage could not be accessed.
    """
    chain: list[BaseException] = [error]
    while (cause := chain[-1].__cause__) is not None:
        chain.append(cause)
    # `Warning`: raised under `-W error`; never about the stored bytes.
    others = (ParrotError, MemoryError, Warning, jax.errors.JaxRuntimeError)
    if any(isinstance(e, others) for e in chain):
        raise error
    text = " ".join(str(chain[-1]).split())[:_MAX_REASON_CHARS] or type(chain[-1]).__name__
    number = chain[-1].errno if isinstance(chain[-1], OSError) else None
    if number in _OF_THIS_PROCESS or text.startswith(_NOT_DAMAGE):
        raise UserError(
            f"cannot read a checkpoint: {text}; check permissions, the network, and the limit on "
            "open files (`ulimit -n`)."
        )
    return text.rstrip(".")
