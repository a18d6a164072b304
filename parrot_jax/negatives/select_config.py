"""Settings of selecting questions. Imports no HTTP client, so `--help` is fast."""

from dataclasses import dataclass
from typing import Literal

from parrot_jax.api.endpoint_config import JobEndpointConfig
from parrot_jax.core.errors import UserError
from parrot_jax.core.paths import require_local_folder
from parrot_jax.dialogue.sources import SourceConfig

Method = Literal["rules", "judge", "measured"]


@dataclass(frozen=True, kw_only=True)
class SelectConfig:
    """Selects questions that depend on their dialogue.

    Raises:
      UserError: A value is outside its range.
    """

    out: str
    """The folder of `selected.jsonl`, its summary and the journal, on a local disk."""

    sources: tuple[SourceConfig, ...]
    """The dialogues, e.g. `dialogues.jsonl` of a collection."""

    method: Method = "rules"
    """`rules`: words that refer back, or words left out; English, without any endpoint. `judge`: an
    endpoint judges what the rules select, as in the paper. `measured`: an endpoint answers every
    question with and without its dialogue, and questions with different answers are selected."""

    endpoint: JobEndpointConfig | None = None
    """The judge, or the model that answers, best with temperature 0; null with `rules`."""

    prompt: str | None = None
    """The judge's prompt: a Jinja2 template with the variables `earlier`, a list of the earlier
    questions, and `question`. Null = the one in the package."""

    limit: int = 10_000
    """Most questions to select, >= 1. They are drawn by seed and content, so a larger selection
    contains the smaller one."""

    context_similarity: float = 60.0
    """With `measured`, two answers with at least this similarity count as the same, in (0, 100]:
    ROUGE-L times 100, as in `parrot evaluate build`."""

    seed: int = 0
    """Seed of the draw and of all requests, >= 0."""

    def __post_init__(self) -> None:
        require_local_folder(self.out, "out")
        for name, least in (("limit", 1), ("seed", 0)):
            if getattr(self, name) < least:
                raise UserError(f"{name} is {getattr(self, name)}; it must be at least {least}.")
        if not 0 < self.context_similarity <= 100:
            raise UserError(
                f"context_similarity is {self.context_similarity}; it must be in (0, 100]."
            )
        if self.prompt is not None and self.method != "judge":
            raise UserError(f"method is {self.method}, which has no prompt; set `prompt: null`.")

    def check_endpoint(self) -> None:
        """Checks that there is an endpoint if the method needs one.

        Not in the constructor: the options `--method rules --endpoint null` are applied in turn.

        Raises:
          UserError: It is missing, or the method takes none.
        """
        if (self.endpoint is None) != (self.method == "rules"):
            raise UserError(
                f"method is {self.method} and the endpoint is "
                f"{'null' if self.endpoint is None else 'set'}; `judge` and `measured` need an "
                "endpoint, `rules` takes none."
            )
