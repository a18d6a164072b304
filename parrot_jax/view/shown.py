"""A dialogue as the viewer shows it: turns with their origin, and what the list filters by.

Every kind of path is read to this form, and an index stores it.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pydantic import TypeAdapter

from parrot_jax.dialogue.types import Dialogue, Role, Turn

WHY = "why it ended"
"""The name of a fact that may quote a server."""

_OPENING_CHARS = 240


@dataclass(frozen=True, kw_only=True)
class Note:
    """A longer text about a turn, collapsed at first: a judge's verdict, a failed attempt."""

    title: str
    text: str
    is_private: bool = False
    """Whether it may name servers; such notes are in no sample."""


@dataclass(frozen=True, kw_only=True)
class ShownTurn:
    """One message."""

    role: Role
    text: str
    name: str = ""
    """The heading; empty = the role."""
    context: str = ""
    """Tool calls and results before the text."""
    weight: float = 1.0
    """Of its loss; see `Turn`."""
    facts: tuple[str, ...] = ()
    """Where it comes from: model, tokens, cost, attempts."""
    notes: tuple[Note, ...] = ()
    score: float | None = None
    """None = it has none."""
    other: "ShownTurn | None" = None
    """Another answer to the same question, shown beside it."""
    is_left_out: bool = False
    """Whether the dialogue ended with this reply, which is not part of it."""

    def texts(self) -> Iterator[str]:
        """All texts of a dialogue in it."""
        yield from filter(None, (self.context, self.text))
        if self.other is not None:
            yield from self.other.texts()


@dataclass(frozen=True, kw_only=True)
class Shown:
    """A dialogue, or the answers of a model to the questions of a benchmark."""

    id: str
    place: str
    """`file:line`, or the number in a collection."""
    turns: tuple[ShownTurn, ...]
    source: str = ""
    system: str = ""
    facts: tuple[tuple[str, str], ...] = ()
    """Name and value of what is known about the whole dialogue."""
    metadata: str = ""
    """The other keys of the row, as JSON."""
    stop: str = ""
    """Why it ended; empty = unknown."""
    models: tuple[str, ...] = ()
    """Who speaks in it, e.g. `gpt-4` or `asker: parrot-ask`."""
    flags: tuple[str, ...] = ()
    score: float | None = None
    scale: tuple[float, float] = (1, 10)
    """The lowest and the highest score."""

    def to_json(self) -> bytes:
        """As JSON, for the index."""
        return _ADAPTER.dump_json(self, exclude_defaults=True)

    @classmethod
    def from_json(cls, text: bytes) -> "Shown":
        """Reads what `to_json` wrote."""
        return _ADAPTER.validate_json(text)

    @property
    def opening(self) -> str:
        """The beginning of the first question."""
        text = " ".join(self.turns[0].text[: 2 * _OPENING_CHARS].split()) if self.turns else ""
        return text if len(text) <= _OPENING_CHARS else f"{text[:_OPENING_CHARS]}…"

    @property
    def num_questions(self) -> int:
        """Questions that belong to the dialogue; the papers call these turns."""
        return sum(turn.role == "user" and not turn.is_left_out for turn in self.turns)

    @property
    def num_words(self) -> int:
        """Words of all turns of the dialogue, split at white space."""
        kept = (turn for turn in self.turns if not turn.is_left_out)
        return sum(len(text.split()) for turn in kept for text in (turn.context, turn.text))

    @property
    def searched(self) -> str:
        """Everything that a search looks at: id, system text, all texts of all turns."""
        return "\n".join([self.id, self.system, *(t for turn in self.turns for t in turn.texts())])

    @property
    def has_scores(self) -> bool:
        """Whether a turn has a score."""
        return any(turn.score is not None for turn in self.turns)


_ADAPTER = TypeAdapter(Shown)


def show_dialogue(dialogue: Dialogue, place: str, repairs: Mapping[str, int]) -> Shown:
    """Shows a dialogue of a file.

    Args:
      dialogue: As it was read.
      place: `file:line`.
      repairs: What was repaired in its row: number by reason.
    """
    metadata = dialogue.metadata
    turns = [_turn(turn, is_pair=dialogue.rejected is not None) for turn in dialogue.turns]
    flags = ["repaired"] if repairs else []
    if dialogue.rejected is not None:
        flags.append("preference pair")
        turns[-1] = _beside(turns[-1], _turn(dialogue.rejected, is_pair=True))
    elif any(turn.weight == 0 for turn in dialogue.turns):
        flags.append("context-only turns")
    if dialogue.turns[-1].role == "user":
        flags.append("unanswered")
    if any(turn.context for turn in dialogue.turns):
        flags.append("tool calls")
    collected = metadata.get("collection")
    about: Mapping[str, Any] = collected if isinstance(collected, Mapping) else {}
    if about.get("truncated_context"):
        flags.append("truncated")
    if about.get("turns_with_reasoning"):
        flags.append("reasoning")
    facts = [(name, f"{count:,} ×") for name, count in repairs.items()]
    return Shown(
        id=_text(dialogue.id),
        place=_text(place),
        source=_text(dialogue.source),
        system=dialogue.system,
        turns=tuple(turns),
        facts=tuple(facts),
        metadata=_text(as_json(metadata)),
        stop=_text(about.get("stop") or metadata.get("stop")),
        models=tuple(_models(metadata, about)),
        flags=tuple(flags),
        score=_number(metadata.get("score")),
    )


def as_json(value: Mapping[str, Any]) -> str:
    """Metadata as text; empty without metadata."""
    return json.dumps(dict(value), ensure_ascii=False, indent=2, default=str) if value else ""


def _turn(turn: Turn, *, is_pair: bool) -> ShownTurn:
    weight = "" if turn.weight == 1 else f"weight {turn.weight:g}"
    if turn.weight == 0:
        # The context of a pair is never trained on; to say so at each turn would be noise.
        weight = "" if is_pair else "context only"
    facts = (weight,) if weight else ()
    return ShownTurn(
        role=turn.role, text=turn.text, context=turn.context, weight=turn.weight, facts=facts
    )


def _beside(chosen: ShownTurn, rejected: ShownTurn) -> ShownTurn:
    rejected = replace(rejected, name="rejected answer")
    return replace(chosen, name="chosen answer", other=rejected)


def _models(metadata: Mapping[str, Any], collected: Mapping[str, Any]) -> Iterator[str]:
    by_speaker = collected.get("models")
    if isinstance(by_speaker, Mapping):
        lists = {key: names for key, names in by_speaker.items() if isinstance(names, list)}
        yield from map(_text, speaker_models(lists))
        return
    for key in ("asker", "answerer", "writer"):
        if name := _text(metadata.get(key)):
            yield f"{key}: {name}"
    for key in ("model", "model_name"):
        if name := _text(metadata.get(key)):
            yield name


def speaker_models(by_speaker: Mapping[str, Sequence[Any]]) -> Iterable[str]:
    """The models of a collected dialogue, each with its speaker."""
    for speaker, names in by_speaker.items():
        yield from (f"{speaker}: {name}" for name in names)


def _text(value: Any) -> str:
    """A text as an index can store it: halves of surrogate pairs, which JSON allows, become `?`."""
    return value.encode(errors="replace").decode() if isinstance(value, str) else ""


def _number(value: Any) -> float | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and abs(value) < 1e12 else None
