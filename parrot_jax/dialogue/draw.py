"""Samples dialogues by their text and a seed: a larger sample contains the smaller one."""

import hashlib
import heapq
from collections.abc import Iterable

from parrot_jax.core.errors import UserError
from parrot_jax.dialogue.types import Dialogue


def draw(dialogues: Iterable[Dialogue], count: int, *, seed: int, where: str) -> list[Dialogue]:
    """Draws dialogues without replacement.

    Dialogues are ordered by a hash of the seed and their text, and the first ones are drawn. So the
    order of the files does not matter, and growing a sample never deselects a chosen dialogue. Only
    the drawn ones are in memory.

    Args:
      dialogues: The candidates.
      count: Number of dialogues to draw, >= 1.
      seed: Seed of the order.
      where: The source's name for errors.

    Raises:
      UserError: There are fewer dialogues.
    """
    keyed = ((_place(seed, dialogue), dialogue) for dialogue in dialogues)
    drawn = heapq.nsmallest(count, keyed, key=lambda pair: pair[0])
    if len(drawn) < count:
        raise UserError(
            f"{where}: sample is {count:,}, but only {len(drawn):,} dialogues are usable; "
            "lower sample, or give more files."
        )
    return [dialogue for _, dialogue in drawn]


def _place(seed: int, dialogue: Dialogue) -> bytes:
    # The id comes last: dialogues with the same text stay distinct, in a fixed order.
    digest = hashlib.sha256(f"sample {seed} ".encode() + dialogue.content_hash())
    return digest.digest() + dialogue.id.encode()
