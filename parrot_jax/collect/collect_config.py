"""Settings of a collection. Imports no HTTP client, so `--help` is fast."""

from dataclasses import dataclass, field
from typing import Literal

from parrot_jax.api.endpoint_config import EndpointConfig, RetryConfig
from parrot_jax.collect.dialogue_state import OnReasoning
from parrot_jax.collect.stops import StopConfig
from parrot_jax.core.errors import UserError
from parrot_jax.core.paths import require_local
from parrot_jax.dialogue.sources import SourceKind


@dataclass(frozen=True, kw_only=True)
class BeginningsConfig:
    """A source of beginnings: first questions, or dialogues to extend.

    Raises:
      UserError: A number is outside its range.
    """

    kind: SourceKind
    """The format of the rows, as in training configs; docs/data_formats.md shows each."""

    path: str
    """A file or a glob, or `hf://owner/name` for huggingface."""

    take: Literal["dialogue", "first_question"] = "dialogue"
    """`dialogue` extends the dialogue: if it ends with a question, the answerer is next, else the
    asker. `first_question` keeps only its first question."""

    max_rounds: int | None = None
    """Largest number of questions of a dialogue, >= 1; longer ones are skipped; null = no limit.
    The paper extends dialogues with fewer than 3."""

    sample: int | None = None
    """Number of dialogues to draw at random, >= 1; null = all. The draw depends only on the seed
    and the dialogues: a larger sample contains the smaller one, so you can raise it and resume."""

    def __post_init__(self) -> None:
        for name in ("max_rounds", "sample"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(
                    f"beginnings {self.path}: {name} is {value}; it must be at least 1, or null."
                )


@dataclass(frozen=True, kw_only=True)
class SpeakerConfig(EndpointConfig):
    """An endpoint that speaks in a collection."""

    prompt: str | None = None
    """A Jinja2 template with an instruction, for a model that was not trained for this role. An
    asker gets it after the dialogue, as a user message; an answerer before it, as the system
    message; a writer gets only the prompt. It may use `first_question` and `max_turns`."""


@dataclass(frozen=True, kw_only=True)
class CollectConfig:
    """A collection: reads beginnings, calls endpoints, writes a folder with journal and dialogues.

    Either `asker` and `answerer` talk with each other, or `writer` writes whole dialogues.

    Raises:
      UserError: A value is outside its range, or a speaker is missing.
    """

    out: str
    """The folder, on a local disk. If it already holds this collection, it is resumed."""

    asker: SpeakerConfig | None = None
    """Writes the next question to a dialogue that ends with an answer: a Parrot-Ask, served by
    `parrot serve` or vLLM; or, with `prompt`, any model that plays a user (iterative self-chat)."""

    answerer: SpeakerConfig | None = None
    """Writes the answer to a dialogue that ends with a question."""

    writer: SpeakerConfig | None = None
    """Writes a whole dialogue in one reply, as its prompt says (self-chat). Replaces asker and
    answerer."""

    beginnings: tuple[BeginningsConfig, ...]
    """Sources of the beginnings. The files are read once, into the journal."""

    max_turns: int = 10
    """Most question-answer turns of a dialogue, including its beginning; >= 1. Raise it to extend a
    finished collection."""

    when_context_is_full: Literal["stop", "truncate"] = "stop"
    """`stop` ends a dialogue that exceeds a speaker's context. `truncate` shows that speaker only
    the first turn and the latest ones, and marks the dialogue `truncated_context`."""

    reasoning: OnReasoning = "strip"
    """What to do with reasoning in a reply (`<think>...</think>` or another common form): `strip`
    removes it, `end` ends the dialogue before that reply, `keep` leaves it in. It is always
    counted."""

    stops: StopConfig = field(default_factory=StopConfig)
    """Rules for questions and answers that end a dialogue."""

    concurrency: int = 64
    """Number of dialogues in progress at the same time, >= 1; each has one request in flight."""

    retries: RetryConfig = field(default_factory=RetryConfig)
    """Retries of failed requests."""

    prices: str | None = None
    """A YAML file with prices: for each model, `prompt` and `completion` in USD per million
    tokens."""

    budget: bool = True
    """Require a price and a limit for each paid speaker; `--no-budget` requires neither."""

    if_exists: Literal["continue", "refuse", "restart"] = "continue"
    """What to do if the folder already holds a collection. `restart` renames the old files and
    starts over."""

    allow_changes: tuple[str, ...] = ()
    """Keys, or groups of keys, that may differ from the last start of the collection, e.g. `stops`
    or `answerer.temperature`. Turns collected earlier are kept."""

    seed: int = 0
    """Seed of every request and of the sampling of beginnings. Servers that honour seeds give the
    same dialogues again."""

    def __post_init__(self) -> None:
        require_local(self.out, "out")
        for name in ("max_turns", "concurrency"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}; it must be at least 1.")
        if not self.beginnings:
            raise UserError("beginnings is empty; name at least one {kind, path}.")
        given = frozenset(self.speakers())
        if given not in (frozenset({"asker", "answerer"}), frozenset({"writer"})):
            raise UserError(
                f"the speakers are {', '.join(sorted(given)) or 'none'}; give asker and answerer, "
                "or writer alone."
            )
        if self.writer is not None and self.writer.prompt is None:
            raise UserError(
                "writer has no prompt; set writer.prompt to a file with its instruction."
            )

    def speakers(self) -> dict[str, SpeakerConfig]:
        """The configured endpoints by name."""
        named = {"asker": self.asker, "answerer": self.answerer, "writer": self.writer}
        return {name: config for name, config in named.items() if config is not None}
