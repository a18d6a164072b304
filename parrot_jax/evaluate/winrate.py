"""AlpacaEval's win rate, from files of annotations.

A preference is 1 if the annotator prefers the first output (the baseline's), 2 if it prefers the
second (the model's), and 0 or 1.5 for a draw. AlpacaEval 2 has every number from 1 to 2: the
annotator's probability of the second output, plus 1.

Source: alpaca_eval, `metrics/winrate.py`.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from parrot_jax.core.errors import UserError
from parrot_jax.dialogue.raw_rows import BrokenRowError
from parrot_jax.evaluate.rows import (
    Rejected,
    by_name,
    check_paths,
    name_at,
    number_at,
    optional_text,
    read_files,
)
from parrot_jax.intervals.bootstrap import ratio_intervals

_DRAW = 0.0
_MAX_EXAMPLES = 10


class Annotation(NamedTuple):
    """One row of an annotations file."""

    model: str
    baseline: str
    instruction: str
    annotator: str
    preference: float | None
    """In [1, 2]; None = the annotator gave none."""


class LengthControlled(NamedTuple):
    """AlpacaEval's win rate at equal lengths; see `length_control.py`."""

    win_rate: float
    """In per cent."""
    standard_error: float
    """Of the predictions over the instructions, as AlpacaEval reports it."""
    is_extreme: bool
    """Whether it is so far from the plain win rate that AlpacaEval doubts the regression."""

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return self._asdict()


@dataclass
class WinRate:
    """The annotations of one model by one annotator against one baseline."""

    baseline: str
    annotator: str
    by_instruction: dict[str, list[float]] = field(default_factory=dict)
    """The wins of each instruction, in [0, 1]: 1 = the model is better. Empty = no preference."""
    annotations: int = 0
    length_controlled: LengthControlled | None = None
    """None = not asked for."""

    @property
    def wins(self) -> list[float]:
        """One win per instruction; the mean if it was annotated several times."""
        return [math.fsum(wins) / len(wins) for wins in self.by_instruction.values() if wins]

    @property
    def win_rate(self) -> float | None:
        """In per cent; None without any preference."""
        return 100 * math.fsum(self.wins) / len(self.wins) if self.wins else None

    @property
    def missing(self) -> int:
        """Instructions without a preference; they do not count."""
        return sum(not wins for wins in self.by_instruction.values())

    @property
    def duplicates(self) -> int:
        """Annotations of an instruction that had been annotated before."""
        return self.annotations - len(self.by_instruction)

    def interval(self) -> tuple[float, float] | None:
        """The 95 % bootstrap interval in per cent; None with fewer than two preferences."""
        wins = np.array(self.wins)[:, None]
        if len(wins) < 2:
            return None
        low, high = 100 * ratio_intervals(wins, np.ones_like(wins))[0]
        return float(low), float(high)

    def to_json(self) -> dict[str, Any]:
        """The figures as a JSON object."""
        controlled = self.length_controlled
        return {
            "win_rate": self.win_rate,
            "n": len(self.wins),
            "missing": self.missing,
            "duplicates": self.duplicates,
            "interval": self.interval(),
            "baseline": self.baseline,
            "annotator": self.annotator,
            **({"length_controlled": controlled.to_json()} if controlled else {}),
        }


@dataclass
class WinRates:
    """The win rates of some annotation files."""

    annotated: dict[tuple[str, str, str], WinRate] = field(default_factory=dict)
    """By model, annotator and baseline."""
    rejected: Rejected = field(default_factory=Rejected)
    examples: list[str] = field(default_factory=list)
    """The first annotations without a preference."""

    @property
    def models(self) -> dict[str, WinRate]:
        """By name; with annotator and baseline where a model has several of them."""
        entries = Counter(model for model, _, _ in self.annotated)
        return by_name(
            (
                model
                if entries[model] == 1
                else f"{model} ({annotator or 'unnamed annotator'} against {baseline})",
                rate,
            )
            for (model, annotator, baseline), rate in sorted(self.annotated.items())
        )

    def to_json(self) -> dict[str, Any]:
        """The figures as a JSON object, models by name."""
        return {
            "models": {name: rate.to_json() for name, rate in self.models.items()},
            "rejected": dict(self.rejected.reasons),
        }


def parse_annotation(row: dict[str, Any]) -> Annotation:
    """Parses a row of `annotations.json`.

    Raises:
      BrokenRowError: A key is missing, has a wrong type, or the preference is out of its range.
    """
    preference = number_at(row, "preference")
    if preference is not None and preference != _DRAW and not 1 <= preference <= 2:
        detail = f"{row['preference']} is not 0 or in [1, 2]"
        raise BrokenRowError("a preference out of range", detail)
    return Annotation(
        name_at(row, "generator_2"),
        name_at(row, "generator_1"),
        name_at(row, "instruction"),
        optional_text(row, "annotator"),
        1.5 if preference == _DRAW else preference,
    )


def win_rates(paths: Sequence[Path | str]) -> WinRates:
    r"""Computes the win rate of each model, over all files.

    Args:
      paths: Annotation files of AlpacaEval 1 or 2.

    Raises:
      UserError: A file cannot be read, or has no annotation.

    >>> path = getfixture("tmp_path") / "annotations.json"
    >>> row = '{"generator_1": "a", "generator_2": "b", "instruction": "%s", "preference": %s}'
    >>> rows = [row % ("Who?", 2), row % ("Why?", 0), row % ("How?", 1.25), row % ("No?", "null")]
    >>> _ = path.write_text("\n".join(rows))
    >>> figures = win_rates([path]).models["b"].to_json()
    >>> round(figures["win_rate"], 4), figures["n"], figures["missing"]
    (58.3333, 3, 1)
    """
    check_paths(paths)
    found = WinRates()
    for path, row in read_files(paths, parse_annotation, found.rejected):
        rate = found.annotated.setdefault(
            (row.model, row.annotator, row.baseline), WinRate(row.baseline, row.annotator)
        )
        rate.annotations += 1
        wins = rate.by_instruction.setdefault(row.instruction, [])
        if row.preference is not None:
            wins.append(row.preference - 1)
        elif len(found.examples) < _MAX_EXAMPLES:
            found.examples.append(f"{path}: {row.model}: {row.instruction[:60]!r}")
    if not found.annotated:
        raise UserError(
            f"no annotation was found in {', '.join(map(str, paths))}: {found.rejected.first()}. "
            "An annotation has instruction, generator_1, generator_2 and preference."
        )
    return found
