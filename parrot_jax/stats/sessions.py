"""Samples the sessions to judge."""

from typing import NamedTuple

from parrot_jax.dialogue.draw import draw
from parrot_jax.dialogue.report import ReadReport
from parrot_jax.dialogue.sources import SourceConfig, read_sources


class Session(NamedTuple):
    """The part of a session that the judge sees."""

    questions: tuple[str, ...]


def draw_sessions(source: SourceConfig, count: int, *, seed: int) -> list[Session]:
    """Reads a file and draws some of its sessions, by seed and content.

    Args:
      source: The file.
      count: Number of sessions to draw, at most the number in the file.
      seed: Seed of the draw; a larger count contains the smaller one.

    Raises:
      UserError: See `read_sources`.
    """
    dialogues = read_sources([source], seed=0, report=ReadReport())
    drawn = draw(dialogues, count, seed=seed, where=source.path)
    return [Session(tuple(dialogue.questions())) for dialogue in drawn]
