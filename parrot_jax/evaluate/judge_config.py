"""Settings of judging answers. Imports no HTTP client, so `--help` is fast."""

from dataclasses import dataclass
from typing import Literal

from parrot_jax.api.endpoint_config import JobEndpointConfig
from parrot_jax.core.errors import UserError
from parrot_jax.core.paths import require_local_folder
from parrot_jax.dialogue.sources import SourceConfig
from parrot_jax.evaluate.answer_config import check_label

MAX_ATTEMPTS = 100
"""Steps of the journal for one judgment."""


@dataclass(frozen=True, kw_only=True)
class DialoguesConfig(SourceConfig):
    """Dialogues to judge: any file, or the folder of a collection (`kind: messages`)."""

    name: str
    """The name of the model that answers in them."""


@dataclass(frozen=True, kw_only=True)
class JudgeConfig:
    """A judge grades the answers of models, turn by turn, or compares them.

    Raises:
      UserError: A value is outside its range, or there is nothing to judge.
    """

    out: str
    """The folder of the journal and the judgments, on a local disk; if it holds this run, the run
    is resumed."""

    benchmark: str | None = None
    """The file with the questions that were answered; required with `answers`."""

    references: str | None = None
    """Reference answers in place of those in the benchmark: a file in FastChat's form, or the name
    of a set in `reference_answer/` beside the benchmark. The judge sees a reference where all turns
    so far have one."""

    answers: tuple[str, ...] = ()
    """Folders of `parrot evaluate answer`, or files of FastChat's `model_answer/`."""

    dialogues: tuple[DialoguesConfig, ...] = ()
    """Dialogues to judge as they are, without a benchmark."""

    judge: JobEndpointConfig
    """The judge's endpoint. A judge with temperature 0 still varies; see `repeats`."""

    mode: Literal["single", "pairwise"] = "single"
    """`single` grades each answer from 1 to 10. `pairwise` compares the models in both orders; a
    turn whose orders disagree is a tie."""

    baseline: str | None = None
    """pairwise: compare each model with this one only; null = all pairs."""

    prompts: str | None = None
    """A file of prompts in the form of FastChat's `judge_prompts.jsonl`; null = the prompts of the
    package."""

    repeats: int = 1
    """How often each answer is judged, >= 1. From 2 on, the report shows the judge's own noise."""

    attempts: int = 3
    """How often the judge is asked, 1 to 100, until its reply has a clear rating. After that, the
    answer is unscored."""

    seed: int = 0
    """Seed of all requests, >= 0."""

    def __post_init__(self) -> None:
        require_local_folder(self.out, "out")
        for name, least in (("repeats", 1), ("attempts", 1), ("seed", 0)):
            if getattr(self, name) < least:
                raise UserError(f"{name} is {getattr(self, name)}; it must be at least {least}.")
        if self.attempts > MAX_ATTEMPTS:
            raise UserError(f"attempts is {self.attempts}; it must be at most {MAX_ATTEMPTS}.")
        if not (self.answers or self.dialogues):
            raise UserError("there is nothing to judge; set `answers` or `dialogues`.")
        if self.answers and self.benchmark is None:
            raise UserError("`answers` has no questions; set `benchmark` to the file of them.")
        for key in ("benchmark", "references"):
            if not self.answers and getattr(self, key) is not None:
                raise UserError(f"`{key}` is for `answers` only; remove it, or set `answers`.")
        check_label(self.label, "the name in judge.model")
        if self.baseline is not None and self.mode != "pairwise":
            raise UserError("`baseline` is for `mode: pairwise` only; remove it.")

    @property
    def label(self) -> str:
        """The judge's name in tables and files."""
        return self.judge.model.rstrip("/").rpartition("/")[2]
