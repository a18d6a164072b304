"""Answer sheets: the answers of one model to one question, and FastChat's files of them.

model_answer/m.jsonl            complete sheets, with the model's own answers as history
model_answer/m@reference.jsonl  the same with another history
incomplete.jsonl                sheets that lack answers, with the reasons
"""

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

from parrot_jax.core.errors import UserError
from parrot_jax.core.files import atomic_write
from parrot_jax.dialogue.raw_rows import BrokenRowError, printable
from parrot_jax.evaluate.answer_config import History
from parrot_jax.evaluate.rows import Rejected, name_at, read_rows, unicode_at

MAX_REASON = 400
"""Characters of a reason in a file."""

_FOLDER = "model_answer"
_INCOMPLETE = "incomplete.jsonl"


@dataclass(frozen=True, kw_only=True)
class Sheet:
    """The answers of one model to the turns of one question."""

    model: str
    question_id: int | str
    history: History
    answers: tuple[str | None, ...]
    """One entry per turn; None = there is no answer."""
    reasons: dict[int, str] = field(default_factory=dict)
    """Why an answer is missing, by turn from 1."""
    cut: tuple[int, ...] = ()
    """Turns whose answer reached the token limit, from 1."""
    answered_at: float = 0.0
    """Time of the last answer, in seconds since 1970."""

    @property
    def is_complete(self) -> bool:
        """Whether every turn has an answer."""
        return None not in self.answers

    @property
    def model_id(self) -> str:
        """The model's name in FastChat's files; see `model_id_of`."""
        return model_id_of(self.model, self.history)

    def to_json(self) -> dict[str, Any]:
        """The sheet as a row of FastChat's `model_answer/`, with a few more keys."""
        digest = hashlib.sha256(
            json.dumps([self.model_id, self.question_id, self.answers]).encode()
        ).hexdigest()
        row: dict[str, Any] = {
            "question_id": self.question_id,
            "answer_id": digest[:22],
            "model_id": self.model_id,
            "choices": [{"index": 0, "turns": list(self.answers)}],
            "tstamp": self.answered_at,
            "history": self.history,
        }
        if self.cut:
            row["cut"] = list(self.cut)
        if self.reasons:
            row["missing"] = {str(turn): reason for turn, reason in self.reasons.items()}
        return row


def model_id_of(model: str, history: History) -> str:
    """The name of a model in FastChat's files, which do not know histories.

    >>> model_id_of("m", "own"), model_id_of("m", "none")
    ('m', 'm@none')
    """
    return model if history == "own" else f"{model}@{history}"


def write_sheets(folder: Path, sheets: Sequence[Sheet]) -> list[Path]:
    """Writes the files of one run; removes those of a run that had other histories.

    Args:
      folder: The folder of the run.
      sheets: All of them.

    Returns:
      The files, complete ones first.
    """
    files: dict[str, list[Sheet]] = {}
    for sheet in sheets:
        if sheet.is_complete:
            files.setdefault(f"{_FOLDER}/{sheet.model_id}.jsonl", []).append(sheet)
    lacking = [sheet for sheet in sheets if not sheet.is_complete]
    if lacking:
        files[_INCOMPLETE] = lacking
    for old in [*folder.glob(f"{_FOLDER}/*.jsonl"), folder / _INCOMPLETE]:
        if str(old.relative_to(folder)) not in files:
            old.unlink(missing_ok=True)
    for name, rows in files.items():
        with atomic_write(folder / name) as file:
            for sheet in rows:
                file.write(json.dumps(sheet.to_json(), ensure_ascii=False) + "\n")
    return [folder / name for name in files]


def read_sheets(path: Path | str) -> list[Sheet]:
    """Reads the answers of a model.

    Args:
      path: The folder of a run of `parrot evaluate answer`, or a file of FastChat's
        `model_answer/`.

    Raises:
      UserError: There are no answers, a row is invalid, or a model answered a question twice.
    """
    folder = Path(path)
    files = [folder]
    if folder.is_dir():
        files = [*sorted(folder.glob(f"{_FOLDER}/*.jsonl")), folder / _INCOMPLETE]
        files = [file for file in files if file.exists()]
        if not files:
            raise UserError(
                f"{path} has no answers: {_FOLDER}/*.jsonl is missing. `parrot evaluate answer` "
                "writes them."
            )
    rejected = Rejected()
    sheets = [sheet for file in files for sheet in read_rows(file, parse_sheet, rejected)]
    if rejected.reasons:
        raise UserError(
            f"{rejected.first()}; all rows of an answer file must be valid, and "
            f"{rejected.reasons.total():,} are not."
        )
    if not sheets:
        raise UserError(f"{path} has no answers; `parrot evaluate answer` writes them.")
    seen = Counter((sheet.model_id, str(sheet.question_id)) for sheet in sheets)
    for (model, question), times in seen.items():
        if times > 1:
            raise UserError(f"{path}: {model} answered question {question} {times} times.")
    return sheets


def parse_sheet(row: dict[str, Any]) -> Sheet:
    """Parses a row of `model_answer/`.

    Raises:
      BrokenRowError: A key is missing or has a wrong type, or it is FastChat's `$ERROR$`.
    """
    name_at(row, "question_id")
    model = name_at(row, "model_id")
    history = row.get("history", "own")
    if history not in get_args(History):
        raise BrokenRowError("unknown `history`", printable(repr(history), 40))
    choices = row.get("choices")
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        raise BrokenRowError("no `choices`", "an answer has question_id, model_id and choices")
    if len(choices) > 1:
        raise BrokenRowError("several choices", f"{len(choices)}; one is supported")
    turns = choices[0].get("turns")
    if not isinstance(turns, list) or not turns:
        raise BrokenRowError("no `turns` in the choice")
    missing = row.get("missing") or {}
    answers, reasons = [], {}
    for turn, text in enumerate(turns, 1):
        if not (text is None or isinstance(text, str)):
            raise BrokenRowError("an answer that is not text", printable(repr(text), 40))
        answer, reason = usable_answer(None if text is None else unicode_at("turns", text))
        answers.append(answer)
        if answer is None:
            given = missing.get(str(turn)) if isinstance(missing, dict) else None
            reasons[turn] = printable(given, MAX_REASON) if isinstance(given, str) else reason
    return Sheet(
        model=model if history == "own" else model.removesuffix(f"@{history}"),
        question_id=row["question_id"],
        history=history,
        answers=tuple(answers),
        reasons=reasons,
    )


def usable_answer(text: str | None) -> tuple[str | None, str]:
    """The answer in a row, and why it is missing.

    >>> usable_answer("$ERROR$")
    (None, "FastChat's $ERROR$")
    """
    if text is None:
        return None, "missing"
    if not text.strip():
        return None, "empty"
    if text.strip() == "$ERROR$":
        return None, "FastChat's $ERROR$"
    return text, ""
