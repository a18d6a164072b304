"""Samples of dialogues that their text and a seed decide: a larger one contains the smaller one."""

import hashlib
import heapq
from collections.abc import Iterable

from parrot_jax.core.errors import UserError
from parrot_jax.dialogue.types import Dialogue


def draw(dialogues: Iterable[Dialogue], count: int, *, seed: int, where: str) -> list[Dialogue]:
    """Draws dialogues without replacement.

    Each has a place in a random order that the seed and what is said in it decide, and the first of
    that order are drawn: the order of the files does not matter, and a sample can grow without
    choosing anew. The drawn ones alone are in memory.

    Args:
      dialogues: What there is.
      count: How many are drawn, >= 1.
      seed: Decides the order.
      where: Names the source in an error.

    Raises:
      UserError: There are fewer.
    """
    keyed = ((_place(seed, dialogue), dialogue) for dialogue in dialogues)
    drawn = heapq.nsmallest(count, keyed, key=lambda pair: pair[0])
    if len(drawn) < count:
        raise UserError(
            f"{where}: {count:,} were to be drawn, but there are only {len(drawn):,} that fit; "
            "lower sample, or give more files."
        )
    return [dialogue for _, dialogue in drawn]


def _place(seed: int, dialogue: Dialogue) -> bytes:
    # The id last: two dialogues with one text keep their order, and both stay.
    digest = hashlib.sha256(f"sample {seed} ".encode() + dialogue.content_hash())
    return digest.digest() + dialogue.id.encode()
