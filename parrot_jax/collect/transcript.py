"""A dialogue that one model wrote in one reply, read strictly: what is not in its form is none."""

import re

from parrot_jax.dialogue.types import Role, Turn

_MARK = re.compile(r"^\[\|(Human|AI)\|\]", re.M)
_ROLES: dict[str, Role] = {"Human": "user", "AI": "assistant"}


def parse_transcript(text: str) -> tuple[Turn, ...]:
    r"""Reads `[|Human|]` and `[|AI|]` paragraphs, Baize's form, into turns.

    A question without an answer at the end is left out: Baize's form ends with an empty or open
    turn of the human.

    Raises:
      ValueError: There is text before the first mark, a speaker speaks twice in a row or says
        nothing, the human does not begin, or no question is answered.

    >>> [turn.text for turn in parse_transcript("[|Human|] Hi\n[|AI|] Hello.\n[|Human|]")]
    ['Hi', 'Hello.']
    """
    before, *pieces = _MARK.split(text.strip())
    if before.strip() or not pieces:
        raise ValueError("it does not begin with [|Human|]")
    turns: list[Turn] = []
    for number, (mark, said) in enumerate(zip(pieces[::2], pieces[1::2], strict=True)):
        if mark != ("Human", "AI")[number % 2]:
            raise ValueError(f"turn {number + 1} is by [|{mark}|], twice in a row")
        said = said.strip()
        if not said and number < len(pieces) // 2 - 1:
            raise ValueError(f"turn {number + 1} is empty")
        if said:
            turns.append(Turn(_ROLES[mark], said))
    if len(turns) % 2:
        turns.pop()
    if not turns:
        raise ValueError("no question is answered")
    return tuple(turns)
