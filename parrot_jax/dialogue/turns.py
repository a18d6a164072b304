"""From the messages of any format to the turns of a `Dialogue`: one set of rules for all readers.

What people mean by a broken dialogue differs little between formats: blank messages, one speaker
twice in a row, an answer before the first question. These are repaired and counted; what would
need a guess (an unknown speaker, an image) makes the row broken.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Literal

from parrot_jax.dialogue.json_stream import BrokenRowError
from parrot_jax.dialogue.types import Dialogue, Role, Turn

DROPPED_BLANK = "blank turn dropped"
MERGED_SPEAKER = "two turns of one speaker merged"
DROPPED_OPENING = "answer before the first question dropped"

SPEAKERS: Mapping[str, Literal["system", "user", "assistant"]] = MappingProxyType(
    {
        "system": "system",
        "user": "user",
        "human": "user",
        "prompter": "user",
        "assistant": "assistant",
        "gpt": "assistant",
        "chatgpt": "assistant",
        "bard": "assistant",
        "bing": "assistant",
    }
)
"""Who speaks, by the names that dialogue files use (in lower case)."""


@dataclass(frozen=True, slots=True)
class RowPlace:
    """Where a row was read, and the counter of what was mended in it."""

    source: str
    """The file or the hub's data set."""
    line: int
    """The line, or the row of a data set without lines, from 1."""
    repairs: Counter[str] = field(default_factory=Counter)

    @property
    def default_id(self) -> str:
        """The id of a row that brings none: the file's name and the line."""
        return f"{self.source.rstrip('/').rsplit('/', 1)[-1]}:{self.line}"


def repair_turns(turns: Iterable[Turn], repairs: Counter[str]) -> tuple[Turn, ...]:
    r"""Makes turns alternate and start with the user, by dropping and merging only.

    In this order: blank turns are dropped, neighbours of one speaker are merged with a blank line
    between them, an assistant's turn before the first user's is dropped.

    Args:
      turns: The turns as read.
      repairs: Counts every repair under its reason; changed in place.

    Returns:
      The repaired turns; empty where the user never speaks.

    >>> repairs = Counter()
    >>> turns = [Turn("assistant", "Hello!"), Turn("user", "a"), Turn("user", "b")]
    >>> repair_turns(turns, repairs)
    (Turn(role='user', text='a\n\nb', weight=1.0),)
    >>> repairs.total()
    2
    """
    merged: list[Turn] = []
    for turn in turns:
        if not turn.text.strip():
            repairs[DROPPED_BLANK] += 1
        elif merged and merged[-1].role == turn.role:
            repairs[MERGED_SPEAKER] += 1
            merged[-1] = _merge(merged[-1], turn)
        else:
            merged.append(turn)
    if merged and merged[0].role == "assistant":
        repairs[DROPPED_OPENING] += 1
        del merged[0]
    return tuple(merged)


def dialogue_of_messages(
    messages: Any, place: RowPlace, *, id: Any = None, metadata: Mapping[str, Any] | None = None
) -> Dialogue:
    """Builds a dialogue from a list of `{"role", "content"}` or `{"from", "value"}` objects.

    Args:
      messages: The value of the row's list of messages, not yet checked.
      place: Where the row was read; counts the repairs.
      id: The row's own id; `None` or an empty text = `file:line`.
      metadata: What else the row says.

    Raises:
      BrokenRowError: The messages cannot be understood without a guess.
    """
    if not isinstance(messages, Sequence) or isinstance(messages, str):
        raise BrokenRowError("the messages are no list", f"but {type(messages).__name__}")
    system: list[str] = []
    turns: list[Turn] = []
    for number, message in enumerate(messages, start=1):
        speaker, text, weight = _read_message(message, number)
        if speaker != "system":
            turns.append(Turn(speaker, text, weight))
        elif turns:
            raise BrokenRowError("system text after the first turn", f"message {number}")
        elif text.strip():
            system.append(text)
    return build_dialogue(turns, place, id=id, system="\n\n".join(system), metadata=metadata)


def build_dialogue(
    turns: Iterable[Turn],
    place: RowPlace,
    *,
    id: Any = None,
    system: str = "",
    metadata: Mapping[str, Any] | None = None,
) -> Dialogue:
    """Repairs `turns` and builds the dialogue; the arguments are those of `dialogue_of_messages`.

    Raises:
      BrokenRowError: No user's turn is left, or a text is not valid Unicode.
    """
    repaired = repair_turns(turns, place.repairs)
    if not repaired:
        raise BrokenRowError("no user turn", "every turn is blank or the assistant's")
    metadata = dict(metadata or {})
    named = metadata.get("source")
    if isinstance(named, str) and named:
        del metadata["source"]
    else:
        named = place.source
    if id is None or id == "":
        id = place.default_id
    try:
        return Dialogue(
            turns=repaired,
            system=system,
            id=id if isinstance(id, str) else str(id),
            source=named,
            metadata=MappingProxyType(metadata),
        )
    except ValueError as error:
        raise BrokenRowError("text is not valid Unicode", str(error)) from None


def _merge(first: Turn, second: Turn) -> Turn:
    # The smaller weight: text that was marked as context only must never be trained on.
    weight = min(first.weight, second.weight)
    return replace(first, text=f"{first.text}\n\n{second.text}", weight=weight)


def _read_message(message: Any, number: int) -> tuple[Literal["system"] | Role, str, float]:
    if not isinstance(message, Mapping):
        raise BrokenRowError("a message is no object", f"message {number}")
    speaker_key, text_key = ("from", "value") if "from" in message else ("role", "content")
    for key in (speaker_key, text_key):
        if key not in message:
            raise BrokenRowError(f"a message has no {key!r}", f"message {number}")
    name = message[speaker_key]
    speaker = SPEAKERS.get(name.strip().lower()) if isinstance(name, str) else None
    if speaker is None:
        shown = name[:40] if isinstance(name, str) else type(name).__name__
        raise BrokenRowError(f"unknown role {shown!r}", f"message {number}")
    text = _read_content(message[text_key], number)
    return speaker, text, _read_weight(message.get("weight"), number)


def _read_content(content: Any, number: int) -> str:
    if isinstance(content, str):
        return content
    if not isinstance(content, Sequence):
        raise BrokenRowError(f"content is {_json_type(content)}, no text", f"message {number}")
    texts: list[str] = []
    for part in content:
        kind = part.get("type") if isinstance(part, Mapping) else None
        if kind != "text" or not isinstance(part.get("text"), str):
            shown = kind[:40] if isinstance(kind, str) else type(part).__name__
            raise BrokenRowError(f"content part of type {shown!r}", f"message {number}")
        texts.append(part["text"])
    return "\n".join(texts)


def _read_weight(weight: Any, number: int) -> float:
    if weight is None:
        return 1.0
    if isinstance(weight, bool) or not isinstance(weight, int | float):
        raise BrokenRowError("weight is no number", f"message {number}")
    # A JSON integer may be larger than any float.
    if weight < 0 or not math.isfinite(weight if weight < 1e300 else math.inf):
        raise BrokenRowError("weight is not finite and >= 0", f"message {number}")
    return float(weight)


def _json_type(value: Any) -> str:
    if value is None:
        return "null"
    return {bool: "a boolean", int: "a number", float: "a number"}.get(type(value), "an object")
