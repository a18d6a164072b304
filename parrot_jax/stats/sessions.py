"""Which sessions of a file are judged, and what of them the judge sees."""

from typing import NamedTuple

from parrot_jax.dialogue.draw import draw
from parrot_jax.dialogue.report import ReadReport
from parrot_jax.dialogue.sources import SourceConfig, read_sources


class Session(NamedTuple):
    """A session as the judge sees it."""

    questions: tuple[str, ...]


def draw_sessions(source: SourceConfig, count: int, *, seed: int) -> list[Session]:
    """Reads a file once more and draws some of its sessions, by seed and content.

    Args:
      source: The file.
      count: How many are drawn, at most as many as there are.
      seed: Which ones; a larger count contains the smaller one.

    Raises:
      UserError: As in `read_sources`.
    """
    dialogues = read_sources([source], seed=0, report=ReadReport())
    drawn = draw(dialogues, count, seed=seed, where=source.path)
    return [Session(tuple(dialogue.questions())) for dialogue in drawn]
