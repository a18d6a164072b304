"""Whether an endpoint takes what it is sent, told from what came back in this run.

A rejection (HTTP 400, 422, ...) has one of two causes: the settings, so that no request will be
taken, or that one request. Only the next replies tell. So a rejected request is held until then:
after a reply it was the request's own fault; after some equal rejections without a reply in between
the run has to stop, and whatever is held stays open.
"""

import re
from dataclasses import dataclass

from parrot_jax.api.journal import End
from parrot_jax.core.logs import visible

MAX_FAILURES_IN_A_ROW = 3
"""Requests that an endpoint may fail, with no reply in between, before the run stops."""

MAX_REJECTIONS_AT_FIRST = 3
"""Equal rejections that stop a run in which the endpoint has not replied yet."""

MAX_REJECTIONS_IN_A_ROW = 20
"""Rejections that stop a run otherwise: of hundreds in flight a few may be bad at once by chance.
Rejections cost nothing."""

MAX_USELESS_AT_FIRST = 20
"""Replies of no use, with no better one before, that stop the run. They may cost something."""

# Servers repeat ids, lengths and values of the request in their sentence.
_VARYING = re.compile(r"\w*\d\w*")


@dataclass(frozen=True, slots=True)
class Rejected:
    """A request that the endpoint does not accept."""

    item: int
    """Its number: several requests about one item may share its fault."""
    end: End
    """How the item ends if the request itself is at fault."""
    error: str
    """What the endpoint said."""


class Health:
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
        self._held: list[Rejected] = []

    def replied(self) -> list[Rejected]:
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

    def rejected(self, item: int, end: End, error: str) -> bool:
        """Holds a rejected request; whether the run has to stop.

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
        """Items with a rejected request of which nobody knows whose fault it was."""
        return len({held.item for held in self._held})


def _kind(error: str) -> str:
    return _VARYING.sub("#", error)
