"""Settings of making negatives. Imports no HTTP client, so `--help` is fast."""

from dataclasses import dataclass, field
from typing import Literal, get_args

from parrot_jax.api.endpoint_config import JobEndpointConfig
from parrot_jax.core.errors import UserError
from parrot_jax.core.paths import require_local_folder
from parrot_jax.dialogue.sources import SourceConfig

Kind = Literal["neglect", "hallucination", "misunderstanding"]
KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True, kw_only=True)
class NegativesConfig:
    """Lets a model write answers that miss their context, and pairs them with the collected ones.

    Raises:
      UserError: A value is outside its range.
    """

    out: str
    """The folder of `pairs/`, `dropped.jsonl`, `summary.json` and the journal, on a local
    disk."""

    sources: tuple[SourceConfig, ...]
    """The dialogues, the same as for `parrot negatives select`."""

    selection: str | None = None
    """The file of `parrot negatives select`; null = select by the rules."""

    kinds: tuple[Kind, ...] = KINDS
    """`neglect`: the question is answered without its dialogue. `hallucination`: the same, guessing
    what it refers to. `misunderstanding`: answered from an irrelevant part of the dialogue."""

    per_kind: int = 10_000
    """Most pairs of each kind, >= 1. Questions are taken in the order of the selection until there
    are as many."""

    generator: JobEndpointConfig
    """Writes the negatives."""

    prompts: dict[str, str] = field(default_factory=dict)
    """Prompt files by kind, in place of those in the package: Jinja2 templates with the variable
    `question`, sent as the last message."""

    similarity: float = 60.0
    """Drop negatives with at least this similarity to the chosen answer, in (0, 100]: ROUGE-L times
    100. Between the answers of different models to one question of MT-Bench its median is 34,
    between answers to different questions 12."""

    language_switch: float | None = 0.95
    """Drop negatives in another language than the chosen answer with at least this probability, in
    (0, 1]. Texts with fewer than 20 letters are skipped. Null = off."""

    seed: int = 0
    """Seed of all requests, and of the order without a selection; >= 0."""

    def __post_init__(self) -> None:
        require_local_folder(self.out, "out")
        for name, least in (("per_kind", 1), ("seed", 0)):
            if getattr(self, name) < least:
                raise UserError(f"{name} is {getattr(self, name)}; it must be at least {least}.")
        if not self.kinds or len(set(self.kinds)) < len(self.kinds):
            raise UserError(f"kinds is {list(self.kinds)}; name one kind or more, each once.")
        for kind in self.prompts:
            if kind not in KINDS:
                raise UserError(f"prompts has {kind!r}; the kinds are {', '.join(KINDS)}.")
        if not 0 < self.similarity <= 100:
            raise UserError(f"similarity is {self.similarity}; it must be in (0, 100].")
        if self.language_switch is not None and not 0 < self.language_switch <= 1:
            raise UserError(
                f"language_switch is {self.language_switch}; it must be in (0, 1], or null."
            )
