"""Settings of an endpoint that asks. Imports no HTTP client, so `--help` is fast."""

from dataclasses import dataclass

from parrot_jax.api.endpoint_config import JobEndpointConfig
from parrot_jax.core.errors import UserError


@dataclass(frozen=True, kw_only=True)
class AskerEndpointConfig(JobEndpointConfig):
    """An endpoint that writes the user's next turn: a Parrot-Ask, another user model, or a prompt.

    Raises:
      UserError: A value is outside its range.
    """

    prompt: str | None = None
    """A Jinja2 template with an instruction, for a chat model that plays the user; it is sent after
    the dialogue as a user message, and may use `first_question`. Null = a model that was trained
    to ask."""

    intent: bool = False
    """Send what the user wants as the system message, as UserLM and SFTUser expect: the row's key
    `intent`, or the first question if the row has none."""

    end_token: str | None = None
    """The text with which the model ends a dialogue, e.g. `<|endconversation|>`. An empty reply
    always ends it."""

    first_turn: bool = False
    """Ask it for the first question, too; only for a model that can begin a dialogue."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.end_token is not None and not self.end_token.strip():
            raise UserError(
                f"end_token is {self.end_token!r}; give a text, or null: an empty reply ends a "
                "dialogue anyway."
            )
