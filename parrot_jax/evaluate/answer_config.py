"""Settings of answering a benchmark. Imports no HTTP client, so `--help` is fast."""

import re
from dataclasses import dataclass, field
from typing import Literal, get_args

from parrot_jax.api.endpoint_config import JobEndpointConfig
from parrot_jax.core.errors import UserError
from parrot_jax.core.paths import require_local_folder

_MAX_LABEL_BYTES = 200

History = Literal["own", "reference", "none"]
"""What a model sees before a question: its own answers, the reference answers, or nothing."""


def check_label(label: str, key: str) -> None:
    """Checks the name of a model that is also the name of a file.

    Raises:
      UserError: It cannot be both.
    """
    if not re.fullmatch(r"[^/\\]*[^/\\\s][^/\\]*", label) or not label.isprintable():
        problem = "it must be printable and not blank, without slashes"
    elif len(label.encode()) > _MAX_LABEL_BYTES:
        problem = f"it has at most {_MAX_LABEL_BYTES} bytes"
    else:
        return
    raise UserError(f"{key} is {label!r:.80}; it is also a file's name: {problem}.")


@dataclass(frozen=True, kw_only=True)
class AnswerConfig:
    """A model answers the questions of a benchmark, turn by turn.

    Raises:
      UserError: A value is outside its range.
    """

    out: str
    """The folder of the journal and the answers, on a local disk; if it holds this run, the run
    is resumed."""

    benchmark: str
    """The file with the questions: FastChat's, MT-Bench-101's, MT-Eval's or AlpacaEval's, or
    dialogues in any format, whose assistant turns are the references."""

    references: str | None = None
    """Reference answers in place of those in the benchmark: a file in FastChat's form, or the name
    of a set in `reference_answer/` beside the benchmark."""

    limit: int | None = None
    """Answer the first questions only, >= 1; null = all."""

    answerer: JobEndpointConfig
    """The model. A reply that reaches `max_tokens` counts as its answer; MT-Bench uses 1024."""

    name: str | None = None
    """The model's name in tables and files; null = the last part of `answerer.model`."""

    history: tuple[History, ...] = ("own",)
    """What the model sees before each question, one run of the benchmark for each value. `own`: its
    own answers, as in MT-Bench. `reference`: the reference answers; the difference to `own` is the
    loss by errors that are carried over. `none`: nothing; shows which questions need their
    context."""

    temperatures: dict[str, float] = field(default_factory=dict)
    """Temperature by category of the question, each >= 0; other categories use
    `answerer.temperature`."""

    seed: int = 0
    """Seed of all requests, >= 0."""

    def __post_init__(self) -> None:
        require_local_folder(self.out, "out")
        if self.limit is not None and self.limit < 1:
            raise UserError(f"limit is {self.limit}; it must be at least 1, or null.")
        if self.seed < 0:
            raise UserError(f"seed is {self.seed}; it must be at least 0.")
        if not self.history or len(set(self.history)) < len(self.history):
            raise UserError(
                f"history is {list(self.history)}; give own, reference or none, each at most once."
            )
        for category, value in self.temperatures.items():
            if not 0 <= value < float("inf"):
                raise UserError(
                    f"temperatures.{category} is {value}; it must be finite and at least 0."
                )
        check_label(self.label, "name")
        if self.label.endswith(tuple(f"@{history}" for history in get_args(History))):
            raise UserError(
                f"name is {self.label!r}; in files, such an end marks the history. Set another "
                "`name`."
            )

    @property
    def label(self) -> str:
        """The model's name in tables and files."""
        return self.name or self.answerer.model.rstrip("/").rpartition("/")[2]
