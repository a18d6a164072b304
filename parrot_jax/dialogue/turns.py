"""Builds a `Dialogue` from turns as read: repairs, the system text, and the row's other keys.

Only unambiguous errors are repaired; every repair is counted.
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
    """Where a row was read, with its repairs and ignored keys."""

    source: str
    """The file, or the data set of the hub."""
    line: int
    """The line, or the row number of a data set, from 1."""
    repairs: Counter[str] = field(default_factory=Counter)
    """Repairs by reason."""
    passed_over: Counter[str] = field(default_factory=Counter)
    """Ignored keys."""

    @property
    def default_id(self) -> str:
        """The id of a row without one: the file's name and the line."""
        return f"{self.source.rstrip('/').rsplit('/', 1)[-1]}:{self.line}"


def repair_turns(turns: Iterable[Turn], repairs: Counter[str]) -> tuple[Turn, ...]:
    r"""Makes turns alternate and start with the user, by dropping and merging turns.

    In this order: blank turns are dropped, adjacent turns of one speaker are merged with a blank
    line between them, and an assistant turn before the first user turn is dropped. Text before a
    tool call becomes context of the text after the result; a turn with only context gets the weight
    0.

    Args:
      turns: The turns as read; a tool call or result is context without text.
      repairs: Counts every repair by reason; changed in place.

    Returns:
      The repaired turns; empty if there is no user turn.

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
      place: The row's place; counts repairs and ignored keys.
      row: The row: its id, source, system text, loss weight, and metadata.
      read: The keys that the turns were read from.
      system: The system text among the messages; empty = none.

    Raises:
      BrokenRowError: No user turn is left, a text is not valid Unicode, a key rejects the row, part
        of the dialogue is not among the turns, or it has two system texts.
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
        # The row's weight times the message's.
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
            raise BrokenRowError(f"{key!r} is not text")
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
    # The smaller weight, because text with weight 0 must never be trained on.
    weight = min(first.weight, second.weight)
    return replace(first, text=f"{first.text}\n\n{second.text}", weight=weight)
