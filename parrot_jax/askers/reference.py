"""People's dialogues, and the places in them where an asker is asked for a question.

At each place the asker sees people's own dialogue so far, so its question can be compared with the
one that the person asked there. After a last answer people asked nothing: there, an asker should
end the dialogue.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from parrot_jax.core.errors import UserError
from parrot_jax.dialogue.draw import draw
from parrot_jax.dialogue.language import language_of
from parrot_jax.dialogue.report import ReadReport
from parrot_jax.dialogue.sources import SourceConfig, read_sources
from parrot_jax.dialogue.types import Dialogue


class Place(NamedTuple):
    """Where a question is asked."""

    dialogue: int
    """Index in the reference."""
    turn: int
    """Number of the question, from 1."""


class Said(NamedTuple):
    """What somebody said at a place."""

    place: Place
    text: str | None
    """The question; None = nothing was asked."""
    ended: bool = False
    """Whether the dialogue was ended instead."""
    reason: str = ""
    """Why there is neither a question nor an end."""
    is_cut: bool = False
    """Whether the question reached the token limit."""


@dataclass(frozen=True)
class Reference:
    """People's dialogues."""

    dialogues: Sequence[Dialogue]
    languages: Sequence[str | None]
    """Of each dialogue's questions, as ISO 639-1 codes; None = too short to tell."""
    max_turns: int
    """Later questions are not compared."""
    left_out: Counter[str] = field(default_factory=Counter)
    """Dialogues that are not compared, by reason."""
    report: ReadReport = field(default_factory=ReadReport)

    def places(self, *, first_turn: bool) -> Iterator[Place]:
        """The places of all dialogues, the end included.

        Args:
          first_turn: Whether the first question is one of them.
        """
        for number, dialogue in enumerate(self.dialogues):
            last = len(dialogue.turns) // 2 + 1  # behind the last answer
            for turn in range(1 if first_turn else 2, min(last, self.max_turns) + 1):
                yield Place(number, turn)

    def said(self, *, first_turn: bool) -> list[Said]:
        """What people said at the places."""
        return [
            Said(place, text, ended=text is None)
            for place in self.places(first_turn=first_turn)
            for text in [self.question(place)]
        ]

    def question(self, place: Place) -> str | None:
        """The question that the person asked; None = there the dialogue ended."""
        questions = self.dialogues[place.dialogue].questions()
        return questions[place.turn - 1] if place.turn <= len(questions) else None

    def intent(self, dialogue: int) -> str:
        """What the user wants: the row's `intent`, else the first question."""
        found = self.dialogues[dialogue].metadata.get("intent") or ""
        return found if found.strip() else self.questions_of(dialogue)[0]

    def questions_of(self, dialogue: int) -> list[str]:
        """All questions of a dialogue."""
        return self.dialogues[dialogue].questions()


def read_reference(
    source: SourceConfig, *, sample: int | None, max_turns: int, seed: int
) -> Reference:
    """Reads the dialogues and draws some of them.

    A dialogue without an answer has no place and is left out, and so is a second one with the same
    turns, and one whose `intent` is not a text.

    Args:
      source: The file.
      sample: Dialogues to draw, >= 1; None or more than there are = all.
      max_turns: Questions of a dialogue to compare, >= 2.
      seed: Seed of the draw.

    Raises:
      UserError: The file is invalid, or fewer than two dialogues are usable.
    """
    report, left_out = ReadReport(), Counter[str]()
    usable: dict[bytes, Dialogue] = {}
    for dialogue in read_sources([source], seed=seed, report=report):
        key = replace(dialogue, rejected=None).content_hash()  # of a pair, the preferred answer
        if len(dialogue.turns) < 2:
            left_out["without an answer"] += 1
        elif not isinstance(dialogue.metadata.get("intent"), str | None):
            left_out["`intent` is not a text"] += 1
        elif key in usable:
            left_out["twice"] += 1
        else:
            usable[key] = dialogue
    if len(usable) < 2:
        raise UserError(
            f"{source.path} has {len(usable)} dialogues with an answer; a card needs at least 2."
        )
    count = min(sample or len(usable), len(usable))
    drawn = draw(usable.values(), count, seed=seed, where=source.path)
    if len(usable) > count:
        left_out["not in the sample"] = len(usable) - count
    language = language_of()
    found = [language("\n".join(dialogue.questions())[:1600]) for dialogue in drawn]
    return Reference(
        drawn, [pair[0] if pair else None for pair in found], max_turns, left_out, report
    )
