"""What is judged: a dialogue up to a marked question or answer, blind and shuffled by a seed."""

import hashlib
import heapq
import json
from collections.abc import Iterable
from typing import Any, NamedTuple

from parrot_jax.core.errors import UserError


class Round(NamedTuple):
    """A question and the answers to it that are shown."""

    question: str
    answers: tuple[str, ...] = ()
    """None for a marked question; two, left and right, to compare."""


class Item(NamedTuple):
    """One thing to judge. The page shows `system` and `rounds`, and nothing else of it."""

    sources: tuple[str, ...]
    """The label of the file or the model; of the left and the right one to compare."""
    dialogue: str
    """The id of the benchmark's question, or of the dialogue with a hash of its content."""
    turn: int
    """From 1."""
    rounds: tuple[Round, ...]
    """The last one has what is marked."""
    system: str = ""

    def content(self) -> str:
        """What is shown, as JSON."""
        return json.dumps([self.system, self.rounds], ensure_ascii=False)

    @classmethod
    def parse(cls, sources: str, dialogue: str, turn: int, content: str) -> "Item":
        """The item in a row of the file.

        Raises:
          ValueError: It is damaged.
        """
        try:
            system, rounds = json.loads(content)
            shown = tuple(Round(str(question), tuple(answers)) for question, answers in rounds)
            return cls(tuple(json.loads(sources)), dialogue, turn, shown, str(system))
        except TypeError as error:
            raise ValueError(str(error)) from None


class Candidate(NamedTuple):
    """An item that may be drawn."""

    group: str
    """Its dialogue. All items of a dialogue are drawn before those of the next one."""
    item: Item


class Drawn(NamedTuple):
    """The items of one source, and what to tell about them."""

    label: str
    items: list[Item]
    notes: tuple[str, ...]


def chance(seed: int, *parts: Any) -> bytes:
    """A hash of a seed and texts or numbers: equal arguments give an equal place in any order."""
    return hashlib.sha256(json.dumps([seed, *parts]).encode()).digest()


def draw_items(candidates: Iterable[Candidate], count: int | None, *, seed: int) -> list[Item]:
    """Draws items of one source; only the drawn ones are in memory.

    Args:
      candidates: Of each dialogue as many as may be drawn, in their order.
      count: The number of items; None = all. Fewer are returned if there are not as many.
      seed: The order of dialogues depends on it and on `group`; a larger draw contains the smaller.
    """
    keyed = (
        (chance(seed, "draw", one.group), number, one.item) for number, one in enumerate(candidates)
    )
    drawn = sorted(keyed) if count is None else heapq.nsmallest(count, keyed)
    return [item for _, _, item in drawn]


def check_count(path: str, items: list[Item], count: int | None, noun: str) -> None:
    """Checks how many items were drawn.

    Raises:
      UserError: None, or fewer than `count`.
    """
    if not items or len(items) < (count or 0):
        asked = "" if count is None else f", and --questions is {count:,}"
        raise UserError(
            f"{path} has {len(items):,} {noun} to draw{asked}; give more dialogues, a lower "
            "--questions or a higher --per-dialogue."
        )


def shuffled(items: Iterable[Item], *, seed: int) -> list[Item]:
    """The items in the order in which everybody sees them.

    It is a function of the seed and the items, not of the order of the files.
    """
    return sorted(
        items,
        key=lambda item: chance(
            seed, "shuffle", item.content(), item.sources, item.dialogue, item.turn
        ),
    )
