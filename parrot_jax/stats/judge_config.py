"""Settings of a judge. Imports no HTTP client, so `--help` is fast."""

from dataclasses import dataclass, field

from parrot_jax.api.endpoint_config import EndpointConfig, RetryConfig
from parrot_jax.core.errors import UserError


@dataclass(frozen=True, kw_only=True)
class JudgeConfig(EndpointConfig):
    """An endpoint that judges the questions of sessions.

    Raises:
      UserError: See `EndpointConfig`; or the judge may cost something and has no budget.
    """

    concurrency: int = 16  # pyright: ignore[reportIncompatibleVariableOverride]  # always known here
    """Limit on concurrent requests, >= 1."""

    retries: RetryConfig = field(default_factory=RetryConfig)
    """Retries of failed requests."""

    def __post_init__(self) -> None:
        super().__post_init__()
        is_limited = self.budget_usd is not None or self.budget_tokens is not None
        costs = (
            not self.is_local if self.price is None else self.price.prompt + self.price.completion
        )
        if costs and not is_limited:
            raise UserError(
                f"the judge {self.model!r} may cost something and has no limit; set budget_usd or "
                "budget_tokens."
            )
        if self.budget_usd is not None and self.price is None:
            raise UserError(
                f"the judge {self.model!r} has a budget_usd and no price; set "
                "price: {prompt: USD, completion: USD} per million tokens, or budget_tokens."
            )
