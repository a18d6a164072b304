"""Whether an endpoint takes what it is sent, told from what came back in this run.

A rejection (HTTP 400, 422, ...) has one of two causes: the settings, so that no request will be
taken, or that one request. Only the next replies tell. So a rejected request is held until then:
after a reply it was the request's own fault; after some equal rejections without a reply in between
the run has to stop, and whatever is held stays open.
"""

import asyncio
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from parrot_jax.core.logs import visible

GRACE_S = 30
"""Seconds that replies in flight have when a run stops."""

MAX_FAILURES_IN_A_ROW = 3
"""Requests that an endpoint may fail, with no reply in between, before the run stops."""

MAX_REJECTIONS_AT_FIRST = 3
"""Equal rejections that stop a run in which the endpoint has not replied yet."""

MAX_REJECTIONS_IN_A_ROW = 20
"""Rejections that stop a run otherwise: of hundreds in flight a few may be bad at once by chance.
Rejections cost nothing."""

MAX_USELESS_AT_FIRST = 20
"""Replies of no use, with no better one before, that stop the run. They may cost something."""

Item = TypeVar("Item")

# Servers repeat ids, lengths and values of the request in their sentence.
_VARYING = re.compile(r"\w*\d\w*")


@dataclass(frozen=True, slots=True)
class Rejected(Generic[Item]):
    """A request that the endpoint does not take."""

    number: int
    """Of the dialogue that it is about: several requests about one may share its fault."""
    item: Item
    """What it was for."""
    error: str
    """What the endpoint said."""


class Health(Generic[Item]):
    """What came of the requests to one endpoint.

    Attributes:
      has_replied: Whether it took a request in this run.
      failures: How many requests failed for good.
      last_error: What the endpoint said the last time that it failed or rejected.
    """

    def __init__(self) -> None:
        """Knows nothing yet."""
        self.has_replied = False
        self.failures = 0
        self._useless_at_first: int | None = 0  # None = something was of use
        self.last_error = ""
        self._failures_in_a_row = 0
        self._held: list[Rejected[Item]] = []

    def replied(self) -> list[Rejected[Item]]:
        """Notes a reply; gives the rejections that are now known to be the requests' own fault."""
        self.has_replied = True
        self._failures_in_a_row = 0
        held, self._held = self._held, []
        return held

    def was_useful(self) -> None:
        """Notes a useful reply, in this run or before."""
        self._useless_at_first = None

    def was_useless(self, why: str) -> bool:
        """Notes a reply that nobody can use; whether the run has to stop.

        Settings can be the cause that no server complains of: a limit of tokens that cuts each
        reply, a model that thinks and says nothing, a filter that holds everything back.
        """
        if self._useless_at_first is None:
            return False
        self._useless_at_first += 1
        if is_enough := self.num_useless > 0:
            self.last_error = visible(why)
        return is_enough

    def failed(self, error: str) -> bool:
        """Notes a request that failed for good; whether the run has to stop."""
        self.failures += 1
        self._failures_in_a_row += 1
        self.last_error = visible(error)
        return self._failures_in_a_row >= MAX_FAILURES_IN_A_ROW

    def rejected(self, number: int, item: Item, error: str) -> bool:
        """Holds a rejected request; whether the run has to stop.

        >>> health = Health[None]()
        >>> [health.rejected(n, None, f"HTTP 422: no seed, got {n}") for n in range(3)]
        [False, False, True]
        """
        self.last_error = visible(error)
        self._held.append(Rejected(number, item, error))
        equal = {held.number for held in self._held if _kind(held.error) == _kind(error)}
        is_enough = not self.has_replied and len(equal) >= MAX_REJECTIONS_AT_FIRST
        return is_enough or self.num_held >= MAX_REJECTIONS_IN_A_ROW

    def settle(self) -> list[Rejected[Item]]:
        """Ends a run that came to its end: the last few rejections are the requests' own fault.

        Returns:
          Those; none where they are so many, or the endpoint so silent, that it may be at fault.
        """
        if self.has_replied and self.num_held < MAX_REJECTIONS_AT_FIRST:
            return self.replied()
        return []

    @property
    def num_useless(self) -> int:
        """Replies of no use, where they are so many that the run has to stop; else 0."""
        found = self._useless_at_first or 0
        return found if found >= MAX_USELESS_AT_FIRST else 0

    @property
    def num_held(self) -> int:
        """Dialogues with a rejected request of which nobody knows whose fault it was."""
        return len({held.number for held in self._held})


async def first_of(task: asyncio.Task[None], event: asyncio.Event) -> None:
    """Waits until the task is done or the event is set."""
    waiting = asyncio.create_task(event.wait())
    try:
        await asyncio.wait({task, waiting}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        waiting.cancel()


async def wind_down(workers: Sequence[asyncio.Task[None]]) -> None:
    """Waits for what is in flight, `GRACE_S` at most: it is paid for. Then all workers are done."""
    if waiting := [worker for worker in workers if not worker.done()]:
        try:
            await asyncio.wait(waiting, timeout=GRACE_S)
        finally:
            for worker in waiting:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)


def raise_first(workers: Sequence[asyncio.Task[None]]) -> None:
    """Raises what ended the first worker that failed; all are done.

    The others are asked as well: asyncio prints what nobody asks for.
    """
    ended = [worker.exception() for worker in workers if not worker.cancelled()]
    for error in ended:
        if error is not None:
            raise error


def _kind(error: str) -> str:
    return _VARYING.sub("#", error)
