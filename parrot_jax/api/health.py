"""Decides from this run's replies whether an endpoint works, and whether to stop the run.

A rejection (HTTP 400, 422, ...) has one of two causes: the settings, so that no request will be
accepted, or that one request. Only later replies can tell, so a rejected request is held. If
another request then gets a reply, the settings are fine, and the held requests themselves are the
cause. After several rejections without a reply, the run stops, and the items of the held requests
stay open for the next run.
"""

import re
from dataclasses import dataclass

from parrot_jax.api.journal import End
from parrot_jax.core.logs import visible

MAX_FAILURES_IN_A_ROW = 3
"""Failed requests in a row that stop the run."""

MAX_REJECTIONS_AT_FIRST = 3
"""Equal rejections that stop a run before the endpoint's first reply."""

MAX_REJECTIONS_IN_A_ROW = 20
"""Rejections that stop a run after the first reply. More, because several bad requests may be in
flight together, and rejections cost nothing."""

MAX_USELESS_AT_FIRST = 20
"""Useless replies that stop a run before the endpoint's first useful one. They may be billed."""

# Ids, lengths and values of the request, which server messages repeat.
_VARYING = re.compile(r"\w*\d\w*")


@dataclass(frozen=True, slots=True)
class Rejected:
    """A request that the endpoint rejected."""

    item: int
    """The number of its item; requests of one item may share a fault, so they count once."""
    end: End
    """How the item ends if the request itself is at fault."""
    error: str
    """The endpoint's message."""


class Health:
    """Counts the results of requests to one endpoint.

    Attributes:
      has_replied: Whether it replied to a request in this run.
      failures: Number of requests that failed after all retries.
      last_error: The endpoint's message at the last failure or rejection.
    """

    def __init__(self) -> None:
        """Starts with no results."""
        self.has_replied = False
        self.failures = 0
        self._useless_at_first: int | None = 0  # None after a useful reply
        self.last_error = ""
        self._failures_in_a_row = 0
        self._held: list[Rejected] = []

    def replied(self) -> list[Rejected]:
        """Notes a reply; returns the held requests, now known to be at fault themselves."""
        self.has_replied = True
        self._failures_in_a_row = 0
        held, self._held = self._held, []
        return held

    def was_useful(self) -> None:
        """Notes a useful reply, in this run or before."""
        self._useless_at_first = None

    def was_useless(self, why: str) -> bool:
        """Notes a useless reply; returns whether the run must stop.

        The cause may be settings that no server rejects: a token limit that cuts each reply, a
        model that only reasons, a filter that blocks everything.
        """
        if self._useless_at_first is None:
            return False
        self._useless_at_first += 1
        if is_enough := self.num_useless > 0:
            self.last_error = visible(why)
        return is_enough

    def failed(self, error: str) -> bool:
        """Notes a request that failed after all retries; returns whether the run must stop."""
        self.failures += 1
        self._failures_in_a_row += 1
        self.last_error = visible(error)
        return self._failures_in_a_row >= MAX_FAILURES_IN_A_ROW

    def rejected(self, item: int, end: End, error: str) -> bool:
        """Holds a rejected request; returns whether the run must stop.

        >>> health, end = Health(), End("error")
        >>> [health.rejected(n, end, f"HTTP 422: no seed, got {n}") for n in range(3)]
        [False, False, True]
        """
        self.last_error = visible(error)
        self._held.append(Rejected(item, end, error))
        equal = {held.item for held in self._held if _kind(held.error) == _kind(error)}
        is_enough = not self.has_replied and len(equal) >= MAX_REJECTIONS_AT_FIRST
        return is_enough or self.num_held >= MAX_REJECTIONS_IN_A_ROW

    def settle(self) -> list[Rejected]:
        """Decides about the held rejections at the end of a run.

        Returns:
          The held requests if they are at fault themselves. Empty if the endpoint may be at fault,
          because there are too many or it never replied.
        """
        if self.has_replied and self.num_held < MAX_REJECTIONS_AT_FIRST:
            return self.replied()
        return []

    @property
    def num_useless(self) -> int:
        """Number of useless replies if they must stop the run; else 0."""
        found = self._useless_at_first or 0
        return found if found >= MAX_USELESS_AT_FIRST else 0

    @property
    def num_held(self) -> int:
        """Number of items with a held rejection."""
        return len({held.item for held in self._held})


def _kind(error: str) -> str:
    return _VARYING.sub("#", error)
