"""Parses the texts of FastChat's judgment files again, and compares with the stored scores.

FastChat stores -1 where it finds no rating, takes the first of several, and judges a question again
when its command is repeated. Here a text without one clear rating is unscored, and a question that
was judged twice counts once, with the mean of its judgments.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from parrot_jax.core.errors import UserError
from parrot_jax.dialogue.raw_rows import printable
from parrot_jax.evaluate.fastchat import ComparedTurn, GradedTurn, parse_judgment
from parrot_jax.evaluate.rows import Rejected, by_name, check_paths, read_files
from parrot_jax.evaluate.scores import clustered_interval
from parrot_jax.evaluate.verdicts import read_comparison, read_grade

_UNPARSED = -1.0
"""FastChat's score for a text without a rating."""

_MAX_EXAMPLES = 10


@dataclass
class ModelScores:
    """The judgments of one model by one judge."""

    by_turn: dict[tuple[str, int], list[float]] = field(default_factory=dict)
    """(question, turn) -> its ratings; empty = no judgment has a rating."""
    judgments: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    """Why texts have no rating."""
    disagreeing: int = 0
    """Judgments whose stored score is not what their text says."""

    def scores(self, turn: int | None = None) -> dict[tuple[str, int], float]:
        """One score per question and turn; the mean if it was judged several times."""
        return {
            cell: float(np.mean(ratings))
            for cell, ratings in self.by_turn.items()
            if ratings and turn in (None, cell[1])
        }

    def turns(self) -> list[int]:
        """The turns that were judged."""
        return sorted({turn for _, turn in self.by_turn})

    @property
    def unscored(self) -> int:
        """Questions and turns that were judged, without any rating."""
        return sum(not ratings for ratings in self.by_turn.values())

    @property
    def duplicates(self) -> int:
        """Judgments of a question and turn that had been judged before."""
        return self.judgments - len(self.by_turn)

    def interval(self, turn: int | None = None) -> tuple[float, float] | None:
        """The 95 % interval of the mean; questions are resampled with all their turns.

        Returns:
          None if fewer than two questions have a score.
        """
        values = [(question, score) for (question, _), score in self.scores(turn).items()]
        low, high = clustered_interval(values, level=0.95)
        return None if low is None or high is None else (low, high)

    def to_json(self) -> dict[str, Any]:
        """The figures as a JSON object; a mean without scores is null."""
        return {
            "mean": _mean(self.scores()),
            "mean_by_turn": {str(turn): _mean(self.scores(turn)) for turn in self.turns()},
            "n": len(self.scores()),
            "unscored": self.unscored,
            "duplicates": self.duplicates,
            "disagreeing": self.disagreeing,
            "interval": self.interval(),
        }


@dataclass
class PairScores:
    """The comparisons of two models by one judge; a turn whose orders disagree is a tie."""

    seen: set[tuple[str, int]] = field(default_factory=set)
    """The questions and turns."""
    wins: tuple[int, int] = (0, 0)
    ties: int = 0
    unscored: int = 0
    duplicates: int = 0
    """Comparisons after the first of a question and turn; they do not count."""
    disagreeing: int = 0
    reasons: Counter[str] = field(default_factory=Counter)

    def to_json(self) -> dict[str, Any]:
        """The figures as a JSON object."""
        n = sum(self.wins) + self.ties
        return {
            "wins_1": self.wins[0],
            "wins_2": self.wins[1],
            "ties": self.ties,
            "win_rate_1": 100 * (self.wins[0] + self.ties / 2) / n if n else None,
            "n": n,
            "unscored": self.unscored,
            "duplicates": self.duplicates,
            "disagreeing": self.disagreeing,
        }


@dataclass
class Rescored:
    """The scores of some judgment files."""

    graded: dict[tuple[str, str], ModelScores] = field(default_factory=dict)
    """By model and judge."""
    compared: dict[tuple[str, str, str], PairScores] = field(default_factory=dict)
    """By model 1, model 2 and judge."""
    rejected: Rejected = field(default_factory=Rejected)
    examples: list[str] = field(default_factory=list)
    """The first judgments that disagree with their text or have no rating."""

    @property
    def models(self) -> dict[str, ModelScores]:
        """By name; a model that several judges judged has one entry per judge."""
        judges = Counter(model for model, _ in self.graded)
        return by_name(
            (model if judges[model] == 1 else f"{model} ({judge or 'unnamed judge'})", scores)
            for (model, judge), scores in sorted(self.graded.items())
        )

    def to_json(self) -> dict[str, Any]:
        """The figures as a JSON object, models by name."""
        found: dict[str, Any] = {
            "models": {name: scores.to_json() for name, scores in self.models.items()}
        }
        if self.compared:
            found["pairs"] = [
                {"model_1": first, "model_2": second, "judge": judge, **scores.to_json()}
                for (first, second, judge), scores in sorted(self.compared.items())
            ]
        return found | {"rejected": dict(self.rejected.reasons)}


def rescore(paths: Sequence[Path | str]) -> Rescored:
    """Parses judgment files again.

    Args:
      paths: Files of FastChat's `model_judgment/`, single or pairwise.

    Raises:
      UserError: A file cannot be read, or no row is a judgment.

    >>> path = getfixture("tmp_path") / "judged.jsonl"
    >>> _ = path.write_text('{"question_id": 81, "model": "m", "turn": 1, "judgment": "[[7]]"}')
    >>> rescore([path]).models["m"].to_json()["mean"]
    7.0
    """
    check_paths(paths)
    found = Rescored()
    for path, row in read_files(paths, parse_judgment, found.rejected):
        if isinstance(row, GradedTurn):
            _add_grade(found, row, path)
        else:
            _add_comparison(found, row, path)
    if not (found.graded or found.compared):
        raise UserError(
            f"no judgment was found in {', '.join(map(str, paths))}: {found.rejected.first()}. "
            "A judgment has question_id, model, turn, judgment and score, as FastChat writes it."
        )
    return found


def _add_grade(found: Rescored, row: GradedTurn, path: Path | str) -> None:
    scores = found.graded.setdefault((row.model, row.judge), ModelScores())
    scores.judgments += 1
    ratings = scores.by_turn.setdefault((row.question_id, row.turn), [])
    grade, reason = read_grade(row.text, or_single=True)
    where = f"{path}: model {row.model}, question {row.question_id}, turn {row.turn}"
    if not isinstance(grade, float):
        scores.reasons[reason] += 1
        _note(found, f"{where}: unscored, {reason}")
    else:
        ratings.append(grade)
    expected = grade if isinstance(grade, float) else _UNPARSED
    if row.stored_score is not None and row.stored_score != expected:
        scores.disagreeing += 1
        said = f"{grade:g}" if isinstance(grade, float) else "no clear rating"
        stored = printable(repr(row.stored_score), 40)
        _note(found, f"{where}: stored {stored}, but the text has {said}")


def _add_comparison(found: Rescored, row: ComparedTurn, path: Path | str) -> None:
    scores = found.compared.setdefault((*row.models, row.judge), PairScores())
    cell = (row.question_id, row.turn)
    if cell in scores.seen:
        scores.duplicates += 1
        return
    scores.seen.add(cell)
    where = f"{path}: {' against '.join(row.models)}, question {row.question_id}, turn {row.turn}"
    winners = []
    for order, text in enumerate(row.texts):
        winner, reason = read_comparison(text, order)
        winners.append(winner or "error")
        if reason:
            scores.reasons[reason] += 1
    if any(old not in (None, new) for old, new in zip(row.stored_winners, winners, strict=True)):
        scores.disagreeing += 1
        _note(found, f"{where}: stored {row.stored_winners}, but the texts have {tuple(winners)}")
    if "error" in winners:
        scores.unscored += 1
        _note(found, f"{where}: unscored")
    elif winners[0] != winners[1] or winners[0] == "tie":
        scores.ties += 1
    else:
        first, second = scores.wins
        is_first = winners[0] == "model_1"
        scores.wins = (first + is_first, second + (not is_first))


def _note(found: Rescored, text: str) -> None:
    if len(found.examples) < _MAX_EXAMPLES:
        found.examples.append(text)


def _mean(scores: dict[tuple[str, int], float]) -> float | None:
    return float(np.mean(list(scores.values()))) if scores else None


def turns_without_judgment(models: Iterable[ModelScores]) -> int:
    """Questions and turns that some models have and others lack, summed over those that lack."""
    cells = [set(model.by_turn) for model in models]
    whole = set[tuple[str, int]]().union(*cells)
    return sum(len(whole) - len(own) for own in cells)
