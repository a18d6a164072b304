"""Prints the failures of an endpoint while its requests are retried."""

import time

from parrot_jax.api.replies import Response
from parrot_jax.core.logs import console, visible

FIRST_GAP_S = 60.0
"""Seconds before the same kind of failure is printed again; doubled each time."""


class Notices:
    """Prints the first failure of each kind at once, and later ones at growing intervals."""

    def __init__(self, who: str) -> None:
        """Starts with no failures.

        Args:
          who: The endpoint, e.g. `the asker at http://127.0.0.1:8000/v1`.
        """
        self._who = who
        self._gaps: dict[int | None, tuple[float, float]] = {}
        """By status: the next time to print, and the gap after that."""

    def failed(self, response: Response, what_next: str) -> None:
        """Notes a failure that is retried.

        Args:
          response: The failed response; failures with the same status are of the same kind.
          what_next: The action, e.g. `trying again`.
        """
        now = time.monotonic()
        again_at, gap_s = self._gaps.get(response.status, (now, FIRST_GAP_S))
        if now < again_at:
            return
        self._gaps[response.status] = now + gap_s, 2 * gap_s
        console.print(f"{self._who}: {visible(response.error or 'no reply')}; {what_next}")
