"""Reads, filters and samples the beginnings of a collection's dialogues."""

from collections.abc import Iterator
from dataclasses import replace

from parrot_jax.collect.collect_config import BeginningsConfig, CollectConfig
from parrot_jax.dialogue.draw import draw
from parrot_jax.dialogue.report import ReadReport
from parrot_jax.dialogue.sources import SourceConfig, read_sources
from parrot_jax.dialogue.types import Dialogue


def read_beginnings(config: CollectConfig, report: ReadReport) -> Iterator[Dialogue]:
    """Reads and samples the beginnings, source by source.

    Args:
      config: Names the sources and the seed.
      report: Filled while the result is consumed.

    Raises:
      UserError: A source cannot be read, or has fewer dialogues than its `sample`.
    """
    for source in config.beginnings:
        candidates = _candidates(source, config.seed, report)
        if source.sample is None:
            yield from candidates
            continue
        yield from draw(
            candidates, source.sample, seed=config.seed, where=f"beginnings {source.path}"
        )


def _candidates(source: BeginningsConfig, seed: int, report: ReadReport) -> Iterator[Dialogue]:
    wanted = SourceConfig(kind=source.kind, path=source.path)
    for dialogue in read_sources([wanted], seed=seed, report=report):
        if source.max_rounds is not None and dialogue.num_rounds > source.max_rounds:
            continue
        if source.take == "first_question":
            yield replace(dialogue, turns=dialogue.turns[:1])
        else:
            yield dialogue
