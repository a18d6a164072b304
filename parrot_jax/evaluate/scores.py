"""Scores by model, history, question and turn, and their means with intervals and bounds."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, get_args

import numpy as np

from parrot_jax.core.errors import UserError
from parrot_jax.dialogue.raw_rows import BrokenRowError, printable
from parrot_jax.evaluate.answer_config import History
from parrot_jax.evaluate.fastchat import FOLDER, judge_at
from parrot_jax.evaluate.rows import (
    Rejected,
    by_name,
    count_at,
    name_at,
    number_at,
    optional_text,
    read_files,
)
from parrot_jax.evaluate.sheets import MAX_REASON, model_id_of
from parrot_jax.evaluate.verdicts import SCALE
from parrot_jax.intervals.bootstrap import ratio_intervals

_MOST = 1e6
"""The ends of a scale are not farther from 0."""
_AT_ONCE = 200
"""Means whose resamples are in memory at once."""


class Place(NamedTuple):
    """A question and a turn."""

    question: str
    turn: int
    """From 1."""


@dataclass
class Cell:
    """The judgments of one turn."""

    ratings: dict[int, float] = field(default_factory=dict)
    """By repeat, from 0."""
    unscored: list[str] = field(default_factory=list)
    """Why judgments have no rating."""
    failed: str = ""
    """Why there is no answer; empty = there is one."""

    @property
    def score(self) -> float | None:
        """The mean of the ratings; None without ratings."""
        return float(np.mean(list(self.ratings.values()))) if self.ratings else None


class Estimate(NamedTuple):
    """A mean over turns."""

    mean: float | None
    """None = no turn is scored."""
    low: float | None
    """Lower end of the interval; None with fewer than two questions."""
    high: float | None
    scored: int
    """Number of turns."""
    unscored: int
    """Turns with an answer and no rating."""
    failed: int
    """Turns without an answer."""
    least: float | None
    """The mean if all turns without a rating had the lowest one; None if there are no turns."""
    most: float | None
    """The mean if they had the highest one."""

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return self._asdict()


@dataclass
class Series:
    """The scores of one model with one history, by one judge."""

    model: str
    history: History
    judge: str
    scale: tuple[float, float] = SCALE
    cells: dict[Place, Cell] = field(default_factory=dict)
    categories: dict[str, str] = field(default_factory=dict)
    """By question."""
    asker_stops: dict[str, str] = field(default_factory=dict)
    """By question: what the asker did wrong, so that a collected dialogue ended."""

    _estimates: dict[tuple[int | None, str | None], Estimate] = field(default_factory=dict)
    """Those already computed: tables, pages and charts show the same ones."""

    def turns(self) -> list[int]:
        """The turns that were judged."""
        return sorted({place.turn for place in self.cells})

    def estimate(self, *, turn: int | None = None, category: str | None = None) -> Estimate:
        """The mean over the turns, or some of them, with the 95 % bootstrap interval.

        Questions are resampled with all their turns. Call it once all cells are there.

        Args:
          turn: Only this turn.
          category: Only questions of this category.
        """
        if (turn, category) not in self._estimates:
            self._estimates[turn, category] = self._estimate(turn, category)
        return self._estimates[turn, category]

    def _estimate(self, turn: int | None, category: str | None) -> Estimate:
        cells = {
            place: cell
            for place, cell in self.cells.items()
            if turn in (None, place.turn)
            and (category is None or self.categories.get(place.question, "") == category)
        }
        scores = {
            place: score for place, cell in cells.items() if (score := cell.score) is not None
        }
        failed = sum(cell.score is None and bool(cell.failed) for cell in cells.values())
        missing = len(cells) - len(scores)
        total = sum(scores.values())
        values = [(place.question, score) for place, score in scores.items()]
        low, high = clustered_interval(values, level=0.95)
        return Estimate(
            mean=total / len(scores) if scores else None,
            low=low,
            high=high,
            scored=len(scores),
            unscored=missing - failed,
            failed=failed,
            least=(total + missing * self.scale[0]) / len(cells) if cells else None,
            most=(total + missing * self.scale[1]) / len(cells) if cells else None,
        )

    def noise(self) -> float | None:
        """The judge's own noise: the standard error that it gives the overall mean.

        It follows from the standard deviation of the ratings of one answer, pooled over answers
        that were judged at least twice; an answer's score is the mean of its ratings.

        Returns:
          None if no answer was judged twice.
        """
        rated = [list(cell.ratings.values()) for cell in self.cells.values() if cell.ratings]
        free = sum(len(ratings) - 1 for ratings in rated)
        if free < 1:
            return None
        variance = sum(float(np.var(ratings)) * len(ratings) for ratings in rated) / free
        return float(np.sqrt(variance * sum(1 / len(ratings) for ratings in rated)) / len(rated))


@dataclass
class Scores:
    """The scores of some files."""

    series: dict[tuple[str, History, str], Series] = field(default_factory=dict)
    """By model, history and judge."""
    rejected: Rejected = field(default_factory=Rejected)

    def labels(self) -> dict[str, Series]:
        """The series by a name that tells them apart."""
        judges = {judge for _, _, judge in self.series}
        return by_name(
            (
                model_id_of(model, history)
                + (f" ({judge or 'unnamed judge'})" if len(judges) > 1 else ""),
                series,
            )
            for (model, history, judge), series in sorted(self.series.items(), key=_order)
        )


def _order(item: tuple[tuple[str, History, str], Series]) -> tuple[str, int, str]:
    (model, history, judge), _ = item
    return model, get_args(History).index(history), judge


class Grade(NamedTuple):
    """One judgment of one turn."""

    model: str
    history: History
    judge: str
    place: Place
    repeat: int
    """From 0."""
    score: float | None
    """None = no rating, for this `reason`."""
    failed: bool
    """Whether there is no answer."""
    reason: str
    category: str
    asker_stop: str
    scale: tuple[float, float]


def read_scores(paths: Sequence[Path | str]) -> Scores:
    """Reads judgments.

    Args:
      paths: Folders of `parrot evaluate judge`, or files of FastChat's `model_judgment/` with
        single grades.

    Raises:
      UserError: There are no judgments, or a turn was judged twice by the same judge.
    """
    found = Scores()
    files = [file for path in paths for file in grade_files(path)]
    for file, row in read_files(files, parse_grade, found.rejected):
        _add(found, row, file)
    if not found.series:
        raise UserError(f"{', '.join(map(str, paths))} has no grades: {found.rejected.first()}.")
    return found


def read_series(names: Sequence[str]) -> tuple[list[tuple[str, Series]], Rejected]:
    """Series by `RUN`, `RUN:MODEL` or `RUN:MODEL@HISTORY`.

    Returns:
      Each with a label that tells it from the others, and the rejected rows.

    Raises:
      UserError: There is no such run or model, or the run has several and none is named.
    """
    places = [_run_and_label(name) for name in names]
    runs = {path: read_scores([path]) for path in dict.fromkeys(path for path, _ in places)}
    rejected = Rejected()
    for run in runs.values():
        rejected.update(run.rejected)
    found = [_chosen(path, label, runs[path].labels()) for path, label in places]
    if len({label for label, _ in found}) < len(found):
        found = [(name, series) for name, (_, series) in zip(names, found, strict=True)]
    return found, rejected


def _run_and_label(name: str) -> tuple[str, str]:
    """Splits RUN:MODEL; both may contain colons, so the run is the longest path that exists."""
    ends = [len(name), *(at for at in reversed(range(len(name))) if name[at] == ":")]
    for end in ends:
        if Path(name[:end]).exists():
            return name[:end], name[end + 1 :]
    path, _, label = name.rpartition(":")
    return (path, label) if path else (name, "")


def _chosen(path: str, label: str, named: dict[str, Series]) -> tuple[str, Series]:
    if label:
        if label not in named:
            raise UserError(f"{path} has no {label!r}; it has {', '.join(named)}.")
        return label, named[label]
    own = {label: one for label, one in named.items() if one.history == "own"} or named
    if len(own) > 1:
        raise UserError(
            f"{path} has several models; name one, as in {path}:{next(iter(own))}. It has "
            f"{', '.join(named)}."
        )
    ((label, one),) = own.items()
    return label, one


def grade_files(path: Path | str) -> list[Path]:
    """The files with single grades of a folder of `parrot evaluate judge`, or the file itself.

    Raises:
      UserError: It is a folder without such files.
    """
    folder = Path(path)
    if not folder.is_dir():
        return [folder]
    files = sorted(folder.glob(f"{FOLDER}/*_single.jsonl"))
    if pairs := sorted(folder.glob(f"{FOLDER}/*_pair.jsonl")) if not files else []:
        raise UserError(
            f"{path} has comparisons and no grades; `parrot evaluate rescore {pairs[0]}` counts "
            "wins and ties."
        )
    if not files:
        raise UserError(
            f"{path} has no grades: {FOLDER}/*_single.jsonl is missing. `parrot evaluate judge` "
            "writes them."
        )
    return files


def parse_grade(row: dict[str, Any]) -> Grade:
    """Parses a row of such a file.

    Raises:
      BrokenRowError: A key is missing, has a wrong type, or the score is out of its range.
    """
    history = row.get("history", "own")
    if history not in get_args(History):
        raise BrokenRowError("unknown `history`", printable(repr(history), 40))
    low, high = _scale(row)
    score = number_at(row, "score")
    if "score" not in row:
        raise BrokenRowError("no `score`", "rows of pairs have none")
    if score == -1 < low:  # FastChat's mark of a text without a rating
        score = None
    if score is not None and not low <= score <= high:
        raise BrokenRowError("a score out of range", f"{score:g} is not from {low:g} to {high:g}")
    reason = row.get("reason")
    failed = row.get("failed", False)
    if not isinstance(failed, bool):
        raise BrokenRowError("no truth value in `failed`", printable(repr(failed), 40))
    if failed and score is not None:
        raise BrokenRowError("a score of a turn without an answer", f"{score:g}")
    repeat = row.get("repeat", 0)
    if type(repeat) is not int or repeat < 0:
        raise BrokenRowError("no count in `repeat`", printable(repr(repeat), 40))
    return Grade(
        model=name_at(row, "model").removesuffix(f"@{history}"),
        history=history,
        judge=judge_at(row),
        place=Place(name_at(row, "question_id"), count_at(row, "turn")),
        repeat=repeat,
        score=score,
        failed=failed,
        reason=printable(reason, MAX_REASON) if isinstance(reason, str) else "no rating",
        category=optional_text(row, "category"),
        asker_stop=optional_text(row, "asker_stop"),
        scale=(low, high),
    )


def _scale(row: dict[str, Any]) -> tuple[float, float]:
    scale = row.get("scale", SCALE)
    match scale:
        case [int() | float() as low, int() | float() as high] if -_MOST <= low < high <= _MOST:
            return float(low), float(high)
    raise BrokenRowError("no `scale`", f"{printable(repr(scale), 40)} is not [lowest, highest]")


def _add(found: Scores, row: Grade, file: Path | str) -> None:
    key = (row.model, row.history, row.judge)
    series = found.series.setdefault(key, Series(*key, scale=row.scale))
    if series.scale != row.scale:
        raise UserError(
            f"{file}: {row.model} is graded from {row.scale[0]:g} to {row.scale[1]:g}, and "
            f"elsewhere from {series.scale[0]:g} to {series.scale[1]:g}; report them apart."
        )
    cell = series.cells.setdefault(row.place, Cell())
    series.categories[row.place.question] = row.category
    if row.asker_stop:
        series.asker_stops[row.place.question] = row.asker_stop
    if row.repeat in cell.ratings:
        raise UserError(
            f"{file}: turn {row.place.turn} of question {row.place.question} of {row.model} was "
            f"judged twice by {row.judge or 'an unnamed judge'}; `parrot evaluate rescore` counts "
            "such copies."
        )
    if row.failed:
        cell.failed = row.reason
    elif row.score is None:
        cell.unscored.append(row.reason)
    else:
        cell.ratings[row.repeat] = row.score


def clustered_interval(
    values: Sequence[tuple[str, float]], *, level: float
) -> tuple[float | None, float | None]:
    """The bootstrap interval of the mean of values that belong to questions.

    Args:
      values: Question and value.
      level: See `ratio_intervals`.

    Returns:
      Both ends; None with values of fewer than two questions.
    """
    return clustered_intervals([values], level=level)[0]


def clustered_intervals(
    columns: Sequence[Sequence[tuple[str, float]]], *, level: float
) -> list[tuple[float | None, float | None]]:
    """The same for many means, from the same resamples."""
    resamples = 1000 if level <= 0.99 else 10_000
    places = {name: at for at, name in enumerate({name: 0 for c in columns for name, _ in c})}
    found: list[tuple[float | None, float | None]] = []
    for start in range(0, len(columns), _AT_ONCE):
        part = columns[start : start + _AT_ONCE]
        sums, counts = np.zeros((2, len(places), len(part)))
        for column, values in enumerate(part):
            for name, value in values:
                sums[places[name], column] += value
                counts[places[name], column] += 1
        ends = ratio_intervals(sums, counts, level=level, resamples=resamples)
        found += [
            (None, None) if np.isnan(low) else (float(low), float(high)) for low, high in ends
        ]
    return found


def reasons(series: Sequence[Series]) -> Iterator[tuple[str, Counter[str]]]:
    """Why turns have no score, counted: first missing answers, then unclear judgments."""
    what: Sequence[tuple[str, Callable[[Cell], list[str]]]] = (
        ("no answer", lambda cell: [cell.failed] if cell.failed else []),
        ("no clear rating", lambda cell: [] if cell.ratings else cell.unscored[:1]),
    )
    for name, of in what:
        counts = Counter(r for one in series for cell in one.cells.values() for r in of(cell))
        if counts:
            yield name, counts
