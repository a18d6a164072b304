"""Settings of building a longer benchmark. Imports no HTTP client, so `--help` is fast."""

import re
import unicodedata
from dataclasses import dataclass

from parrot_jax.api.endpoint_config import JobEndpointConfig
from parrot_jax.core.errors import UserError
from parrot_jax.core.paths import require_local_folder

MOST_ATTEMPTS = 20
"""Most proposals for one turn. The steps of the journal are numbered by it, so it is fixed."""


@dataclass(frozen=True, kw_only=True)
class AskerConfig(JobEndpointConfig):
    """The model that proposes questions: a prompted model, or Parrot-Ask without a prompt."""

    prompt: str | None = "configs/build/prompts/next_question.jinja"
    """A Jinja2 template, sent as the last message; its variables are `turn` and `turns`, the number
    of the wanted question and of all questions, and `avoid`, texts that were turned down. Null for
    a model that was trained to ask: it gets the dialogue alone."""


@dataclass(frozen=True, kw_only=True)
class BuildConfig:
    """A model asks further questions after those of a benchmark; filters and people check them.

    Raises:
      UserError: A value is outside its range.
    """

    out: str
    """The folder of the journal and of `questions.jsonl`, on a local disk; if it holds this
    benchmark, it is continued, and what people decided in `parrot evaluate review` is kept."""

    name: str
    """The name of the new benchmark; not MT-Bench++, whose questions only its authors have."""

    benchmark: str
    """The file with the first questions, in any form that `parrot evaluate answer` reads."""

    references: str | None = None
    """Reference answers for these questions, as for `parrot evaluate answer`. They are the answers
    in the dialogue; a question without one is answered by the answerer."""

    limit: int | None = None
    """Take the first dialogues only, >= 1; null = all."""

    turns: int = 8
    """Questions of a dialogue in the end, with those it begins with; >= 2. A higher number
    continues a benchmark."""

    asker: AskerConfig
    """Proposes the questions."""

    answerer: JobEndpointConfig
    """Writes the reference answers, and answers each proposal once more without the dialogue. With
    temperature 0 the two answers differ by the dialogue alone. A reply that reaches `max_tokens`
    counts and is marked."""

    attempts: int = 4
    """Most proposals for one turn, from 1 to 20; then the dialogue is left short."""

    fewest_chars: int = 10
    """Drop shorter questions, >= 1."""

    most_chars: int = 2000
    """Drop longer questions."""

    repeated_question: float | None = 90.0
    """Drop questions with at least this similarity to an earlier one of the dialogue, in (0, 100]:
    100 = the same words, below that by edit distance. Null = off."""

    language_switch: float | None = 0.95
    """Drop questions in another language than the first one with at least this probability, in (0,
    1]. Texts with fewer than 20 letters are skipped. Null = off."""

    require_context: bool = True
    """Drop questions that do not need their dialogue: the answers with and without it are too
    similar. False = only measure it."""

    context_similarity: float = 60.0
    """Answers with at least this similarity are too similar, in (0, 100]: ROUGE-L times 100.
    Between the answers of different models to one question of MT-Bench its median is 34, between
    answers to different questions 12."""

    seed: int = 0
    """Seed of all requests, >= 0."""

    def __post_init__(self) -> None:
        require_local_folder(self.out, "out")
        plain = re.sub(r"[^\w+]|_", "", unicodedata.normalize("NFKC", self.name).lower())
        if not any(map(str.isalnum, plain)) or not self.name.isprintable():
            raise UserError(f"name is {self.name!r}; it must be printable and have a letter.")
        if "mtbench++" in plain or plain in ("mtbenchplusplus", "mtbenchpp"):
            raise UserError(
                f"name is {self.name!r}; the questions of MT-Bench++ were never published, so "
                "these are others; choose another name."
            )
        for name, least in (("turns", 2), ("fewest_chars", 1), ("seed", 0), ("limit", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise UserError(f"{name} is {value}; it must be at least {least}.")
        if not 1 <= self.attempts <= MOST_ATTEMPTS:
            raise UserError(f"attempts is {self.attempts}; it must be from 1 to {MOST_ATTEMPTS}.")
        if self.most_chars < self.fewest_chars:
            raise UserError(
                f"most_chars is {self.most_chars} and fewest_chars {self.fewest_chars}; no "
                "question has such a length."
            )
        for name, most in _MOST.items():
            value = getattr(self, name)
            if value is not None and not 0 < value <= most:
                raise UserError(f"{name} is {value}; it must be in (0, {most}].")
        if self.asker.retries != self.answerer.retries:
            raise UserError(
                "asker.retries and answerer.retries differ; a run has one: make them equal."
            )
        if self.asker.prompt is None and self.asker.temperature == 0 and self.attempts > 1:
            raise UserError(
                "asker.temperature is 0 and asker.prompt null, so all proposals for a turn would "
                "be equal; raise the temperature or set attempts: 1."
            )


_MOST = {"repeated_question": 100, "language_switch": 1, "context_similarity": 100}
