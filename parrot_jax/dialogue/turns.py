"""From turns as they were read to a `Dialogue`: repairs, the system text, the row's own keys.

Only what no reader could take for something else is repaired, and counted.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

from parrot_jax.dialogue.keys import ROW_KEYS, SYSTEM_KEYS, checked_weight, plain_key, read_keys
from parrot_jax.dialogue.raw_rows import BrokenRowError
from parrot_jax.dialogue.types import Dialogue, Turn
from parrot_jax.dialogue.unread import refuse_media, repeated_keys

DROPPED_BLANK = "blank turn dropped"
MERGED_SPEAKER = "two turns of one speaker merged"
DROPPED_OPENING = "answer before the first question dropped"
KEPT_AS_CONTEXT = "tool call or result kept as context"


@dataclass(frozen=True, slots=True)
class RowPlace:
    """Where a row was read, and what was done about it."""

    source: str
    """The file or the hub's data set."""
    line: int
    """The line, or the row of a data set without lines, from 1."""
    repairs: Counter[str] = field(default_factory=Counter)
    """What was mended."""
    passed_over: Counter[str] = field(default_factory=Counter)
    """Keys that were not used."""

    @property
    def default_id(self) -> str:
        """The id of a row that brings none: the file's name and the line."""
        return f"{self.source.rstrip('/').rsplit('/', 1)[-1]}:{self.line}"


def repair_turns(turns: Iterable[Turn], repairs: Counter[str]) -> tuple[Turn, ...]:
    r"""Makes turns alternate and start with the user, by dropping and merging only.

    In this order: blank turns are dropped, neighbours of one speaker are merged with a blank line
    between them, an assistant's turn before the first user's is dropped. What an assistant says
    before it calls a tool becomes context of what it says with the result; a turn that is nothing
    but context has the weight 0.

    Args:
      turns: The turns as read; a call of a tool, or its result, is a context without a text.
      repairs: Counts every repair under its reason; changed in place.

    Returns:
      The repaired turns; empty where the user never speaks.

    >>> repairs = Counter()
    >>> turns = [Turn("assistant", "Hello!"), Turn("user", "a"), Turn("user", "b")]
    >>> [(turn.role, turn.text) for turn in repair_turns(turns, repairs)]
    [('user', 'a\n\nb')]
    >>> repairs.total()
    2
    """
    merged: list[Turn] = []
    for turn in turns:
        if not turn.text.strip() and not turn.context.strip():
            repairs[DROPPED_BLANK] += 1
        elif merged and merged[-1].role == turn.role:
            if merged[-1].text.strip() and not turn.context:
                repairs[MERGED_SPEAKER] += 1
            merged[-1] = _merge(merged[-1], turn)
        else:
            merged.append(turn)
    if merged and merged[0].role == "assistant":
        repairs[DROPPED_OPENING] += 1
        del merged[0]
    return tuple(
        turn if turn.text.strip() else Turn(turn.role, turn.context, weight=0.0) for turn in merged
    )


def build_dialogue(
    turns: Iterable[Turn],
    place: RowPlace,
    *,
    row: Mapping[str, Any],
    read: Collection[str],
    system: str = "",
) -> Dialogue:
    """Repairs the turns of a row and reads its other keys.

    Args:
      turns: As read.
      place: Where the row was read; counts repairs and keys that are passed over.
      row: The row: its id, source, system text, loss weight, and metadata.
      read: The keys from which the turns were read.
      system: The system text among the messages; empty = none.

    Raises:
      BrokenRowError: No user's turn is left, a text is not valid Unicode, a key refuses the row,
        part of the dialogue is not among the turns, or it has two system texts.
    """
    columns = [key for key in row if plain_key(key) in SYSTEM_KEYS and key not in read]
    system = _system_text(system, row, columns)
    repaired = repair_turns(turns, place.repairs)
    if not repaired:
        raise BrokenRowError("no user turn", "every turn is blank or the assistant's")
    read = {*read, *columns, *repeated_keys(row, read, repaired)}
    weight, honoured = read_keys(
        row, ROW_KEYS, read={*read, "id", "source"}, where="row", passed_over=place.passed_over
    )
    refuse_media(repaired)
    if weight != 1:
        # Of the row times that of a message.
        weights = (checked_weight("weight", turn.weight * weight) for turn in repaired)
        repaired = tuple(map(_weighted, repaired, weights))
    metadata = {
        key: value
        for key, value in row.items()
        if key not in read and key not in honoured and key != "id" and value is not None
    }
    source = metadata.get("source")
    if isinstance(source, str) and source:
        del metadata["source"]
    else:
        source = place.source
    id = row.get("id")
    if id is None or id == "":
        id = place.default_id
    try:
        return Dialogue(
            turns=repaired,
            system=system,
            id=id if isinstance(id, str) else str(id),
            source=source,
            metadata=MappingProxyType(metadata),
        )
    except ValueError as error:
        raise BrokenRowError("text is not valid Unicode", str(error)) from None


def _system_text(said: str, row: Mapping[str, Any], columns: Iterable[str]) -> str:
    for key in columns:
        text = row[key]
        if text is None:
            continue
        if not isinstance(text, str):
            raise BrokenRowError(f"{key!r} is no text")
        if said.strip() and text.strip() and text.strip() != said.strip():
            raise BrokenRowError("two system texts", f"one of them under {key!r}")
        said = said if said.strip() else text
    return said if said.strip() else ""


def _weighted(turn: Turn, weight: float) -> Turn:
    return replace(turn, weight=weight)


def _merge(first: Turn, second: Turn) -> Turn:
    if second.context or not first.text.strip():
        parts = (first.context, first.text, second.context)
        context = "\n\n".join(part for part in parts if part.strip())
        return replace(second, context=context)
    # The smaller weight: text that was marked as context only must never be trained on.
    weight = min(first.weight, second.weight)
    return replace(first, text=f"{first.text}\n\n{second.text}", weight=weight)
