"""Counts of reading dialogue files: rows, dialogues, rejected rows, repairs, ignored keys."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from parrot_jax.dialogue.raw_rows import printable
from parrot_jax.dialogue.readers import ReadRow
from parrot_jax.dialogue.turns import RowPlace

MAX_EXAMPLES = 10
_MAX_REASONS = 50
_OTHER_REASONS = "other reasons"
_OTHER_KEYS = "other keys"


@dataclass
class SourceCounts:
    """The counts of one source."""

    path: str
    kind: str
    rows: int = 0
    dialogues: int = 0
    """Usable dialogues read; a row of a tree format has many."""
    used: int = 0
    """Dialogues after applying `weight`."""
    broken: Counter[str] = field(default_factory=Counter)
    """Rejected rows by reason."""
    repairs: Counter[str] = field(default_factory=Counter)
    """Repairs by reason; one dialogue may need several."""
    passed_over: Counter[str] = field(default_factory=Counter)
    """Ignored keys of rows and messages."""

    def to_json(self) -> dict[str, Any]:
        """The counts as a JSON object; reasons with the largest count first."""
        return {
            "path": self.path,
            "kind": self.kind,
            "rows": self.rows,
            "dialogues": self.dialogues,
            "used": self.used,
            "broken": dict(self.broken.most_common()),
            "repairs": dict(self.repairs.most_common()),
            "passed_over": dict(self.passed_over.most_common()),
        }


@dataclass
class ReadReport:
    """Counts of `read_sources`; complete when its stream has ended."""

    sources: list[SourceCounts] = field(default_factory=list)
    examples: list[str] = field(default_factory=list)
    """The first rejected rows as `file:line: reason`."""
    place: RowPlace | None = None
    """The place of the last row that was read."""

    @property
    def rows(self) -> int:
        """Rows read, including rejected ones."""
        return sum(source.rows for source in self.sources)

    @property
    def dialogues(self) -> int:
        """Usable dialogues read, before weights."""
        return sum(source.dialogues for source in self.sources)

    @property
    def broken(self) -> Counter[str]:
        """Rejected rows by reason, over all sources."""
        return _total(source.broken for source in self.sources)

    @property
    def repairs(self) -> Counter[str]:
        """Repairs by reason, over all sources."""
        return _total(source.repairs for source in self.sources)

    @property
    def passed_over(self) -> Counter[str]:
        """Ignored keys, over all sources."""
        return _total(source.passed_over for source in self.sources)

    def count(self, counts: SourceCounts, row: ReadRow) -> None:
        """Adds one row to the counts of its source."""
        self.place = row.place
        counts.rows += 1
        counts.repairs.update(row.place.repairs)
        for key, number in row.place.passed_over.items():
            _add(counts.passed_over, printable(key, 60), number, other=_OTHER_KEYS)
        if row.problem is None:
            return
        _add(counts.broken, row.problem.reason, 1, other=_OTHER_REASONS)
        if len(self.examples) < MAX_EXAMPLES:
            self.examples.append(f"{row.place.source}:{row.place.line}: {row.problem}")

    def to_json(self) -> dict[str, Any]:
        """The whole report as a JSON object."""
        return {
            "rows": self.rows,
            "dialogues": self.dialogues,
            "broken": dict(self.broken.most_common()),
            "repairs": dict(self.repairs.most_common()),
            "passed_over": dict(self.passed_over.most_common()),
            "examples": self.examples,
            "sources": [source.to_json() for source in self.sources],
        }

    def summary(self) -> str:
        """The report as text: the totals, each source, the first rejected row."""
        lines = [
            f"read {self.rows:,} rows: {self.dialogues:,} dialogues, {_sum(self.broken)} rejected"
        ]
        for source in self.sources:
            line = f"  {source.path} ({source.kind}): {source.rows:,} rows"
            line += f", {source.dialogues:,} dialogues"
            if source.used != source.dialogues:
                line += f", {source.used:,} used"
            if source.broken:
                line += f", rejected: {_by_reason(source.broken)}"
            if source.repairs:
                line += f", repaired: {_by_reason(source.repairs)}"
            if source.passed_over:
                line += f", ignored keys: {_by_reason(source.passed_over)}"
            lines.append(line)
        if self.examples:
            lines.append(f"  first rejected row: {self.examples[0]}")
        return "\n".join(lines)


def _add(counts: Counter[str], name: str, number: int, *, other: str) -> None:
    # A file in the wrong format could have a new role or key in every row.
    known = name in counts or len(counts) < _MAX_REASONS
    counts[name if known else other] += number


def _total(counters: Iterable[Counter[str]]) -> Counter[str]:
    total: Counter[str] = Counter()
    for counter in counters:
        total.update(counter)
    return total


def _sum(counter: Counter[str]) -> str:
    return f"{counter.total():,}"


def _by_reason(counter: Counter[str]) -> str:
    return ", ".join(f"{reason} {count:,}" for reason, count in counter.most_common())
