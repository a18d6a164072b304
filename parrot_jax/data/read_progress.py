"""Estimates how much of a split's files has been read, for the remaining time."""

from collections.abc import Sequence
from pathlib import Path

from parrot_jax.core.paths import as_path
from parrot_jax.core.remote import RemotePath
from parrot_jax.dialogue.report import ReadReport
from parrot_jax.dialogue.sources import SourceConfig, source_files

_CHUNK_BYTES = 1 << 16
_WITH_LINES = (".json", ".jsonl")


class ReadProgress:
    """Weighs sources by the size of their files, and measures progress within a file by lines."""

    def __init__(self, sources: Sequence[SourceConfig]) -> None:
        """Counts the lines of the files.

        Args:
          sources: In reading order.
        """
        self._sources = sources
        self._sizes = [_size(source) for source in sources]
        self._lines = [
            {file: _num_lines(file) for file in source_files(source)} if _has_lines(source) else {}
            for source in sources
        ]

    def share(self, report: ReadReport) -> float | None:
        """The share that was read, in [0, 1]; None if unknown, e.g. for a data set of the hub.

        Args:
          report: The report of these sources, while they are read.
        """
        number = len(report.sources) - 1
        total = sum(self._sizes)
        if number < 0 or not total or not all(self._sizes):
            return None
        source, counts = self._sources[number], report.sources[number]
        wanted = source.sample or source.limit
        if wanted is not None:
            inner = counts.used / (wanted * source.weight)
        else:
            lines = self._lines[number]
            if report.place is None or report.place.source not in lines:
                return None
            files = list(lines)
            before = sum(lines[file] for file in files[: files.index(report.place.source)])
            read, all_lines = before + report.place.line, sum(lines.values())
            # For a list in a single line, the line number is useless.
            if counts.rows > read or not all_lines:
                return None
            inner = read / all_lines
        return min((sum(self._sizes[:number]) + self._sizes[number] * min(inner, 1.0)) / total, 1.0)


def _is_local(source: SourceConfig) -> bool:
    return source.kind != "huggingface" and not isinstance(as_path(source.path), RemotePath)


def _size(source: SourceConfig) -> int:
    """Total bytes of its files; 0 = unknown."""
    if not _is_local(source):
        return 0
    return sum(Path(file).stat().st_size for file in source_files(source))


def _has_lines(source: SourceConfig) -> bool:
    whole = source.sample is None and source.limit is None
    return (
        whole
        and _is_local(source)
        and all(Path(file).suffix in _WITH_LINES for file in source_files(source))
    )


def _num_lines(path: str) -> int:
    lines, last = 0, b"\n"
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            lines += chunk.count(b"\n")
            last = chunk[-1:]
    return lines + (last != b"\n")
