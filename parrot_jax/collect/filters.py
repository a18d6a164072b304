"""What an export leaves out: a dialogue ends before the first question that should not be in it.

These filters look at many dialogues, or ask somebody, so they come after the collection: what
they say may depend on the order of the dialogues, but never on the order of the replies.
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
    """Questions that were asked before in another dialogue.

    Raises:
      UserError: A number is outside its range.
    """

    threshold: float | None = 0.9
    """Share of common word pairs (Jaccard, by MinHash) from which a question is a repeated one, in
    (0, 1]. Null = it may be."""

    fewest_words: int = 8
    """Shorter questions ("Can you give an example?") may be repeated; >= 1."""

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
    """The question that is left out, with all behind it; from 0."""
    reason: str


class Kept(NamedTuple):
    """A dialogue after the filters."""

    number: int
    whole: Dialogue
    """As it was collected."""
    dialogue: Dialogue | None
    """What is left of it; None = no collected turn is."""
    cut: Cut | None
    """None = all of it is left."""


Filter = Callable[[int, Dialogue, int], Cut | None]
"""From number, dialogue and the number of its beginning's turns to the first cut."""


DialogueFilter = Callable[[Dialogue], str | None]
"""A filter of one's own: why a dialogue is left out, whole; None = it is not."""


def leaves_out(why: DialogueFilter) -> Filter:
    """A filter of one's own as one of these.

    >>> short = leaves_out(lambda dialogue: "too short" if dialogue.num_rounds < 3 else None)
    >>> short(0, Dialogue(turns=(Turn("user", "Hi"), Turn("assistant", "Hello"))), 0)
    Cut(turn=0, reason='too short')
    """

    def cut(number: int, dialogue: Dialogue, num_begun: int) -> Cut | None:
        reason = why(dialogue)
        return Cut(0, reason) if reason else None

    return cut


class RepeatedElsewhere:
    """A filter against questions that a dialogue of a smaller number has asked already.

    Only what is left of those is remembered. It holds about 3 KB for each question.
    """

    REASON = "repeated_elsewhere"

    def __init__(self, config: RepeatsConfig, threshold: float, *, seed: int) -> None:
        """Has seen nothing yet."""
        self._fewest_words = config.fewest_words
        shingles = NearDuplicatesConfig(threshold=threshold, shingle_words=2, num_permutations=64)
        self._seen = NearTexts(shingles, seed=seed)

    def __call__(self, number: int, dialogue: Dialogue, num_begun: int) -> Cut | None:
        """Where to cut, if anywhere. Questions of the beginning are nobody's repeats."""
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
        # Now only: that it repeats itself, the collection has seen to.
        for sketch in sketches:
            self._seen.remember(sketch)
        return found


def apply_filters(
    dialogues: Iterable[JournaledDialogue], filters: Sequence[Filter]
) -> Iterator[Kept]:
    """Cuts dialogues; each filter sees what the ones before it have left.

    Args:
      dialogues: Finished ones, with a collected turn, by number.
      filters: In their order.
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
            # In front of the question, so that it ends with an answer.
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
