"""Which sessions of a file are judged: drawn by seed and content, while the file streams by."""

import hashlib
import heapq
from typing import NamedTuple

from parrot_jax.dialogue.types import Dialogue
from parrot_jax.stats.measures import questions_of


class Session(NamedTuple):
    """A session as the judge sees it."""

    questions: tuple[str, ...]


class SessionSample:
    """Keeps the sessions with the least hashes: a larger sample contains the smaller one.

    Neither the order of the file nor its other sessions decide on a session.
    """

    def __init__(self, size: int, *, seed: int) -> None:
        """Starts empty.

        Args:
          size: How many are kept at most, >= 1.
          seed: Which ones.
        """
        self._size, self._seed = size, seed
        self._kept: list[tuple[int, int, Session]] = []
        self.num_offered = 0

    def offer(self, dialogue: Dialogue) -> None:
        """Looks at the next session of the file."""
        self.num_offered += 1
        digest = hashlib.sha256(f"judge {self._seed} ".encode() + dialogue.content_hash()).digest()
        # The place decides between equal dialogues, so that sessions are never compared. A heap
        # has the least in front: of these numbers it is the greatest hash.
        entry = (-int.from_bytes(digest[:8], "big"), -self.num_offered)
        if len(self._kept) < self._size:
            heapq.heappush(self._kept, (*entry, Session(tuple(questions_of(dialogue)))))
        elif entry > self._kept[0][:2]:
            heapq.heapreplace(self._kept, (*entry, Session(tuple(questions_of(dialogue)))))

    def sessions(self) -> list[Session]:
        """Those that were drawn, in the order in which they were drawn."""
        return [session for *_, session in sorted(self._kept, reverse=True)]
