"""Benchmarks: dialogues of fixed questions, from files of all common forms.

A wrong benchmark gives wrong scores for every model, so an invalid row is an error, never skipped.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from parrot_jax.core.errors import UserError
from parrot_jax.core.logs import console
from parrot_jax.core.paths import as_path
from parrot_jax.dialogue.raw_rows import BrokenRowError, printable
from parrot_jax.dialogue.readers import detect_kind, parse_any
from parrot_jax.dialogue.turns import RowPlace
from parrot_jax.evaluate.rows import (
    Rejected,
    name_at,
    optional_text,
    read_rows,
    text_at,
    unicode_at,
)
from parrot_jax.evaluate.sheets import usable_answer

KNOWN_WRONG = (104, 105, 109, 111, 113, 114, 120, 122, 124, 125, 126, 128, 130)
"""The questions of MT-Bench whose first published references, by GPT-4, are wrong: 13 of 30.

Source: pull request 3158 of FastChat.
"""
_WRONG_SET = "gpt-4"


@dataclass(frozen=True, kw_only=True)
class Question:
    """One dialogue of a benchmark. FastChat calls it a question with several turns."""

    id: int | str
    """As in the file; FastChat's are integers."""
    turns: tuple[str, ...]
    """The user's texts, at least one."""
    references: tuple[str | None, ...]
    """A reference answer for each turn; None = no reference."""
    category: str = ""
    system: str = ""
    """The instruction before the first turn; empty = none."""
    reference_model: str = ""
    """The model that wrote the references; empty = unknown."""


def read_benchmark(path: str, *, references: str | None = None) -> list[Question]:
    """Reads the questions of a file.

    The form is detected from the keys of each row: FastChat's `turns`, MT-Bench-101's and MT-Eval's
    lists of rounds, AlpacaEval's `instruction`, or any format of dialogues, where each user turn is
    a question and each assistant turn its reference.

    Args:
      path: The file.
      references: A file of answers in FastChat's form, whose answers replace the references of the
        file; or the name of a set in `reference_answer/` beside it, e.g. `gpt-4`.

    Raises:
      UserError: A file cannot be read, a row is invalid, an id appears twice, or references do not
        fit their question.

    >>> path = getfixture("tmp_path") / "question.jsonl"
    >>> _ = path.write_text('{"question_id": 81, "turns": ["Why?", "And then?"]}')
    >>> read_benchmark(str(path))[0].turns
    ('Why?', 'And then?')
    """
    rejected = Rejected()
    number = 0

    def parse(row: dict[str, Any]) -> Question:
        nonlocal number
        number += 1
        return parse_question(row, number)

    questions = list(read_rows(path, parse, rejected))
    if rejected.reasons:
        raise UserError(
            f"{rejected.first()}; all rows of a benchmark must be valid, and "
            f"{rejected.reasons.total():,} of {path} are not."
        )
    if not questions:
        raise UserError(f"{path} has no question.")
    _check_ids(questions, path)
    if references is not None:
        questions = _with_references(questions, path, references)
    return questions


def parse_question(row: dict[str, Any], number: int) -> Question:
    """Parses a row of a benchmark.

    Args:
      row: The row.
      number: Its number in the file, from 1: the id of a row that has none.

    Raises:
      BrokenRowError: It has no known form, a turn is missing, or the references do not fit.
    """
    for form in _FORMS:
        if (question := form(row, number)) is not None:
            break
    else:
        raise BrokenRowError("not a question", f"its keys are {', '.join(row)[:80]}")
    if not question.turns:
        raise BrokenRowError("no turns", f"question {question.id}")
    for place, text in enumerate(question.turns, 1):
        if not text.strip():
            raise BrokenRowError("a turn without text", f"question {question.id}, turn {place}")
    return question


def _fastchat(row: dict[str, Any], number: int) -> Question | None:
    turns = row.get("turns")
    if "question_id" not in row or not isinstance(turns, list):
        return None
    texts = _texts(turns, "turns")
    given = row.get("reference")
    references = (None,) * len(texts) if not given else _references(given)
    if len(references) != len(texts):
        raise BrokenRowError(
            "references that do not fit", f"{len(references)} for {len(texts)} turns"
        )
    return Question(
        id=_id(row, "question_id"),
        turns=texts,
        references=references,
        category=optional_text(row, "category"),
        system=optional_text(row, "system"),
        reference_model=optional_text(row, "reference_model"),
    )


def _references(values: Any, key: str = "reference") -> tuple[str | None, ...]:
    """The references of FastChat's form; null where a built benchmark has none yet.

    Raises:
      BrokenRowError: One is neither text nor null, or FastChat's mark of a failed answer.
    """
    given = values
    if isinstance(values, list):
        given = ["" if value is None else value for value in values]
    found = []
    for turn, text in enumerate(_texts(given, key), 1):
        answer, why = usable_answer(text)
        if text.strip() and answer is None:
            raise BrokenRowError("a reference that is no answer", f"turn {turn} is {why}")
        found.append(answer)
    return tuple(found)


def _rounds(key: str, question: str, answer: str, id_key: str, category: str) -> Any:
    """A form whose rows have a list of rounds with question and reference answer."""

    def parse(row: dict[str, Any], number: int) -> Question | None:
        rounds = row.get(key)
        if id_key not in row or not isinstance(rounds, list):
            return None
        if not all(isinstance(one, dict) and question in one for one in rounds):
            return None
        references = tuple(text_at(one, answer) if one.get(answer) else None for one in rounds)
        return Question(
            id=_id(row, id_key),
            turns=tuple(text_at(one, question) for one in rounds),
            references=references,
            category=optional_text(row, category),
        )

    return parse


def _alpaca_eval(row: dict[str, Any], number: int) -> Question | None:
    if "instruction" not in row or "generator" not in row:
        return None
    # `output` is the answer of the generator, the baseline; it is not a reference.
    return Question(
        id=number,
        turns=(text_at(row, "instruction"),),
        references=(None,),
        category=optional_text(row, "dataset"),
    )


def _dialogue(row: dict[str, Any], number: int) -> Question | None:
    if detect_kind(row) is None:
        return None
    place = RowPlace("", number)
    dialogues = parse_any({key: value for key, value in row.items() if value is not None}, place)
    if len(dialogues) != 1:
        raise BrokenRowError("not one dialogue", f"the row has {len(dialogues)}")
    if place.repairs:
        raise BrokenRowError("a dialogue that needs repairs", ", ".join(place.repairs))
    (dialogue,) = dialogues
    answers = [turn.whole for turn in dialogue.turns if turn.role == "assistant"]
    questions = dialogue.questions()
    return Question(
        id=_id(row, "id") if row.get("id") not in (None, "") else number,
        turns=tuple(questions),
        references=(*answers, *[None] * (len(questions) - len(answers))),
        category=optional_text(row, "category"),
        system=dialogue.system,
    )


_FORMS: Sequence[Callable[[dict[str, Any], int], Question | None]] = (
    _fastchat,
    _rounds("history", "user", "bot", "id", "task"),  # MT-Bench-101
    _rounds("conversation", "user", "sys", "question_id", "category"),  # MT-Eval
    _alpaca_eval,
    _dialogue,
)


def _texts(values: Any, key: str) -> tuple[str, ...]:
    if not isinstance(values, list):
        raise BrokenRowError(f"no list in `{key}`", f"found {printable(repr(values), 60)}")
    for place, value in enumerate(values, 1):
        if not isinstance(value, str):
            raise BrokenRowError(f"no text in `{key}`", f"turn {place} is {value!r:.60}")
        unicode_at(key, value)
    return tuple(values)


def _id(row: dict[str, Any], key: str) -> int | str:
    name_at(row, key)
    return row[key]


def _check_ids(questions: Iterable[Question], path: str) -> None:
    seen = set[str]()
    for question in questions:
        if str(question.id) in seen:
            raise UserError(f"{path}: the id {question.id} appears twice; ids must be unique.")
        seen.add(str(question.id))


def _with_references(questions: Sequence[Question], path: str, references: str) -> list[Question]:
    file = _file_of(references, path)
    rejected = Rejected()
    given: dict[str, tuple[str | None, ...]] = {}
    models = set[str]()
    for name, texts, model in read_rows(file, _parse_reference, rejected):
        models.add(model)
        if name in given:
            raise UserError(f"{file}: the id {name} appears twice; ids must be unique.")
        given[name] = texts
    if rejected.reasons:
        raise UserError(f"{rejected.first()}; all rows of a reference file must be valid.")
    for question in questions:
        texts = given.get(str(question.id))
        if texts is not None and len(texts) != len(question.turns):
            raise UserError(
                f"{file}: question {question.id} has {len(texts)} references for "
                f"{len(question.turns)} turns; give one for each turn."
            )
    known = {str(question.id) for question in questions}
    if not given.keys() & known:
        raise UserError(f"{file} has references for none of the questions of {path}.")
    if Path(file).stem.endswith(_WRONG_SET) and given.keys() >= set(map(str, KNOWN_WRONG)):
        console.print(
            f"{file}: {len(KNOWN_WRONG)} of its {len(given)} references are known to be wrong "
            f"(questions {', '.join(map(str, KNOWN_WRONG))}); see docs/evaluation.md."
        )
    if unused := given.keys() - known:
        console.print(f"{file}: {len(unused):,} references belong to no question; not used.")
    return [
        replace(
            question,
            references=given.get(str(question.id), (None,) * len(question.turns)),
            reference_model=", ".join(sorted(models)),
        )
        for question in questions
    ]


def _file_of(references: str, path: str) -> str:
    beside = Path(path).parent / "reference_answer"
    if (beside / f"{references}.jsonl").exists():
        return str(beside / f"{references}.jsonl")
    if as_path(references).exists():
        return references
    sets = sorted(file.stem for file in beside.glob("*.jsonl"))
    known = f"the sets beside {path} are {', '.join(sets)}" if sets else "it is not a file"
    raise UserError(f"there are no references {references!r}: {known}.")


def _parse_reference(row: dict[str, Any]) -> tuple[str, tuple[str | None, ...], str]:
    choices = row.get("choices")
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        raise BrokenRowError("no `choices`", "a reference has question_id and choices")
    texts = _references(choices[0].get("turns"), "turns")
    return name_at(row, "question_id"), texts, optional_text(row, "model_id")
