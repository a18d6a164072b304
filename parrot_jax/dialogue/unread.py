"""What a row holds of its dialogue besides the turns that were read: it refuses the row.

A reader takes the turns from the keys that its format names. An answer, a history or a picture that
stands elsewhere would be lost, and the rest would be trained as if it were the whole dialogue.
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
"""Keys of what an assistant said. `answer`, `target` and `solution` may be only a reference."""
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
    """The keys of answers and lists of turns that only repeat what was read.

    Args:
      row: The row.
      read: The keys from which the turns were read.
      turns: The turns of the dialogue, not empty.

    Raises:
      BrokenRowError: Such a key holds more than the dialogue; the reason names it.
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
                raise BrokenRowError(f"{key!r} holds turns beside the dialogue", _names(read))
        elif turns[-1].role == "user" or not texts <= {
            turn.text.strip() for turn in turns if turn.role == "assistant"
        }:
            raise BrokenRowError(f"{key!r} holds an answer beside the dialogue", _names(read))
        repeated.add(key)
    return repeated


def refuse_media(turns: Sequence[Turn]) -> None:
    """Refuses turns with a mark such as `<image>`, for which something is shown to the model.

    A mark in code, an element of HTML that is closed, or the name of a tag in a sentence is a text
    about it.

    Raises:
      BrokenRowError: There is such a mark.
    """
    for number, turn in enumerate(turns, start=1):
        for match in _MEDIA.finditer(_CODE.sub("", turn.text)) if "<" in turn.text else ():
            if match[1] is None or f"</{match[1]}>" not in turn.text:
                reason = f"the text has the mark {match[0]!r}, so part of it is no text"
                raise BrokenRowError(reason, f"turn {number}")


def _names(read: Collection[str]) -> str:
    return f"which was read from {', '.join(map(repr, sorted(read)))}"


def _texts(value: Any) -> Iterator[str]:
    """Every text in a list of messages, of pairs or of choices, or the text that a value is."""
    left = [value]
    while left:
        found = left.pop()
        if isinstance(found, str):
            yield found
        elif isinstance(found, list):
            left += found
        elif isinstance(found, Mapping):
            left += [inner for key, inner in found.items() if plain_key(key) in _TEXTS]
