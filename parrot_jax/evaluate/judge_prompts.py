"""The judge's prompts, in the form of FastChat's `judge_prompts.jsonl`, for any number of turns.

A row has a `name`, a `type` (single or pairwise), a `system_prompt` and a `prompt_template` with
slots in braces. Four rows of a type are used, told apart by their slots: for the first turn or for
later ones, without or with reference answers. A template for later turns shows two of them; the
part from `{question_1}` up to `{question_2}` is repeated for more, and "second user question" in
FastChat's system prompt becomes "third", "fourth" and so on.
"""

import hashlib
import re
import string
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Literal, NamedTuple

from parrot_jax.core.errors import UserError
from parrot_jax.dialogue.raw_rows import BrokenRowError
from parrot_jax.evaluate.rows import Rejected, name_at, read_rows, text_at

JudgeMode = Literal["single", "pairwise"]

_PACKAGED = "judge_prompts_v1.jsonl"
_SLOT = re.compile(r"(?P<base>question|answer|answer_a|answer_b|ref_answer)(?:_(?P<turn>[12]))?")
_SECOND = re.compile(r"\bsecond(?= (?:user )?question\b)")
_ORDINALS = (
    *("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth"),
    *("tenth", "eleventh", "twelfth"),
)


class Slot(NamedTuple):
    """A slot of a template."""

    base: str
    """`question`, `answer`, `answer_a`, `answer_b` or `ref_answer`."""
    turn: int
    """1 or 2; 0 for a template of one turn."""


@dataclass(frozen=True)
class JudgePrompt:
    """One row of a file of prompts."""

    name: str
    mode: JudgeMode
    system: str
    template: str

    @property
    def sha256(self) -> str:
        """The hash of both texts, in hexadecimal."""
        return hashlib.sha256(f"{self.system}\0{self.template}".encode()).hexdigest()

    def record(self) -> dict[str, str]:
        """The journal's record of the prompt."""
        return {"path": self.name, "sha256": self.sha256, "text": f"{self.system}\n{self.template}"}

    @property
    def slots(self) -> list[Slot]:
        """The slots in their order."""
        return [part for part in _parse(self.template) if isinstance(part, Slot)]

    @property
    def is_multi_turn(self) -> bool:
        """Whether it shows several turns."""
        return any(slot == Slot("question", 2) for slot in self.slots)

    @property
    def has_references(self) -> bool:
        """Whether it shows reference answers."""
        return any(slot.base == "ref_answer" for slot in self.slots)

    def messages(self, turns: Sequence[Mapping[str, str]]) -> list[dict[str, str]]:
        """The request about the last of these turns.

        Args:
          turns: The texts of each turn by the base of their slot; one turn for a template of one
            turn, else at least two.

        Raises:
          KeyError: A slot has no text.
        """
        parts = _parse(self.template)
        if self.is_multi_turn:
            parts = _for_turns(parts, len(turns))
        shown = "".join(
            part if isinstance(part, str) else turns[max(part.turn, 1) - 1][part.base]
            for part in parts
        )
        system = self.system
        if len(turns) > 2:
            system = _SECOND.sub(_ordinal(len(turns)), system)
        messages = [{"role": "system", "content": system}] if system else []
        return [*messages, {"role": "user", "content": shown}]


@dataclass(frozen=True)
class JudgePrompts:
    """The prompts of one file, by mode, whether they are for later turns, and have references."""

    by_use: Mapping[tuple[JudgeMode, bool, bool], JudgePrompt]
    path: str

    def choose(self, mode: JudgeMode, turn: int, *, with_references: bool) -> JudgePrompt:
        """The prompt for a turn, from 1.

        Raises:
          UserError: The file has none.
        """
        prompt = self.by_use.get((mode, turn > 1, with_references))
        if prompt is None:
            raise UserError(
                f"{self.path} has no {mode} prompt for {'later turns' if turn > 1 else 'turn 1'} "
                f"{'with' if with_references else 'without'} reference answers; add one."
            )
        return prompt


def load_judge_prompts(path: str | None) -> JudgePrompts:
    """Reads a file of prompts.

    Args:
      path: The file; None = the prompts of the package.

    Raises:
      UserError: The file cannot be read, a row is invalid, a slot is unknown or missing, or two
        rows are for the same use.
    """
    rejected = Rejected()
    with resources.as_file(resources.files("parrot_jax.evaluate") / "templates" / _PACKAGED) as own:
        file: Path | str = path or own
        prompts = list(read_rows(file, parse_prompt, rejected))
    shown = path or _PACKAGED
    if rejected.reasons:
        raise UserError(f"{rejected.first()}; all rows of a file of prompts must be valid.")
    by_use: dict[tuple[JudgeMode, bool, bool], JudgePrompt] = {}
    for prompt in prompts:
        use = (prompt.mode, prompt.is_multi_turn, prompt.has_references)
        if use in by_use:
            raise UserError(
                f"{shown}: {by_use[use].name} and {prompt.name} have the same slots; keep one."
            )
        by_use[use] = prompt
    if not by_use:
        raise UserError(f"{shown} has no prompt.")
    return JudgePrompts(by_use, shown)


def parse_prompt(row: dict[str, Any]) -> JudgePrompt:
    """Parses a row of a file of prompts.

    Raises:
      BrokenRowError: A key is missing, or a slot is unknown or missing.
    """
    mode = row.get("type")
    if mode not in ("single", "pairwise"):
        raise BrokenRowError("unknown `type`", f"{mode!r:.40} is not single or pairwise")
    prompt = JudgePrompt(
        name_at(row, "name"), mode, text_at(row, "system_prompt"), text_at(row, "prompt_template")
    )
    _check_slots(prompt)
    return prompt


def _check_slots(prompt: JudgePrompt) -> None:
    slots = set(prompt.slots)
    answers = ("answer",) if prompt.mode == "single" else ("answer_a", "answer_b")
    turns = (1, 2) if prompt.is_multi_turn else (0,)
    needed = {Slot(base, turn) for base in ("question", *answers) for turn in turns}
    references = {Slot("ref_answer", turn) for turn in (turns if prompt.is_multi_turn else (1,))}
    if prompt.has_references:
        needed |= references
    for wrong, what in ((needed - slots, "missing"), (slots - needed, "unknown")):
        if wrong:
            named = ", ".join(f"{{{_name(slot)}}}" for slot in sorted(wrong))
            raise BrokenRowError(f"{what} slots", f"prompt {prompt.name!r}: {named}")
    first, last = prompt.slots[0], prompt.slots[-1]
    if prompt.is_multi_turn and (first.turn, last.turn) != (1, 2):
        raise BrokenRowError(
            "slots in a wrong order",
            f"prompt {prompt.name!r}: {{{_name(first)}}} is the first and {{{_name(last)}}} the "
            "last; turn 1 comes first and turn 2 last",
        )


def _parse(template: str) -> list[str | Slot]:
    """The template as literal texts and slots.

    Raises:
      BrokenRowError: It is malformed, or a slot is unknown.
    """
    parts: list[str | Slot] = []
    try:
        for text, field, spec, conversion in string.Formatter().parse(template):
            if text:
                parts.append(text)
            if field is None:
                continue
            found = _SLOT.fullmatch(field)
            if found is None or spec or conversion:
                raise BrokenRowError("unknown slots", f"{{{field:.40}}} is not a slot")
            parts.append(Slot(found["base"], int(found["turn"] or 0)))
    except ValueError as error:
        if isinstance(error, BrokenRowError):
            raise
        raise BrokenRowError("a malformed template", str(error)) from None
    return parts


def _for_turns(parts: Sequence[str | Slot], num_turns: int) -> Iterator[str | Slot]:
    """A template of two turns as one of more."""
    place = 0
    while place < len(parts):
        part = parts[place]
        if not (isinstance(part, Slot) and part.turn == 1):
            yield part
            place += 1
            continue
        # A block: all slots of turn 1, then all slots of turn 2.
        second = next(at for at in range(place, len(parts)) if _turn(parts[at]) == 2)
        end = next((at for at in range(second, len(parts)) if _turn(parts[at]) == 1), len(parts))
        last = max(at for at in range(second, end) if _turn(parts[at]) == 2)
        for turn in range(1, num_turns):
            yield from (_at_turn(part, turn) for part in parts[place:second])
        yield from (_at_turn(part, num_turns) for part in parts[second : last + 1])
        place = last + 1


def _turn(part: str | Slot) -> int | None:
    return part.turn if isinstance(part, Slot) else None


def _at_turn(part: str | Slot, turn: int) -> str | Slot:
    return part._replace(turn=turn) if isinstance(part, Slot) else part


def _name(slot: Slot) -> str:
    return f"{slot.base}_{slot.turn}" if slot.turn else slot.base


def _ordinal(number: int) -> str:
    return _ORDINALS[number - 1] if number <= len(_ORDINALS) else f"{number}th"
