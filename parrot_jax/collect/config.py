"""Settings of a collection. Loads no client, so help is instant."""

import re
from dataclasses import dataclass, field

from parrot_jax.api.config import EndpointConfig, RetryConfig
from parrot_jax.core.errors import UserError
from parrot_jax.core.files import require_local
from parrot_jax.dialogue.sources import SourceConfig


@dataclass(frozen=True, kw_only=True)
class CollectConfig:
    """One collection: beginnings and two endpoints in, a folder with journal and dialogues out."""

    out: str
    """The folder, on a local disk. Where it holds this collection already, it goes on from its
    journal."""

    asker: EndpointConfig
    """Asks the next question: gets the dialogue as it is, ending with an answer. A Parrot-Ask
    behind `parrot serve` or vLLM."""

    answerer: EndpointConfig
    """Answers: gets the dialogue as it is, ending with a question."""

    beginnings: tuple[SourceConfig, ...]
    """Files of dialogues to extend; empty where `first_questions` are all. A dialogue that ends
    with a question is answered first, one that ends with an answer is asked on. The files are read
    once, into the journal."""

    first_questions: tuple[SourceConfig, ...] = ()
    """Files of dialogues of which only the first question is taken."""

    max_turns: int = 10
    """A dialogue ends with so many questions and answers, its beginning included; >= 1. A finished
    collection goes on if it is raised."""

    stop_answers: tuple[str, ...] = ()
    """Regular expressions. An answer in which one is found says nothing: it ends the dialogue, and
    is left out together with its question."""

    concurrency: int = 64
    """Dialogues that go on at once, >= 1; each has one request in flight."""

    retries: RetryConfig = field(default_factory=RetryConfig)
    """What is done when a request fails."""

    seed: int = 0
    """Decides the seed of every request, and which beginnings a fractional weight keeps. Servers
    that keep to seeds give the same dialogues again."""

    def __post_init__(self) -> None:
        require_local(self.out, "out")
        for name in ("max_turns", "concurrency"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}; it must be at least 1.")
        if not (self.beginnings or self.first_questions):
            raise UserError(
                "beginnings and first_questions are empty; name at least one {kind, path}."
            )
        for pattern in self.stop_answers:
            try:
                re.compile(pattern)
            except re.error as error:
                raise UserError(
                    f"stop_answers: {pattern!r} is no regular expression: {error}."
                ) from None
