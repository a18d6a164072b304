"""Reads the dialogues of a file in one call."""

from collections.abc import Iterator

from parrot_jax.core.logs import console
from parrot_jax.dialogue.report import ReadReport
from parrot_jax.dialogue.sources import SourceConfig, SourceKind, read_sources
from parrot_jax.dialogue.types import Dialogue


def read_dialogues(
    path: str, kind: SourceKind = "messages", *, sample: int | None = None, seed: int = 0
) -> Iterator[Dialogue]:
    """Streams the dialogues of a file; at the end, prints a summary if rows were rejected.

    Args:
      path: A file or a glob, also in a bucket; `dialogues.jsonl` of a collection is one.
      kind: The format of the rows; docs/data_formats.md shows each.
      sample: Number of dialogues to draw by seed and content; None = all, in their order.
      seed: Seed of the sample.

    Raises:
      UserError: No file matches, or no row is usable.

    >>> import json, pathlib, tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp(), "dialogues.jsonl")
    >>> messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]
    >>> _ = path.write_text(json.dumps({"id": "d1", "messages": messages}))
    >>> [(d.id, d.num_rounds, d.turns[-1].text) for d in read_dialogues(str(path))]
    [('d1', 1, 'Hello.')]
    """
    report = ReadReport()
    yield from read_sources(
        [SourceConfig(kind=kind, path=path, sample=sample)], seed=seed, report=report
    )
    if report.broken:
        console.print(report.summary())
