"""Rejects rows that have parts of the dialogue outside of the turns that were read.

A reader takes the turns from the keys of its format. An answer, a history or an image elsewhere
would be lost, and the rest would be trained on as if it were the whole dialogue.
"""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from parrot_jax.dialogue.keys import plain_key
from parrot_jax.dialogue.raw_rows import BrokenRowError
from parrot_jax.dialogue.types import Turn

ANSWERS = frozenset(
    (
        *("response", "responses", "completion", "completions", "choices", "output", "outputs"),
        *("reply", "assistant", "bot"),
    )
)
"""Keys of an assistant's text. `answer`, `target` and `solution` may be only a reference."""
_LISTS = frozenset(
    (
        *("history", "messages", "conversation", "conversations", "dialogue", "dialog", "chat"),
        "turns",
    )
)
_TEXTS = frozenset(
    (
        *("content", "value", "text", "message", "utterance", "instruction", "prompt", "question"),
        *("query", "human", "user", "answer", *ANSWERS),
    )
)
_CODE = re.compile(r"```.*?(?:```|\Z)|`[^`\n]+`", re.S)
_MEDIA = re.compile(
    r"<(image|video|audio)>(?!\s*(?:tag|element|or |and )s?)|<(?:image|video|audio)_?placeholder>"
    r"|<\|(?:image|video|audio|image_pad|video_pad|vision_start)\|>|<(?:ImageHere|VideoHere)>"
)


def repeated_keys(row: Mapping[str, Any], read: Collection[str], turns: Sequence[Turn]) -> set[str]:
    """The keys of answers and lists of turns that only repeat turns that were read.

    Args:
      row: The row.
      read: The keys that the turns were read from.
      turns: The turns of the dialogue, not empty.

    Raises:
      BrokenRowError: Such a key has more than the dialogue; the reason names it.
    """
    repeated = set[str]()
    for key, value in row.items():
        name = plain_key(key)
        if key in read or name not in ANSWERS | _LISTS:
            continue
        texts = {text.strip() for text in _texts(value)} - {""}
        if not texts:
            continue
        if name in _LISTS:
            if not texts <= {turn.text.strip() for turn in turns}:
                raise BrokenRowError(
                    f"{key!r} has turns that are not in the dialogue", _names(read)
                )
        elif turns[-1].role == "user" or not texts <= {
            turn.text.strip() for turn in turns if turn.role == "assistant"
        }:
            raise BrokenRowError(f"{key!r} has an answer that is not in the dialogue", _names(read))
        repeated.add(key)
    return repeated


def refuse_media(turns: Sequence[Turn]) -> None:
    """Rejects turns with a placeholder such as `<image>`.

    Placeholders in code, closed HTML elements, and names of tags in a sentence are allowed.

    Raises:
      BrokenRowError: There is such a placeholder.
    """
    for number, turn in enumerate(turns, start=1):
        for match in _MEDIA.finditer(_CODE.sub("", turn.text)) if "<" in turn.text else ():
            if match[1] is None or f"</{match[1]}>" not in turn.text:
                reason = f"the text has the mark {match[0]!r}, so part of it is not text"
                raise BrokenRowError(reason, f"turn {number}")


def _names(read: Collection[str]) -> str:
    return f"it was read from {', '.join(map(repr, sorted(read)))}"


def _texts(value: Any) -> Iterator[str]:
    """All texts in a value: a text, or a list of messages, pairs or choices."""
    left = [value]
    while left:
        found = left.pop()
        if isinstance(found, str):
            yield found
        elif isinstance(found, list):
            left += found
        elif isinstance(found, Mapping):
            left += [inner for key, inner in found.items() if plain_key(key) in _TEXTS]
