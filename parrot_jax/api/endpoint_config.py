"""Settings of endpoints and retries. Imports no HTTP client, so `--help` is fast."""

import ipaddress
import json
import math
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import urlsplit

from parrot_jax.core.config import changed_keys
from parrot_jax.core.errors import UserError

_OWN_FIELDS = {
    "model": "model",
    "temperature": "temperature",
    "top_p": "top_p",
    "seed": "send_seed",
    "max_tokens": "max_tokens",
    "max_completion_tokens": "max_tokens and max_tokens_field",
}
"""Request fields that have a setting, with its name."""
_FIXED_FIELDS = frozenset({"messages", "input", "stream", "stream_options", "n", "best_of"})
"""Request fields that may not be set: each request gets exactly one complete reply."""

DECIDES_NO_REPLY = frozenset(
    {
        *("base_url", "api_key_env", "timeout_s", "concurrency", "retries"),
        *("requests_per_minute", "tokens_per_minute", "price", "budget_usd", "budget_tokens"),
        *("max_tokens_field", "send_seed"),
    }
)
"""Settings that may differ when a journal is resumed: address, speed, request fields and cost. All
others affect the replies."""


@dataclass(frozen=True, kw_only=True)
class Price:
    """The price of a model's tokens.

    Raises:
      UserError: A price is negative or not finite.
    """

    prompt: float
    """USD per million prompt tokens, >= 0."""

    completion: float
    """USD per million completion tokens, >= 0."""

    def __post_init__(self) -> None:
        if not all(0 <= usd < math.inf for usd in (self.prompt, self.completion)):
            raise UserError(
                f"the price is {self.prompt} USD per million prompt tokens and "
                f"{self.completion} per million completion tokens; both must be finite and >= 0."
            )


@dataclass(frozen=True, kw_only=True)
class EndpointConfig:
    """An OpenAI-compatible endpoint and the sampling of its model.

    Raises:
      UserError: A value is outside its range, or the address contains a secret.
    """

    base_url: str
    """Address of the API with its version path, e.g. http://127.0.0.1:8000/v1."""

    model: str
    """The model's name on the server."""

    api_key_env: str | None = None
    """Environment variable with the API key; null = no key."""

    temperature: float | None = None
    """>= 0; null = the server's default."""

    top_p: float | None = None
    """Nucleus sampling: the probability mass to sample from, in (0, 1]; null = the server's
    default."""

    max_tokens: int | None = None
    """Most tokens of a reply, >= 1; a reply that reaches it is not used. Null = the server's
    limit."""

    max_tokens_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    """The request field for `max_tokens`. OpenAI's reasoning models take only
    `max_completion_tokens`."""

    send_seed: bool = True
    """Send a seed with each request; false for servers that reject the field."""

    extra_body: dict[str, Any] = field(default_factory=dict)
    """More fields of each request, e.g. `{reasoning_effort: low}`. Fields with their own setting
    are rejected, and so are `messages`, `stream`, `n` and others that change the form of a
    reply."""

    timeout_s: float = 120.0
    """Total seconds for one request."""

    concurrency: int | None = None
    """Most requests in flight at once, >= 1; null = one per dialogue. Lowered for a while after a
    429."""

    requests_per_minute: float | None = None
    """> 0; null = the limit in the server's headers, if any."""

    tokens_per_minute: float | None = None
    """Prompts and completions together, > 0; null = the limit in the server's headers, if any."""

    price: Price | None = None
    """The price of the model's tokens; null = from the file `prices`. Servers on this machine are
    free unless this is set."""

    budget_usd: float | None = None
    """Hard limit for the sum of all runs, >= 0: a request is sent only if its largest possible cost
    fits. Null = no limit."""

    budget_tokens: int | None = None
    """The same in tokens, prompts and completions together, >= 0."""

    def __post_init__(self) -> None:
        where = f"endpoint {self.model!r}"
        _check_base_url(where, self.base_url)
        if self.temperature is not None and not 0 <= self.temperature < math.inf:
            raise UserError(
                f"{where}: temperature is {self.temperature}; it must be finite and >= 0, or null."
            )
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise UserError(f"{where}: top_p is {self.top_p}; it must be in (0, 1], or null.")
        if self.max_tokens is not None and self.max_tokens < 1:
            raise UserError(
                f"{where}: max_tokens is {self.max_tokens}; it must be at least 1, or null."
            )
        _check_extra_body(where, self.extra_body)
        if not 0 < self.timeout_s < math.inf:
            raise UserError(
                f"{where}: timeout_s is {self.timeout_s}; it must be finite and above 0."
            )
        self._check_limits(where)

    @property
    def is_local(self) -> bool:
        """Whether the server is on this machine."""
        host = urlsplit(self.base_url).hostname or ""
        try:
            return ipaddress.ip_address(host).is_loopback
        except ValueError:
            return host == "localhost"

    def _check_limits(self, where: str) -> None:
        if self.concurrency is not None and self.concurrency < 1:
            raise UserError(
                f"{where}: concurrency is {self.concurrency}; it must be at least 1, or null."
            )
        for name in ("requests_per_minute", "tokens_per_minute"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise UserError(
                    f"{where}: {name} is {value}; it must be finite and above 0, or null."
                )
        for name in ("budget_usd", "budget_tokens"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < math.inf:
                raise UserError(f"{where}: {name} is {value}; it must be finite and >= 0, or null.")
            if value is not None and self.max_tokens is None:
                raise UserError(
                    f"{where}: {name} is set, but max_tokens is not, so the cost of a call has no "
                    "bound; set max_tokens."
                )


@dataclass(frozen=True, kw_only=True)
class RetryConfig:
    """Retries of requests with temporary failures.

    Temporary failures are lost connections, timeouts, HTTP 408, 409, 425 and 5xx, and invalid
    replies. A 429 does not count as an attempt: all requests to that endpoint wait, then it is sent
    again, until `max_wait_s` have passed without a reply.

    Raises:
      UserError: A value is outside its range.
    """

    max_attempts: int = 8
    """Most attempts of a request, including the first; >= 1."""

    first_delay_s: float = 0.5
    """Seconds before the second attempt, >= 0; doubled for each later one, and shortened at random
    by up to a half. A longer Retry-After of the server is honoured. Also the first wait after a 429
    without Retry-After."""

    max_delay_s: float = 60.0
    """Longest wait between two attempts in seconds, even if the server asks for more."""

    max_wait_s: float = 900.0
    """Seconds, > 0. An endpoint that has sent nothing but 429 for this long has failed."""

    def __post_init__(self) -> None:
        if self.max_attempts < 1:
            raise UserError(f"retries.max_attempts is {self.max_attempts}; it must be at least 1.")
        if not 0 <= self.first_delay_s <= self.max_delay_s < math.inf:
            raise UserError(
                f"retries: first_delay_s is {self.first_delay_s} and max_delay_s "
                f"{self.max_delay_s}; they must be finite, and 0 <= first_delay_s <= max_delay_s."
            )
        if not 0 < self.max_wait_s < math.inf:
            raise UserError(
                f"retries.max_wait_s is {self.max_wait_s}; it must be finite and above 0."
            )


@dataclass(frozen=True, kw_only=True)
class JobEndpointConfig(EndpointConfig):
    """An endpoint that does a whole job alone: a judge, or a model that answers a benchmark.

    Raises:
      UserError: See `EndpointConfig`; or it may cost something and has no limit.
    """

    concurrency: int = 16  # pyright: ignore[reportIncompatibleVariableOverride]  # always known here
    """Most requests in flight at once, >= 1."""

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
                f"endpoint {self.model!r} may cost something and has no limit; set budget_usd or "
                "budget_tokens."
            )
        if self.budget_usd is not None and self.price is None:
            raise UserError(
                f"endpoint {self.model!r} has a budget_usd and no price; set "
                "price: {prompt: USD, completion: USD} per million tokens, or budget_tokens."
            )


def _check_extra_body(where: str, fields: dict[str, Any]) -> None:
    for name in fields:
        if name in _OWN_FIELDS:
            raise UserError(f"{where}: extra_body has {name!r}; set {_OWN_FIELDS[name]} instead.")
        if name in _FIXED_FIELDS:
            raise UserError(f"{where}: extra_body has {name!r}, which cannot be set; remove it.")
    try:
        json.dumps(fields, allow_nan=False, ensure_ascii=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise UserError(f"{where}: extra_body cannot be written as JSON: {error}.") from None


def _check_base_url(where: str, url: str) -> None:
    try:
        parts = urlsplit(url)
        _ = parts.port  # raises if it is not a number
    except ValueError:
        parts = urlsplit("")
    if "@" in url or "?" in url:
        # The address appears in the journal and in errors, so it must not contain secrets.
        raise UserError(
            f"{where}: base_url has a user, a password or a query; give the plain address, and the "
            "key through api_key_env."
        )
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UserError(f"{where}: base_url is {url!r}; it must be like http://127.0.0.1:8000/v1.")


def changes_of_replies(old: EndpointConfig, new: EndpointConfig) -> list[str]:
    """The differing settings of two configs that affect the replies.

    Returns:
      Each as `key: old -> new`; empty if one may resume the other's journal.
    """
    return [
        change
        for change in changed_keys(old, new)
        if change.partition(":")[0].partition(".")[0] not in DECIDES_NO_REPLY
    ]
