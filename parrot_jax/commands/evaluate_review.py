"""Accept, edit or reject the questions of a built benchmark; each decision is saved at once."""

from dataclasses import dataclass
from typing import Annotated

import tyro

from parrot_jax.core.errors import UserError


@dataclass(frozen=True, kw_only=True)
class ReviewConfig:
    """The file, and who reviews it.

    Raises:
      UserError: The name is empty.
    """

    file: Annotated[str, tyro.conf.Positional]
    """The `questions.jsonl` of `parrot evaluate build`. Decisions are read from standard input, one
    in a line, so it also works without a terminal; at the end of the input, the review ends."""

    reviewer: str
    """Your name; the file says who accepted, edited or rejected a question."""

    def __post_init__(self) -> None:
        if not self.reviewer.strip() or not self.reviewer.isprintable():
            raise UserError(f"--reviewer is {self.reviewer!r}; give a name.")


Config = ReviewConfig


def run(config: ReviewConfig) -> None:
    """Asks about each question and prints the counts."""
    from parrot_jax.core.logs import console
    from parrot_jax.core.signals import as_ctrl_c
    from parrot_jax.evaluate.reviewing import review

    with as_ctrl_c():
        summary = review(config.file, reviewer=config.reviewer.strip())
    for line in summary.lines():
        console.print(line, markup=False, highlight=False)
