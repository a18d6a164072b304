"""A judge's verdicts in FastChat's files, on the items that people judged."""

import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from parrot_jax.core.errors import UserError
from parrot_jax.evaluate.fastchat import ComparedTurn, GradedTurn, parse_judgment
from parrot_jax.evaluate.rows import Rejected, check_paths, read_files
from parrot_jax.evaluate.verdicts import read_comparison, read_grade


class Place(NamedTuple):
    """What was judged."""

    models: tuple[str, ...]
    """One, or two in the order of the alphabet."""
    question: str
    turn: int
    """From 1."""


class Judgments:
    """The verdicts of judges.

    Attributes:
      by_judge: By judge and place: a grade; or a win of the first model, 1, a tie, 0.5, a loss, 0.
      unclear: Judgments without a clear verdict, by judge; they do not count.
      copies: Judgments of what was graded already, which are averaged, by judge.
      rejected: Invalid rows.
    """

    def __init__(self) -> None:
        self.by_judge: dict[str, dict[Place, float]] = {}
        self.unclear: Counter[str] = Counter()
        self.copies: Counter[str] = Counter()
        self.rejected = Rejected()


def read_judgments(paths: Sequence[str], *, num_models: int) -> Judgments:
    """Reads the files of `model_judgment/` of the kind that fits the task.

    Args:
      paths: The files.
      num_models: 1 = grades, 2 = comparisons.

    Raises:
      UserError: A file cannot be read, or no row is of that kind.
    """
    check_paths(paths)
    found, ratings = Judgments(), dict[tuple[str, Place], list[float]]()
    others = 0
    files: list[Path | str] = list(paths)
    for _, row in read_files(files, parse_judgment, found.rejected):
        if isinstance(row, GradedTurn) == (num_models == 2):
            others += 1
            continue
        place, number = _graded(row) if isinstance(row, GradedTurn) else _compared(row)
        judge = row.judge or "unnamed judge"
        found.by_judge.setdefault(judge, {})
        if number is None:
            found.unclear[judge] += 1
            continue
        earlier = ratings.setdefault((judge, place), [])
        found.copies[judge] += bool(earlier)
        earlier.append(number)
    if not ratings:
        kind = "grades" if num_models == 1 else "comparisons"
        why = f"{others:,} rows are of the other kind" if others else found.rejected.first()
        raise UserError(f"{', '.join(paths)} has no {kind} with a clear verdict: {why}.")
    for (judge, place), numbers in ratings.items():
        found.by_judge[judge][place] = math.fsum(numbers) / len(numbers)
    return found


def _graded(row: GradedTurn) -> tuple[Place, float | None]:
    grade = read_grade(row.text, or_single=True).value
    place = Place((row.model,), row.question_id, row.turn)
    return place, grade if isinstance(grade, float) else None


def _compared(row: ComparedTurn) -> tuple[Place, float | None]:
    """A turn whose orders disagree is a tie."""
    winners = [read_comparison(text, order).value for order, text in enumerate(row.texts)]
    place = Place(tuple(sorted(row.models)), row.question_id, row.turn)
    if None in winners:
        return place, None
    if winners[0] != winners[1] or winners[0] == "tie":
        return place, 0.5
    winner = row.models[0 if winners[0] == "model_1" else 1]
    return place, float(winner == place.models[0])
