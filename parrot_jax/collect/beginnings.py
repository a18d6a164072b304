"""What the dialogues of a collection begin with: chosen by seed and content, so that more is more.

Each dialogue of a source has a place in a random order that its text and the seed alone decide, and
a sample takes the first of that order. So a larger sample contains a smaller one, whatever the
order of the files, and a collection can grow without choosing anew.
"""

import hashlib
import heapq
from collections.abc import Iterator
from dataclasses import replace

from parrot_jax.collect.config import BeginningsConfig, CollectConfig
from parrot_jax.core.errors import UserError
from parrot_jax.dialogue.report import ReadReport
from parrot_jax.dialogue.sources import SourceConfig, read_sources
from parrot_jax.dialogue.types import Dialogue


def read_beginnings(config: CollectConfig, report: ReadReport) -> Iterator[Dialogue]:
    """Reads and draws the beginnings, source by source.

    Args:
      config: Names the sources and the seed.
      report: Filled while the result is consumed.

    Raises:
      UserError: A source cannot be read, or has fewer dialogues than are to be drawn.
    """
    for source in config.beginnings:
        candidates = _candidates(source, config.seed, report)
        if source.sample is None:
            yield from candidates
            continue
        keyed = ((_place(config.seed, dialogue), dialogue) for dialogue in candidates)
        drawn = heapq.nsmallest(source.sample, keyed, key=lambda pair: pair[0])
        if len(drawn) < source.sample:
            raise UserError(
                f"beginnings {source.path}: {source.sample:,} were to be drawn, but there are only "
                f"{len(drawn):,} that fit; lower sample, or give more files."
            )
        yield from (dialogue for _, dialogue in drawn)


def _candidates(source: BeginningsConfig, seed: int, report: ReadReport) -> Iterator[Dialogue]:
    wanted = SourceConfig(kind=source.kind, path=source.path)
    for dialogue in read_sources([wanted], seed=seed, report=report):
        if source.max_rounds is not None and dialogue.num_rounds > source.max_rounds:
            continue
        if source.take == "first_question":
            yield replace(dialogue, turns=dialogue.turns[:1])
        else:
            yield dialogue


def _place(seed: int, dialogue: Dialogue) -> bytes:
    # The id last: two dialogues with one text keep their order, and both stay.
    digest = hashlib.sha256(f"sample {seed} ".encode() + dialogue.content_hash())
    return digest.digest() + dialogue.id.encode()
