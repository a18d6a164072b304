"""Sources of dialogues: selects files, applies limits and weights, and streams the dialogues.

`readers` handles the formats; this file handles paths, globs, limits, weights and errors of whole
sources.
"""

import hashlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from parrot_jax.core.errors import UserError
from parrot_jax.core.paths import as_path, matching_files
from parrot_jax.core.remote import RemotePath
from parrot_jax.dialogue.draw import draw
from parrot_jax.dialogue.hub import parse_hub_path, read_hub
from parrot_jax.dialogue.readers import ReadRow, WrongKindError, read_json_file
from parrot_jax.dialogue.report import ReadReport, SourceCounts
from parrot_jax.dialogue.types import Dialogue

__all__ = ["READERS", "ReadReport", "SourceConfig", "SourceKind", "read_sources", "source_files"]

SourceKind = Literal[
    "messages",
    "sharegpt",
    "pairs",
    "ultrachat",
    "baize",
    "oasst",
    "preference",
    "huggingface",
]


@dataclass(frozen=True, kw_only=True)
class SourceConfig:
    """One source of dialogues.

    Raises:
      UserError: A number is outside its range.
    """

    kind: SourceKind
    """The format of the rows; docs/data_formats.md shows each. If it is wrong, the error suggests
    the right one when it can."""
    path: str
    """A file or a glob (`**` = any folders), relative to the working directory or in a bucket, e.g.
    `gs://bucket/*.jsonl`; files are read in order of their names. For huggingface
    `hf://owner/name[/config][@split]` or a local folder; the default split is `train`."""
    weight: float = 1.0
    """How often each dialogue is used per epoch, > 0: 0.25 keeps a random quarter, 2 uses each
    twice, 1.5 uses each once and a random half of them twice. Depends on the seed."""
    limit: int | None = None
    """Largest number of usable dialogues to read from this source, >= 1, before the weight is
    applied; null = all."""
    sample: int | None = None
    """Number of dialogues to draw at random, >= 1, before the weight is applied; null = all. The
    draw depends on the seed and the texts, so a larger sample contains the smaller one. All of them
    are held in memory."""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.weight) and self.weight > 0):
            raise UserError(
                f"source {self.path}: weight is {self.weight}; it must be finite and > 0. "
                "Remove the source to leave it out."
            )
        for name in ("limit", "sample"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(
                    f"source {self.path}: {name} is {value}; it must be >= 1, or null for all."
                )


Reader = Callable[[str], Iterator[ReadRow]]

READERS: Mapping[SourceKind, Reader] = {
    "messages": partial(read_json_file, kind="messages"),
    "sharegpt": partial(read_json_file, kind="sharegpt"),
    "pairs": partial(read_json_file, kind="pairs"),
    "ultrachat": partial(read_json_file, kind="ultrachat"),
    "baize": partial(read_json_file, kind="baize"),
    "oasst": partial(read_json_file, kind="oasst"),
    "preference": partial(read_json_file, kind="preference"),
    "huggingface": read_hub,
}
"""The function that reads a file (or data set), by kind."""


def source_files(source: SourceConfig) -> list[str]:
    """The files that match the path of a source, sorted.

    Raises:
      UserError: No file matches, or the path is a folder.
    """
    if source.kind == "huggingface":
        parse_hub_path(source.path)
        return [source.path]
    path = as_path(source.path).expanduser()
    if path.is_dir():
        raise UserError(f"source {source.path} is a folder; name its files, e.g. {path}/**/*.json")
    # A file name may contain brackets, so try the path as a name first.
    if path.exists():
        return [str(path)]
    files = matching_files(path)
    if not files:
        where = "" if isinstance(path, RemotePath) else f" (looked from {Path.cwd()})"
        raise UserError(f"no file matches the source path {source.path!r}{where}; check the path.")
    return files


def read_sources(
    sources: Sequence[SourceConfig], *, seed: int, report: ReadReport
) -> Iterator[Dialogue]:
    """Streams the dialogues of all sources, one after the other.

    Only the current row is in memory. Rejected rows are counted in the report and skipped. The
    dialogues that a weight keeps depend only on the seed and their content, not on other files or
    their order.

    Args:
      sources: The sources to read.
      seed: Seed for fractional weights and samples.
      report: Filled while the stream is consumed.

    Returns:
      The stream. A dialogue that is used several times is repeated in place.

    Raises:
      UserError: Before the first dialogue: a path matches nothing. While streaming: the rows of a
        file are of another kind, or there was no usable dialogue.
    """
    if not sources:
        raise UserError("there are no sources; name at least one under `sources`.")
    files = [source_files(source) for source in sources]
    return _stream(list(zip(sources, files, strict=True)), seed, report)


def _stream(
    sources: list[tuple[SourceConfig, list[str]]], seed: int, report: ReadReport
) -> Iterator[Dialogue]:
    for source, files in sources:
        counts = SourceCounts(source.path, source.kind)
        report.sources.append(counts)
        dialogues: Iterable[Dialogue] = _read_files(source, files, counts, report)
        if source.sample is not None:
            dialogues = draw(dialogues, source.sample, seed=seed, where=f"source {source.path}")
        for dialogue in dialogues:
            copies = _copies(dialogue, source.weight, seed)
            counts.used += copies
            for _ in range(copies):
                yield dialogue
    if report.dialogues == 0:
        raise UserError(_nothing_usable(report))


def _read_files(
    source: SourceConfig, files: list[str], counts: SourceCounts, report: ReadReport
) -> Iterator[Dialogue]:
    for file in files:
        is_first = True
        for row in READERS[source.kind](file):
            # The first row shows a wrong kind before the whole file is read.
            if is_first and isinstance(row.problem, WrongKindError):
                raise UserError(
                    f"{file}:{row.place.line}: not a row of kind {source.kind!r}: {row.problem}."
                )
            is_first = False
            report.count(counts, row)
            for dialogue in row.dialogues:
                counts.dialogues += 1
                yield dialogue
                if counts.dialogues == source.limit:
                    return


def _copies(dialogue: Dialogue, weight: float, seed: int) -> int:
    whole = math.floor(weight)
    fraction = weight - whole
    if fraction == 0:
        return whole
    digest = hashlib.sha256(f"weight {seed} ".encode() + dialogue.content_hash()).digest()
    return whole + (int.from_bytes(digest[:8], "little") < fraction * 2**64)


def _nothing_usable(report: ReadReport) -> str:
    paths = ", ".join(source.path for source in report.sources)
    if report.rows == 0:
        return f"no dialogue in {paths}: the files have no rows; check the paths."
    reasons = ", ".join(f"{reason} {count:,}" for reason, count in report.broken.most_common(5))
    first = f"; the first is {report.examples[0]}" if report.examples else ""
    return f"no usable dialogue in {report.rows:,} rows of {paths}: {reasons}{first}"
