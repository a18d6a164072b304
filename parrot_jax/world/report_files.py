"""Reads and counts the results in a quickstart's folder, for its report."""

import itertools
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

from pydantic import TypeAdapter, ValidationError

from parrot_jax.core.errors import UserError
from parrot_jax.core.files import open_input
from parrot_jax.dialogue.readers import read_json_file
from parrot_jax.dialogue.types import Dialogue
from parrot_jax.dialogue.writers import DIALOGUES
from parrot_jax.evaluate.answer_config import History
from parrot_jax.evaluate.scores import read_scores
from parrot_jax.world.facts import Difficulty, World, make_world
from parrot_jax.world.mistakes import ErrorKind

T = TypeVar("T")

# Complete questions; the others depend on context.
_SELF_CONTAINED = frozenset({"full", "shift"})
_EXAMINED = ("chat", "chat_first_turn", "capo")
_MEND = "a stage of the quickstart writes this file; remove the folder and run it again."


@dataclass(frozen=True)
class AskFigures:
    """Measures of Parrot-Ask."""

    user_ppl_untrained: float
    user_ppl: float
    valid_question_rate: float
    kind_distance: float
    kind_distance_floor: float
    n: int
    """Number of its questions."""


@dataclass(frozen=True)
class CollectionFigures:
    """Measures of the collection."""

    mean_turns: float
    stops: dict[str, int]
    """Stop reason -> number of dialogues."""


@dataclass(frozen=True)
class CapoFigures:
    """Measures of CaPO; errors are shares of all answers, by kind."""

    pairs: int
    errors_by_kind: dict[ErrorKind, float]
    errors_by_kind_before: dict[ErrorKind, float]


@dataclass(frozen=True)
class Summary:
    """`summary.json`."""

    seed: int
    stages: dict[str, float]
    """Stage -> seconds."""
    ask: AskFigures
    collection: CollectionFigures
    capo: CapoFigures


@dataclass(frozen=True)
class KindsFile:
    """`kinds.json`: turn index -> kind -> number of questions."""

    asker: dict[int, dict[str, int]]
    people: dict[int, dict[str, int]]

    def shares(self) -> tuple[dict[str, float], dict[str, float]]:
        """Returns the shares of kinds, for the asker and for people, over the turns of both.

        Turns are weighted by the asker's questions for both, because the possible kinds depend on
        the turn.
        """
        turns = sorted(self.asker.keys() & self.people.keys())
        weights = {turn: sum(self.asker[turn].values()) for turn in turns}

        def shares(by_turn: dict[int, dict[str, int]]) -> dict[str, float]:
            found: dict[str, float] = {}
            for turn, weight in weights.items():
                for kind, count in by_turn[turn].items():
                    part = count / sum(by_turn[turn].values()) * weight / sum(weights.values())
                    found[kind] = found.get(kind, 0.0) + part
            return found

        return shares(self.asker), shares(self.people)


@dataclass(frozen=True)
class Collected:
    """The key `collection` of a collected dialogue."""

    part: Literal["question", "session"]
    """Its beginning: a first question, or a short session."""
    stop: str
    collected_turns: int
    """Number of collected answers."""


@dataclass(frozen=True)
class ExamRow:
    """A dialogue of the exam; every list has one entry per question."""

    kinds: list[str]
    questions: list[str]
    truths: list[str]
    answers: list[str]
    right: list[bool]

    def __post_init__(self) -> None:
        if len({len(entries) for entries in vars(self).values()}) > 1:
            raise ValueError("the lists of a row differ in length")


class Count(NamedTuple):
    """A number of right answers, and of all answers."""

    right: int
    answers: int

    @property
    def share(self) -> float:
        """In [0, 1]."""
        return self.right / self.answers


@dataclass(frozen=True)
class Exam:
    """The answers of one model; at least one dialogue, and all equally long."""

    rows: Sequence[ExamRow]

    def by_turn(self) -> list[Count]:
        """Returns the count at each turn."""
        marks = zip(*(row.right for row in self.rows), strict=True)
        return [Count(sum(turn), len(turn)) for turn in marks]

    def where(self, *, leaning: bool) -> Count:
        """Returns the count over questions that depend on context, or over the others."""
        marks = [
            right
            for row in self.rows
            for kind, right in zip(row.kinds, row.right, strict=True)
            if leaning == (kind not in _SELF_CONTAINED)
        ]
        return Count(sum(marks), len(marks))


@dataclass(frozen=True)
class StepRow:
    """A line of `metrics.jsonl`."""

    step: int
    loss: float
    live_tokens: int


@dataclass(frozen=True)
class _WorldFile:
    difficulty: Difficulty
    seed: int


@dataclass(frozen=True, kw_only=True)
class RunFiles:
    """Results of a run of `parrot train`."""

    steps: Sequence[StepRow]
    versions: dict[str, str | None]

    def mean_losses(self, most: int) -> list[tuple[int, float]]:
        """Returns (last step, mean loss per token) of at most `most` equal ranges of steps."""
        num_parts = min(len(self.steps), most)
        bounds = [len(self.steps) * part // num_parts for part in range(num_parts + 1)]
        means = []
        for start, stop in itertools.pairwise(bounds):
            part = self.steps[start:stop]
            loss = sum(row.loss * row.live_tokens for row in part)
            means.append((part[-1].step, loss / sum(row.live_tokens for row in part)))
        return means


@dataclass(frozen=True, kw_only=True)
class QuickstartFiles:
    """All results. No sequence is empty; all exams have the same questions."""

    summary: Summary
    world: World
    people: Sequence[Dialogue]
    kinds: KindsFile
    collected: Sequence[tuple[Dialogue, Collected]]
    ask: RunFiles
    chat: RunFiles
    chat_first_turn: RunFiles
    exam: Exam
    exam_first_turn: Exam
    exam_capo: Exam
    histories: dict[History, list[Count]]
    """Right answers of the model trained on all turns, by turn, for each history."""


def read_quickstart(folder: Path) -> QuickstartFiles:
    """Reads the folder of a quickstart.

    Raises:
      UserError: A file is missing or invalid; the message names it.
    """
    described = _read(folder / "world" / "world.json", TypeAdapter(_WorldFile).validate_python)
    exam, exam_first_turn, exam_capo = (
        _read_rows(folder / "exam" / f"{run}.jsonl", TypeAdapter(ExamRow).validate_python)
        for run in _EXAMINED
    )
    asked = [row.questions for row in exam]
    if any([row.questions for row in other] != asked for other in (exam_first_turn, exam_capo)):
        raise UserError(f"the files in {folder / 'exam'} have different questions; {_MEND}")
    return QuickstartFiles(
        summary=_read(folder / "summary.json", TypeAdapter(Summary).validate_python),
        world=make_world(described.difficulty, described.seed),
        people=_read_dialogues(folder / "world" / "people.jsonl"),
        kinds=_read(folder / "kinds.json", TypeAdapter(KindsFile).validate_python),
        collected=_read_collected(folder / "collect" / DIALOGUES),
        ask=_read_run(folder / "ask"),
        chat=_read_run(folder / "chat"),
        chat_first_turn=_read_run(folder / "chat_first_turn"),
        exam=Exam(exam),
        exam_first_turn=Exam(exam_first_turn),
        exam_capo=Exam(exam_capo),
        histories=_read_histories(folder / "exam" / "chat"),
    )


def _read_histories(folder: Path) -> dict[History, list[Count]]:
    """The grades of one model, by history."""
    scores = read_scores([folder])
    if scores.rejected.reasons:
        raise UserError(f"{scores.rejected.first()}; {_MEND}")
    counts: dict[History, list[Count]] = {}
    for series in scores.labels().values():
        marks: dict[int, list[float]] = {turn: [] for turn in series.turns()}
        for place, cell in series.cells.items():
            if cell.score is not None:
                marks[place.turn].append(cell.score)
        counts[series.history] = [Count(round(sum(found)), len(found)) for found in marks.values()]
    if not {"own", "reference", "none"} <= counts.keys():
        raise UserError(f"{folder} lacks grades of some histories; {_MEND}")
    return counts


def _read_run(folder: Path) -> RunFiles:
    return RunFiles(
        steps=_read_rows(folder / "metrics.jsonl", TypeAdapter(StepRow).validate_python),
        versions=_read(
            folder / "versions.json", TypeAdapter(dict[str, str | None]).validate_python
        ),
    )


def _read_dialogues(path: Path) -> list[Dialogue]:
    dialogues: list[Dialogue] = []
    for row in read_json_file(path, "messages"):
        if row.problem:
            raise UserError(f"{path}:{row.place.line}: {row.problem}; {_MEND}")
        dialogues += row.dialogues
    return _not_empty(dialogues, path)


def _read_collected(path: Path) -> list[tuple[Dialogue, Collected]]:
    check = TypeAdapter(Collected).validate_python
    return [
        (dialogue, _typed(check, dialogue.metadata.get("collection"), f"{path}: {dialogue.id}"))
        for dialogue in _read_dialogues(path)
    ]


def _read_rows(path: Path, check: Callable[[Any], T]) -> list[T]:
    with open_input(path) as file:
        rows = [
            _parsed(check, line, f"{path}:{number}") for number, line in enumerate(file, start=1)
        ]
    return _not_empty(rows, path)


def _read(path: Path, check: Callable[[Any], T]) -> T:
    with open_input(path) as file:
        return _parsed(check, file.read(), str(path))


def _parsed(check: Callable[[Any], T], text: str, where: str) -> T:
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(f"{where} is not valid JSON: {error}; {_MEND}") from None
    return _typed(check, value, where)


def _typed(check: Callable[[Any], T], value: Any, where: str) -> T:
    """Parses a JSON value as a type; ignores keys that the report does not need."""
    try:
        return check(value)
    except ValidationError as error:
        problem = error.errors()[0]
        key = "".join(f"{part}: " for part in problem["loc"])
        raise UserError(f"{where}: {key}{problem['msg']}; {_MEND}") from None


def _not_empty(rows: list[T], path: Path) -> list[T]:
    if not rows:
        raise UserError(f"{path} is empty; {_MEND}")
    return rows
