"""Let people judge questions or answers in a browser: blind, by keys, saved at each key."""

from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from parrot_jax.core.errors import UserError


@dataclass(frozen=True, kw_only=True)
class AnnotateConfig:
    """What people judge, and where their verdicts go.

    Raises:
      UserError: A value is outside its range, or does not fit the task.
    """

    files: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="FILE...")]
    """human-like: dialogues, as for `parrot stats`. grade, compare: folders of `parrot evaluate
    answer` or files of FastChat's `model_answer/` with --benchmark, else dialogues, one file per
    model. review: one `questions.jsonl` of `parrot evaluate build`."""

    out: str | None = None
    """The file of the verdicts (SQLite), which also has the texts; if it exists, it is continued.
    None for review, whose decisions are in FILE itself."""

    task: Literal["human-like", "grade", "compare", "review"] = "human-like"
    """human-like: could a person have asked the question? grade: an answer from 1 to 10. compare:
    which of two answers is better. review: accept, edit or reject built questions."""

    questions: int | None = None
    """Number of questions or answers to draw from each file, model or pair of models; null = all
    that `per_dialogue` allows."""

    per_dialogue: int = 1
    """The most of them from one dialogue, >= 1."""

    benchmark: str | None = None
    """grade, compare: the file with the questions that were answered."""

    seed: int = 0
    """Seed of what is drawn, of its order, and of left and right."""

    port: int = 0
    """The port on this machine; 0 = a free one."""

    def __post_init__(self) -> None:
        if not self.files:
            raise UserError("no file was given; name at least one.")
        for name in ("questions", "per_dialogue"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"--{name.replace('_', '-')} is {value}; it must be at least 1.")
        if self.benchmark is not None and self.task not in ("grade", "compare"):
            raise UserError("--benchmark is for the tasks grade and compare only; remove it.")
        if self.task == "review":
            if self.out is not None:
                raise UserError(
                    "--out is not for the task review, whose decisions are in FILE itself; remove "
                    "it."
                )
            if (self.questions, self.per_dialogue, self.seed) != (None, 1, 0):
                raise UserError(
                    "--questions, --per-dialogue and --seed are not for the task review, which "
                    "asks about all open questions in their order; remove them."
                )
            if len(self.files) > 1:
                raise UserError(f"review takes one file, and {len(self.files)} were given.")
        elif self.out is None:
            raise UserError("--out is missing; name the file of the verdicts, e.g. --out a.sqlite.")


Config = AnnotateConfig


def run(config: AnnotateConfig) -> None:
    """Serves the pages until Ctrl-C."""
    from parrot_jax.annotate.serving import annotate

    annotate(
        config.files,
        config.out,
        task=config.task,
        questions=config.questions,
        per_dialogue=config.per_dialogue,
        benchmark=config.benchmark,
        seed=config.seed,
        port=config.port,
    )
