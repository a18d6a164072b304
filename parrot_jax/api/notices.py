"""Says what is wrong with an endpoint while requests to it are sent again."""

import time

from parrot_jax.api.replies import Response
from parrot_jax.core.logs import console, visible

FIRST_GAP_S = 60.0
"""Seconds before the same kind of problem is said again; twice as long after each time."""


class Notices:
    """Prints the first failure of each kind at once, and later ones ever more rarely."""

    def __init__(self, who: str) -> None:
        """Has said nothing yet.

        Args:
          who: The endpoint, e.g. `the asker at http://127.0.0.1:8000/v1`.
        """
        self._who = who
        self._gaps: dict[int | None, tuple[float, float]] = {}
        """By status: when it may be said again, and how long to wait after that."""

    def failed(self, response: Response, what_next: str) -> None:
        """Takes note of a failure that is not the end.

        Args:
          response: It failed; what has the same status is of the same kind.
          what_next: What is done about it, e.g. `trying again`.
        """
        now = time.monotonic()
        again_at, gap_s = self._gaps.get(response.status, (now, FIRST_GAP_S))
        if now < again_at:
            return
        self._gaps[response.status] = now + gap_s, 2 * gap_s
        console.print(f"{self._who}: {visible(response.error or 'no reply')}; {what_next}")
