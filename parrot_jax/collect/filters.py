"""Filters of an export: a dialogue is cut before its first unwanted question.

These filters compare dialogues, or call an endpoint, so they run at export. Their results may
depend on the order of the dialogues, but never on the order of the replies.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, NamedTuple

from parrot_jax.collect.export import collected_dialogue
from parrot_jax.collect.folder import JournaledDialogue
from parrot_jax.core.errors import UserError
from parrot_jax.dialogue.dedup import NearDuplicatesConfig, NearTexts
from parrot_jax.dialogue.types import Dialogue, Turn
from parrot_jax.dialogue.words import normal_words


@dataclass(frozen=True, kw_only=True)
class RepeatsConfig:
    """Filter for questions that another dialogue has already asked.

    Raises:
      UserError: A number is outside its range.
    """

    threshold: float | None = 0.9
    """Jaccard similarity of word pairs (by MinHash) from which a question counts as repeated, in
    (0, 1]. Null = off."""

    fewest_words: int = 8
    """Questions with fewer words ("Can you give an example?") may repeat; >= 1."""

    def __post_init__(self) -> None:
        if self.threshold is not None and not 0 < self.threshold <= 1:
            raise UserError(
                f"repeats.threshold is {self.threshold}; it must be in (0, 1], or null."
            )
        if self.fewest_words < 1:
            raise UserError(f"repeats.fewest_words is {self.fewest_words}; it must be at least 1.")


class Cut(NamedTuple):
    """Where a dialogue is cut, and why."""

    turn: int
    """Index of the first removed question, from 0; everything after it is removed too."""
    reason: str


class Kept(NamedTuple):
    """A dialogue after the filters."""

    number: int
    whole: Dialogue
    """As it was collected."""
    dialogue: Dialogue | None
    """What is left; None if no collected turn is."""
    cut: Cut | None
    """None if nothing was cut."""


Filter = Callable[[int, Dialogue, int], Cut | None]
"""Takes the dialogue's number, the dialogue and the number of messages of its beginning; returns
the first cut."""


DialogueFilter = Callable[[Dialogue], str | None]
"""A custom filter: returns why a whole dialogue is left out, or None."""


def leaves_out(why: DialogueFilter) -> Filter:
    """Converts a custom filter to a `Filter`.

    >>> short = leaves_out(lambda dialogue: "too short" if dialogue.num_rounds < 3 else None)
    >>> short(0, Dialogue(turns=(Turn("user", "Hi"), Turn("assistant", "Hello"))), 0)
    Cut(turn=0, reason='too short')
    """

    def cut(number: int, dialogue: Dialogue, num_begun: int) -> Cut | None:
        reason = why(dialogue)
        if reason is not None and not isinstance(reason, str):
            name = getattr(why, "__name__", repr(why))
            raise UserError(f"the filter {name} returned {reason!r}; return a reason, or None.")
        return Cut(0, reason) if reason else None

    return cut


class RepeatedElsewhere:
    """Cuts questions that a dialogue with a smaller number has already asked.

    Questions that were cut are not remembered. Needs about 3 KB per question.
    """

    REASON = "repeated_elsewhere"

    def __init__(self, config: RepeatsConfig, threshold: float, *, seed: int) -> None:
        """Starts with no questions."""
        self._fewest_words = config.fewest_words
        shingles = NearDuplicatesConfig(threshold=threshold, shingle_words=2, num_permutations=64)
        self._seen = NearTexts(shingles, seed=seed)

    def __call__(self, number: int, dialogue: Dialogue, num_begun: int) -> Cut | None:
        """Returns where to cut, if anywhere. Questions of the beginning are never cut."""
        sketches = []
        found = None
        for turn, text in _questions(dialogue):
            if len(normal_words(text)) < self._fewest_words:
                continue
            sketch = self._seen.sketch(text)
            if turn >= num_begun and self._seen.is_known(sketch):
                found = Cut(turn, self.REASON)
                break
            sketches.append(sketch)
        # Added last; repeats within a dialogue were handled at collection.
        for sketch in sketches:
            self._seen.remember(sketch)
        return found


def apply_filters(
    dialogues: Iterable[JournaledDialogue], filters: Sequence[Filter]
) -> Iterator[Kept]:
    """Cuts dialogues; each filter sees the output of the one before it.

    Args:
      dialogues: Finished dialogues with a collected turn, in order of their numbers.
      filters: Applied in this order.
    """
    for journaled in dialogues:
        number, num_begun = journaled.number, len(journaled.beginning.turns)
        whole = collected_dialogue(journaled)
        left, cut = whole, None
        for cut_of in filters:
            found = cut_of(number, left, num_begun)
            if found is None:
                continue
            cut = found
            # Before the question, so that the dialogue ends with an answer.
            turns = left.turns[: found.turn // 2 * 2]
            if len(turns) // 2 <= num_begun // 2:
                left = None
                break
            left = replace(left, turns=turns, metadata=_metadata(left, turns, num_begun, cut))
        yield Kept(number, whole, left, cut)


def _metadata(
    dialogue: Dialogue, turns: Sequence[Turn], num_begun: int, cut: Cut
) -> Mapping[str, Any]:
    about = {
        **dialogue.metadata["collection"],
        "collected_turns": len(turns) // 2 - num_begun // 2,
        "cut": cut.reason,
    }
    return MappingProxyType({**dialogue.metadata, "collection": about})


def _questions(dialogue: Dialogue) -> Iterator[tuple[int, str]]:
    return ((n, turn.text) for n, turn in enumerate(dialogue.turns) if turn.role == "user")
