"""Settings of a collection. Loads no client, so help is instant."""

from dataclasses import dataclass, field
from typing import Literal

from parrot_jax.api.config import EndpointConfig, RetryConfig
from parrot_jax.collect.dialogue_state import OnReasoning
from parrot_jax.collect.stops import StopConfig
from parrot_jax.core.errors import UserError
from parrot_jax.core.paths import require_local
from parrot_jax.dialogue.sources import SourceKind


@dataclass(frozen=True, kw_only=True)
class BeginningsConfig:
    """A source of what dialogues begin with.

    Raises:
      UserError: A number is outside its range.
    """

    kind: SourceKind
    """The format of the rows, as in the configs of training; docs/data_formats.md shows each."""

    path: str
    """A file or a glob, or `hf://owner/name` for huggingface."""

    take: Literal["dialogue", "first_question"] = "dialogue"
    """`dialogue` extends it: one that ends with a question is answered first, one that ends with an
    answer is asked on. `first_question` begins anew from its first question."""

    max_rounds: int | None = None
    """Only dialogues of at most so many questions are taken, >= 1; null = all. The paper extends
    those of fewer than 3."""

    sample: int | None = None
    """So many are drawn at random, >= 1; null = all. The seed and the dialogues alone decide which,
    so a larger sample contains the smaller one, and a collection goes on if it is raised."""

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
    """A file with an instruction for a model that was not trained for its part, as a Jinja2
    template. An asker gets it behind the dialogue, as a user's message; an answerer before it, as
    the system's; a writer gets nothing else. It may use `first_question` and `max_turns`."""


@dataclass(frozen=True, kw_only=True)
class CollectConfig:
    """One collection: beginnings and endpoints in, a folder with journal and dialogues out.

    Either `asker` and `answerer` talk with each other, or `writer` writes whole dialogues.

    Raises:
      UserError: A value is outside its range, or a speaker is missing.
    """

    out: str
    """The folder, on a disk of this machine. Where it holds this collection already, it goes on
    from its journal."""

    asker: SpeakerConfig | None = None
    """Asks the next question: gets the dialogue as it is, ending with an answer. A Parrot-Ask
    behind `parrot serve` or vLLM; or, with `prompt`, any model that plays a user (iterative
    self-chat)."""

    answerer: SpeakerConfig | None = None
    """Answers: gets the dialogue as it is, ending with a question."""

    writer: SpeakerConfig | None = None
    """Writes a whole dialogue in one reply, as its prompt says (self-chat); instead of the other
    two."""

    beginnings: tuple[BeginningsConfig, ...]
    """What the dialogues begin with. The files are read once, into the journal."""

    max_turns: int = 10
    """A dialogue ends with so many questions and answers, its beginning included; >= 1. A finished
    collection goes on if it is raised."""

    when_context_is_full: Literal["stop", "truncate"] = "stop"
    """`stop` ends a dialogue that is longer than a speaker can read. `truncate` shows that speaker
    the first question and answer and the latest ones; the dialogue is then marked
    `truncated_context`."""

    reasoning: OnReasoning = "strip"
    """What is done where a model writes its reasoning into its reply, as `<think>...</think>` or
    in another usual form: `strip` leaves it out, `end` ends the dialogue before that reply, `keep`
    takes it for a part of the reply. It is counted in each case."""

    stops: StopConfig = field(default_factory=StopConfig)
    """Which questions and answers end a dialogue."""

    concurrency: int = 64
    """Dialogues that go on at once, >= 1; each has one request in flight."""

    retries: RetryConfig = field(default_factory=RetryConfig)
    """What is done when a request fails."""

    prices: str | None = None
    """A YAML file of prices: the model's name, then `prompt` and `completion` in USD for a million
    tokens."""

    budget: bool = True
    """Whether a speaker that costs something must have a price and a limit; `--no-budget` asks for
    neither."""

    if_exists: Literal["continue", "refuse", "restart"] = "continue"
    """What to do where the folder holds a collection. `restart` puts its files aside under other
    names and begins anew."""

    allow_changes: tuple[str, ...] = ()
    """Keys, or groups of keys, that may differ from the last start of the collection, e.g. `stops`
    or `answerer.temperature`. What was collected before stays as it is."""

    seed: int = 0
    """Decides the seed of every request, and which beginnings are drawn. Servers that keep to seeds
    give the same dialogues again."""

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
            raise UserError("writer has no prompt; name the file that tells it what to write.")

    def speakers(self) -> dict[str, SpeakerConfig]:
        """The endpoints by their names."""
        named = {"asker": self.asker, "answerer": self.answerer, "writer": self.writer}
        return {name: config for name, config in named.items() if config is not None}
