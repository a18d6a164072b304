"""Built benchmarks: rows in FastChat's form that also say who wrote and accepted each question.

question_id, category, turns     as in FastChat's question.jsonl
reference, reference_model       an answer for each turn, null where the next build makes it
reference_written_by             who wrote each; `reference_is_made` is true if this run did
written_by, accepted_by          for each turn; null until a person has accepted it
context_similarity               of the answers with and without the dialogue, 0 to 100
seed_turns, given                number of turns of the benchmark it began with, and of turns
                                 that the last build or the next one is given
dropped, edited, rejected        texts that are not in `turns`, with the reason or the person
short                            why the dialogue has fewer turns than wanted
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from parrot_jax.core.errors import UserError
from parrot_jax.core.files import atomic_write
from parrot_jax.dialogue.raw_rows import BrokenRowError, printable
from parrot_jax.evaluate.benchmark import parse_question
from parrot_jax.evaluate.rows import Rejected, count_at, read_rows, text_at, unicode_at

QUESTIONS = "questions.jsonl"


@dataclass(frozen=True, kw_only=True)
class BuiltTurn:
    """A question with its reference answer."""

    text: str
    written_by: str
    """The file or the model, or the person who edited it."""
    accepted_by: str | None = None
    """None = not accepted; always None for the questions of the benchmark."""
    reference: str | None = None
    """None = it must be made (again)."""
    reference_written_by: str | None = None
    is_made: bool = False
    """Whether the answerer wrote the reference, not the benchmark's authors."""
    is_cut: bool = False
    """Whether that answer reached the token limit."""
    context_similarity: float | None = None
    """ROUGE-L times 100 of the answers with and without the dialogue; None = not measured."""

    def without_reference(self) -> "BuiltTurn":
        """The turn after a change of this question or an earlier one."""
        return replace(
            self, reference=None, reference_written_by=None, is_made=False, is_cut=False,
            context_similarity=None,
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Note:
    """A text that is not in the dialogue."""

    turn: int
    """From 1."""
    text: str
    written_by: str
    why: str
    """The reason to drop it, or the person who edited or rejected it."""


_NOTES = {"dropped": "reason", "edited": "edited_by", "rejected": "rejected_by"}
"""The lists of notes, with the key of `why`."""
_OWN = frozenset(
    {
        *("question_id", "category", "system", "turns", "reference", "reference_model"),
        *("reference_written_by", "reference_is_made", "written_by", "accepted_by", "cut"),
        *("context_similarity", "seed_turns", "given", "benchmark", "short", *_NOTES),
    }
)


@dataclass(frozen=True, kw_only=True)
class BuiltDialogue:
    """One row of a built benchmark."""

    id: int | str
    category: str = ""
    system: str = ""
    turns: tuple[BuiltTurn, ...]
    seed_turns: int
    given: int
    benchmark: str
    short: str = ""
    dropped: tuple[Note, ...] = ()
    edited: tuple[Note, ...] = ()
    """The texts before the edits."""
    rejected: tuple[Note, ...] = ()
    more: Mapping[str, Any] = field(default_factory=dict)
    """Other keys of the row, which are kept."""

    @property
    def decided(self) -> int:
        """The number of turns up to the last one that a person accepted or edited."""
        return max((n for n, turn in enumerate(self.turns, 1) if turn.accepted_by), default=0)

    @property
    def is_reviewed(self) -> bool:
        """Whether a person decided anything here."""
        return bool(self.decided or self.rejected or self.edited)

    def to_json(self) -> dict[str, Any]:
        """The row."""
        turns = self.turns
        by = sorted({turn.reference_written_by for turn in turns if turn.reference_written_by})
        row: dict[str, Any] = {"question_id": self.id, "category": self.category}
        if self.system:
            row["system"] = self.system
        row |= {
            "turns": [turn.text for turn in turns],
            "reference": [turn.reference for turn in turns],
            "reference_model": ", ".join(by),
            "reference_written_by": [turn.reference_written_by for turn in turns],
            "reference_is_made": [turn.is_made for turn in turns],
            "written_by": [turn.written_by for turn in turns],
            "accepted_by": [turn.accepted_by for turn in turns],
            "context_similarity": [turn.context_similarity for turn in turns],
            "seed_turns": self.seed_turns,
            "given": self.given,
            "benchmark": self.benchmark,
        }
        if cut := [number for number, turn in enumerate(turns, 1) if turn.is_cut]:
            row["cut"] = cut
        if self.short:
            row["short"] = self.short
        for name, key in _NOTES.items():
            if notes := getattr(self, name):
                row[name] = [
                    {"turn": n.turn, "text": n.text, "written_by": n.written_by, key: n.why}
                    for n in notes
                ]
        return row | dict(self.more)


def write_built(path: Path, dialogues: Sequence[BuiltDialogue]) -> None:
    """Writes the file, atomically."""
    with atomic_write(path) as file:
        for dialogue in dialogues:
            file.write(json.dumps(dialogue.to_json(), ensure_ascii=False) + "\n")


def read_built(path: Path) -> list[BuiltDialogue]:
    """Reads a built benchmark.

    Raises:
      UserError: It cannot be read, a row is invalid, or an id appears twice; what people decided
        must not be lost, so no row is skipped.
    """
    rejected = Rejected()
    found = list(read_rows(path, parse_built, rejected))
    if rejected.reasons:
        raise UserError(
            f"{rejected.first()}; all rows of a file of `parrot evaluate build` must be valid, and "
            f"{rejected.reasons.total():,} are not."
        )
    seen = set[str]()
    for one in found:
        if str(one.id) in seen:
            raise UserError(f"{path}: the id {one.id} appears twice; ids must be unique.")
        seen.add(str(one.id))
    return found


def parse_built(row: dict[str, Any]) -> BuiltDialogue:
    """Parses a row.

    Raises:
      BrokenRowError: A key is missing or has a wrong type, or a list does not fit the turns.
    """
    if "written_by" not in row or "seed_turns" not in row:
        raise BrokenRowError("not a built question", "`written_by` or `seed_turns` is missing")
    question = parse_question(row, 0)
    more = {key: value for key, value in row.items() if key not in _OWN}
    unicode_at("other keys", json.dumps(more, ensure_ascii=False))
    num = len(question.turns)

    def each(key: str, types: type | tuple[type, ...]) -> list[Any]:
        values = row.get(key)
        if not isinstance(values, list) or len(values) != num:
            raise BrokenRowError(f"no list in `{key}`", f"it must have {num} values, as `turns`")
        for place, value in enumerate(values, 1):
            if not isinstance(value, types) or (isinstance(value, bool) and types is not bool):
                raise BrokenRowError(f"a wrong value in `{key}`", f"turn {place} is {value!r:.40}")
            if isinstance(value, str):
                unicode_at(key, value)
        return values

    text, maybe = str, (str, type(None))
    written, accepted = each("written_by", text), each("accepted_by", maybe)
    referenced, made = each("reference_written_by", maybe), each("reference_is_made", bool)
    similar = each("context_similarity", (int, float, type(None)))
    cut = row.get("cut", [])
    seed_turns, given = count_at(row, "seed_turns"), count_at(row, "given")
    if not seed_turns <= given <= num:
        raise BrokenRowError(
            "numbers that do not fit", f"{seed_turns} seed turns, {given} given, {num} in all"
        )
    return BuiltDialogue(
        id=question.id,
        category=question.category,
        system=question.system,
        turns=tuple(
            BuiltTurn(
                text=question.turns[n],
                written_by=written[n],
                accepted_by=accepted[n],
                reference=question.references[n],
                reference_written_by=referenced[n],
                is_made=made[n],
                is_cut=isinstance(cut, list) and n + 1 in cut,
                context_similarity=None if similar[n] is None else float(similar[n]),
            )
            for n in range(num)
        ),
        seed_turns=seed_turns,
        given=given,
        benchmark=text_at(row, "benchmark"),
        short=text_at(row, "short") if "short" in row else "",
        more=more,
        **{name: _notes(row, name, key) for name, key in _NOTES.items()},
    )


def _notes(row: dict[str, Any], name: str, key: str) -> tuple[Note, ...]:
    values = row.get(name, [])
    if not isinstance(values, list) or not all(isinstance(value, dict) for value in values):
        raise BrokenRowError(f"no list in `{name}`", printable(repr(values), 60))
    return tuple(
        Note(
            turn=count_at(value, "turn"),
            text=text_at(value, "text"),
            written_by=text_at(value, "written_by"),
            why=text_at(value, key),
        )
        for value in values
    )
