"""Counts and origin of an exported dataset, as shown by the card and the command."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class PartCounts:
    """Counts of a part."""

    dialogues: int
    turns: int
    """Question-answer turns, including those of the beginnings."""
    collected_turns: int


@dataclass(frozen=True, kw_only=True)
class About:
    """The origin of a dataset."""

    name: str
    license: str | None
    """Licence id of the hub, such as `cc-by-nc-4.0`; None = not stated."""
    speakers: Mapping[str, Mapping[str, Any]]
    """By name: the requested `model`, the names `reported` by its server, sampling, and `prompt`
    (path and sha256) if it has one."""
    beginnings: tuple[Mapping[str, Any], ...]
    filters: Mapping[str, Any]
    """Settings of the filters and of the stop rules."""
    begun: int
    """Number of dialogues of the collection, finished or not."""
    version: str
    """The version of parrot_jax."""


@dataclass(frozen=True, kw_only=True)
class DatasetSummary:
    """Counts of a written dataset."""

    dialogues: int
    parts: Mapping[str, PartCounts]
    stops: Mapping[str, int]
    """Number of dialogues by stop reason, most frequent first."""
    cut: Mapping[str, int]
    """Number of dialogues that a filter shortened, by reason."""
    left_out: Mapping[str, int]
    """Number of dialogues that a filter removed, by reason."""
    turns_with_reasoning: int
    """Turns that came with reasoning; `about.filters` has how it was handled."""
    unfinished: int
    """Dialogues of the collection that have not ended, or have no collected turn."""
    about: About

    def lines(self) -> list[str]:
        """The summary as text."""

        def listed(counts: Mapping[str, int]) -> str:
            return ", ".join(f"{reason} {count:,}" for reason, count in counts.items()) or "none"

        on_reasoning = self.about.filters.get("reasoning", "strip")
        parts = [
            f"  {name:9} {part.dialogues:,} dialogues, {part.turns:,} turns, of which "
            f"{part.collected_turns:,} were collected"
            for name, part in self.parts.items()
        ]
        return [
            f"{self.dialogues:,} dialogues exported; {self.unfinished:,} are not finished or "
            "have no collected turn",
            *parts,
            f"  cut       {listed(self.cut)}",
            f"  left out  {listed(self.left_out)}",
            *(
                [f"  reasoning in {self.turns_with_reasoning:,} turns: {on_reasoning}"]
                if self.turns_with_reasoning
                else []
            ),
        ]
