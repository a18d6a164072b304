"""Parses a dialogue that a writer wrote in one reply; anything else is rejected."""

import re
from typing import NamedTuple

from parrot_jax.dialogue.reasoning import split_reasoning
from parrot_jax.dialogue.types import Role, Turn

_MARK = re.compile(r"^\[\|(Human|AI)\|\]", re.M)
_ROLES: dict[str, Role] = {"Human": "user", "AI": "assistant"}


class Transcript(NamedTuple):
    """A parsed dialogue."""

    turns: tuple[Turn, ...]
    reasoning: int
    """Number of pieces of reasoning, before the dialogue and in its turns."""


def parse_transcript(text: str, *, keeps_reasoning: bool = False) -> Transcript:
    r"""Parses `[|Human|]` and `[|AI|]` paragraphs, the format of Baize, into turns.

    An unanswered question at the end is dropped: Baize's format ends with an empty or open turn of
    the human.

    Args:
      text: The writer's reply.
      keeps_reasoning: Whether to keep reasoning in turns; reasoning before the first turn is always
        removed.

    Raises:
      ValueError: There is text before the first mark, a speaker speaks twice in a row or has an
        empty turn, the human is not first, or no question is answered.

    >>> text = "<think>Short.</think>\n[|Human|] Hi\n[|AI|] Hello.\n[|Human|]"
    >>> [turn.text for turn in parse_transcript(text).turns]
    ['Hi', 'Hello.']
    """
    # Drafts in the reasoning have marks too; a closing mark inside a turn belongs to that turn.
    whole = split_reasoning(text.strip(), closing_mark_alone=False)
    before, *pieces = _MARK.split(whole.text)
    opening = split_reasoning(before)
    if opening.text.strip() or not pieces:
        raise ValueError("it does not begin with [|Human|]")
    num_reasoning = bool(whole.reasoning) + bool(opening.reasoning)
    turns: list[Turn] = []
    for number, (mark, said) in enumerate(zip(pieces[::2], pieces[1::2], strict=True)):
        if mark != ("Human", "AI")[number % 2]:
            raise ValueError(f"turn {number + 1} is by [|{mark}|], twice in a row")
        read = split_reasoning(said)
        num_reasoning += bool(read.reasoning)
        said = (said if keeps_reasoning else read.text).strip()
        if not said and number < len(pieces) // 2 - 1:
            raise ValueError(f"turn {number + 1} is empty")
        if said:
            turns.append(Turn(_ROLES[mark], said))
    if len(turns) % 2:
        turns.pop()
    if not turns:
        raise ValueError("no question is answered")
    return Transcript(tuple(turns), num_reasoning)
