"""Statistics as tables and JSON, without formatting."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from parrot_jax.core.published_names import name_to_publish, without_folders
from parrot_jax.dialogue.report import ReadReport
from parrot_jax.intervals.bootstrap import RESAMPLES
from parrot_jax.report.page import Table
from parrot_jax.stats.judge_config import JudgeConfig
from parrot_jax.stats.judge_prompts import JUDGED
from parrot_jax.stats.judging import Judgments
from parrot_jax.stats.measure_file import Estimate, FileStats, estimates_of
from parrot_jax.stats.measures import MEASURES, Amount, Measure
from parrot_jax.stats.published import PUBLISHED
from parrot_jax.stats.sessions import Session
from parrot_jax.version import __version__

NOTHING = "–"
_PLACE = re.compile(r"(.*?):\d+: ", re.S)
_MOST_TURNS_SHOWN = 12


class TokenizerName(NamedTuple):
    """The tokenizer that counted the tokens."""

    path: str
    vocab_size: int
    fingerprint: str
    """Hash, 64 hex digits; equal for equal tokenizers."""


@dataclass(frozen=True, kw_only=True)
class Statistics:
    """The statistics of some files."""

    files: Sequence[FileStats]
    tokenizer: TokenizerName | None
    """None = tokens were not counted."""
    judge: JudgeConfig | None
    judgments: Judgments | None
    """None = no judge."""
    sampled: Mapping[str, Sequence[Session]]
    """By label, the sessions sampled for the judge."""
    seed: int

    def judged(self, label: str) -> dict[str, Estimate]:
        """Returns the judge's results for a file by measure, without measures that have none."""
        if self.judgments is None:
            return {}
        sessions = [self.judgments.by_session[session] for session in self.sampled[label]]
        parts = [
            {key: Amount(j.number, 1) for key, j in judged.items() if j.number is not None}
            for judged in sessions
        ]
        return estimates_of(parts, self.seed)

    def to_json(self) -> dict[str, Any]:
        """Returns all numbers, with the settings and definitions needed to reproduce them."""
        return {
            "version": __version__,
            "seed": self.seed,
            "intervals": f"95 % percentile bootstrap over sessions, {RESAMPLES:,} resamples",
            "tokenizer": self.tokenizer._asdict() if self.tokenizer else None,
            "judge": self._judge_to_json(),
            "files": [self._file_to_json(file) for file in self.files],
            "published": [row._asdict() for row in PUBLISHED],
            "definitions": {
                key: {"unit": m.unit, "of": m.of, "definition": m.definition}
                for key, m in MEASURES.items()
            }
            | {key: {"definition": measure.definition} for key, measure in JUDGED.items()},
        }

    def _file_to_json(self, file: FileStats) -> dict[str, Any]:
        values: dict[str, Any] = {
            "label": file.label,
            "path": without_folders(file.source.path),
            "kind": file.source.kind,
            "read": _publishable(file.report.to_json()),
            "sessions": file.sessions,
            "sessions_by_turns": {str(turns): count for turns, count in file.turns.items()},
            "sessions_by_language": dict(file.languages),
            "later_question_words": {
                "median": file.later_length(0.5),
                "90 %": file.later_length(0.9),
            },
            "measures": {key: e._asdict() for key, e in file.estimates.items()},
        }
        if self.judgments is not None:
            sessions = self.sampled[file.label]
            values["judged"] = {
                "sessions": len(sessions),
                "measures": {key: e._asdict() for key, e in self.judged(file.label).items()},
                "not_judged": {key: self.judgments.reasons(sessions, key) for key in JUDGED},
            }
        return values

    def _judge_to_json(self) -> dict[str, Any] | None:
        if self.judge is None or self.judgments is None:
            return None
        judgments = self.judgments
        return {
            "base_url": self.judge.base_url,
            "model": name_to_publish(self.judge.model),
            "models_that_answered": list(map(name_to_publish, judgments.models)),
            "temperature": self.judge.temperature,
            "prompts": {
                key: {"file": prompt.path, "sha256": prompt.sha256}
                for key, prompt in judgments.prompts.items()
            },
            "requests": judgments.requests,
            "tokens": judgments.tokens,
            "uncertain_tokens": judgments.uncertain_tokens,
            "usd_at_most": judgments.usd,
            "problem": None if judgments.problem is None else str(judgments.problem),
        }


def table_1(statistics: Statistics, *, intervals: bool) -> Table:
    """Returns the papers' Table 1: the files, then the published rows.

    Args:
      statistics: The statistics.
      intervals: Whether to add the intervals.
    """

    def cell(estimate: Estimate | None, measure: Measure | None = None) -> str:
        if estimate is not None and not intervals:
            estimate = estimate._replace(low=None, high=None)
        return _cell(estimate, measure)

    columns = (
        "dataset", "sessions", "turns", "tokens", *(measure.name for measure in JUDGED.values()),
        "Self-ROUGE",
    )  # fmt: skip
    rows = []
    for file in statistics.files:
        judged = statistics.judged(file.label)
        rows.append(
            [
                file.label,
                f"{file.sessions:,}",
                cell(file.estimates.get("turns"), MEASURES["turns"]),
                cell(file.estimates.get("tokens"), MEASURES["tokens"]),
                *(cell(judged.get(key)) for key in JUDGED),
                cell(file.estimates.get("self_rouge"), MEASURES["self_rouge"]),
            ]
        )
    for name, *values in PUBLISHED:
        shown = [NOTHING if value is None else f"{value:,}" for value in values]
        rows.append([f"{name}, published", NOTHING, *shown])
    return Table(columns=columns, rows=rows)


def measures_table(statistics: Statistics) -> Table:
    """Returns all measures with intervals, one row per measure and one column per file."""
    files = statistics.files
    rows = []
    for key, measure in MEASURES.items():
        rows.append([measure.name, *(_cell(file.estimates.get(key), measure) for file in files)])
        if key == "later_question_words":
            for name, share in (("median", 0.5), ("90th percentile", 0.9)):
                lengths = [file.later_length(share) for file in files]
                shown = [NOTHING if words is None else f"{words:,}" for words in lengths]
                rows.append([f"{measure.name}: {name}", *shown])
    if statistics.judgments is not None:
        judged = [statistics.judged(file.label) for file in files]
        for key, measure in JUDGED.items():
            rows.append([f"{measure.name}, judged", *(_cell(found.get(key)) for found in judged)])
    english = [f"{file.languages.get('en', 0):,} of {file.sessions:,}" for file in files]
    rows.append(["English sessions", *english])
    return Table(columns=["measure", *(file.label for file in files)], rows=rows)


def turns_shares(files: Sequence[FileStats]) -> tuple[list[str], list[list[float]]]:
    """Returns Figure 3: numbers of turns, and for each file the shares of its sessions.

    The last category may include all higher numbers, as in `12+`.
    """
    most = max(max(file.turns) for file in files)
    shown = min(most, _MOST_TURNS_SHOWN)
    categories = [str(turns) for turns in range(1, shown + 1)]
    if most > shown:
        categories[-1] += "+"
    shares = []
    for file in files:
        gathered: Counter[int] = Counter()
        for turns, count in file.turns.items():
            gathered[min(turns, shown)] += count
        shares.append([gathered[turns] / file.sessions for turns in range(1, shown + 1)])
    return categories, shares


def turns_table(files: Sequence[FileStats]) -> Table:
    """Returns the numbers of Figure 3."""
    categories, shares = turns_shares(files)
    rows = [
        [turns, *(f"{100 * share[place]:.1f} %" for share in shares)]
        for place, turns in enumerate(categories)
    ]
    return Table(columns=["turns", *(file.label for file in files)], rows=rows)


def reading_table(files: Sequence[FileStats]) -> Table:
    """Returns rows, sessions, rejected rows and repairs of each file."""
    rows = []
    for file in files:
        report = file.report
        rows.append(
            [
                file.label, without_folders(file.source.path), file.source.kind,
                f"{report.rows:,}",
                f"{file.sessions:,}", _by_reason(report.broken), _by_reason(report.repairs),
            ]
        )  # fmt: skip
    columns = ("dataset", "path", "kind", "rows", "sessions", "rejected rows", "repairs")
    return Table(columns=columns, rows=rows, text_columns=3)


def judged_table(statistics: Statistics) -> Table | None:
    """Returns how many sessions were judged, and why others were not; None without a judge."""
    if statistics.judgments is None:
        return None
    rows = []
    for file in statistics.files:
        sessions = statistics.sampled[file.label]
        for key, measure in JUDGED.items():
            reasons = statistics.judgments.reasons(sessions, key)
            num_judged = len(sessions) - sum(reasons.values())
            numbers = (f"{len(sessions):,}", f"{num_judged:,}")
            rows.append([file.label, measure.name, *numbers, _by_reason(reasons)])
    columns = ("dataset", "measure", "sessions sampled", "judged", "not judged")
    return Table(columns=columns, rows=rows, text_columns=2)


def definitions_table() -> Table:
    """Returns the definition and the population of each measure."""
    rows = [[measure.name, measure.of, measure.definition] for measure in MEASURES.values()]
    rows += [[measure.name, "judged sessions", measure.definition] for measure in JUDGED.values()]
    return Table(columns=("measure", "of", "definition"), rows=rows, text_columns=3)


def notes(statistics: Statistics) -> list[str]:
    """Returns notes on how to read the numbers."""
    tokenizer = statistics.tokenizer
    texts = [
        "In brackets: 95 % bootstrap intervals over whole sessions, "
        f"{RESAMPLES:,} resamples. They are too narrow if sessions share turns, as paths of one "
        "tree do.",
        f"Tokens were counted with {tokenizer.path} ({tokenizer.vocab_size:,} pieces, fingerprint "
        f"{tokenizer.fingerprint[:12]})."
        if tokenizer
        else "Tokens were not counted; set --tokenizer to count them.",
        "Published rows are from the papers (arXiv:2310.07301), with an unknown tokenizer and "
        "other judge prompts: compare the order, not the digits.",
    ]
    if statistics.judge is not None and (judgments := statistics.judgments) is not None:
        models = ", ".join(map(name_to_publish, judgments.models)) or "no reply"
        cost = "" if judgments.usd is None else f", at most {judgments.usd:,.2f} USD"
        prompts = ", ".join(f"{p.path} {p.sha256[:12]}" for p in judgments.prompts.values())
        model = name_to_publish(statistics.judge.model)
        texts.append(
            f"Judge: {model} at {statistics.judge.base_url} (answering: {models}); "
            f"{judgments.requests:,} requests{cost}; prompts {prompts}."
        )
    return texts


def examples(report: ReadReport) -> list[str]:
    """Returns the first rejected rows, with file and line."""
    return list(map(_example, report.examples))


def _publishable(report: dict[str, Any]) -> dict[str, Any]:
    sources = [{**s, "path": without_folders(s["path"])} for s in report["sources"]]
    return {**report, "examples": list(map(_example, report["examples"])), "sources": sources}


def _example(text: str) -> str:
    found = _PLACE.match(text)
    return text if found is None else without_folders(found[1]) + text[found.end(1) :]


def _cell(estimate: Estimate | None, measure: Measure | None = None) -> str:
    """Formats a value with its interval."""
    unit = measure.unit if measure else "number"
    return NOTHING if estimate is None else estimate.shown(unit)


def _by_reason(reasons: Mapping[str, int]) -> str:
    ordered = sorted(reasons.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{reason} {count:,}" for reason, count in ordered) or "none"
