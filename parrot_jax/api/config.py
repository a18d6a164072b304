"""Settings of endpoints and of retries. Loads no client, so help is instant."""

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
"""Fields of a request that have a setting, and its name."""
_FIXED_FIELDS = frozenset({"messages", "input", "stream", "stream_options", "n", "best_of"})
"""Fields of a request that no setting may change: one whole reply comes for what was said."""

DECIDES_NO_REPLY = frozenset(
    {
        *("base_url", "api_key_env", "timeout_s", "concurrency", "retries"),
        *("requests_per_minute", "tokens_per_minute", "price", "budget_usd", "budget_tokens"),
        *("max_tokens_field", "send_seed"),
    }
)
"""Settings of an endpoint that may differ when a journal is continued: where, how fast, in which
fields and for how much the same model is asked. All others decide what it says."""


@dataclass(frozen=True, kw_only=True)
class Price:
    """What a model's tokens cost.

    Raises:
      UserError: A price is negative or not finite.
    """

    prompt: float
    """USD for a million tokens of prompts, >= 0."""

    completion: float
    """USD for a million tokens of completions, >= 0."""

    def __post_init__(self) -> None:
        if not all(0 <= usd < math.inf for usd in (self.prompt, self.completion)):
            raise UserError(
                f"the price is {self.prompt} USD for a million tokens of prompts and "
                f"{self.completion} of completions; both must be finite and >= 0."
            )


@dataclass(frozen=True, kw_only=True)
class EndpointConfig:
    """An OpenAI-compatible endpoint and how its model is to speak.

    Raises:
      UserError: A value is outside its range, or the address holds a secret.
    """

    base_url: str
    """Address of the API with its version, e.g. http://127.0.0.1:8000/v1."""

    model: str
    """The model's name, as the server knows it."""

    api_key_env: str | None = None
    """Environment variable that holds the key; null = the endpoint wants none."""

    temperature: float | None = None
    """>= 0; null = the server's default."""

    top_p: float | None = None
    """Sample among the likeliest tokens that hold this probability, in (0, 1]; null = the server's
    default."""

    max_tokens: int | None = None
    """Most tokens of a reply, >= 1; a reply that reaches it is cut and not used. Null = the
    server's limit."""

    max_tokens_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    """The field of the request that holds `max_tokens`. OpenAI's reasoning models take only
    `max_completion_tokens`."""

    send_seed: bool = True
    """Whether a request has a seed; false for servers that refuse the field."""

    extra_body: dict[str, Any] = field(default_factory=dict)
    """More fields of each request, e.g. `{reasoning_effort: low}`. Fields that have a setting here
    are refused, and so are `messages`, `stream`, `n` and others that change what a reply is."""

    timeout_s: float = 120.0
    """Seconds that one request may take in all."""

    concurrency: int | None = None
    """Most requests in flight at once, >= 1; null = as many as there are dialogues. After "too many
    requests" it is fewer for a while."""

    requests_per_minute: float | None = None
    """> 0; null = what the server says in its headers, or no limit."""

    tokens_per_minute: float | None = None
    """Of prompts and completions together, > 0; null = what the server says in its headers, or no
    limit."""

    price: Price | None = None
    """What the model's tokens cost; null = as the file of prices says. A server of this machine
    costs nothing unless it is said here."""

    budget_usd: float | None = None
    """Nothing is sent that might bring the sum of all runs above it, >= 0; null = no limit."""

    budget_tokens: int | None = None
    """The same in tokens, of prompts and completions together, >= 0."""

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
                    f"{where}: {name} is set, but max_tokens is not: nobody could say what a call "
                    "may cost; set max_tokens."
                )


@dataclass(frozen=True, kw_only=True)
class RetryConfig:
    """How often a request that failed in a way that may pass is sent again.

    Lost connections, timeouts, HTTP 408, 409, 425 and 5xx, and replies that are no reply may pass.
    "Too many requests" (429) is no attempt: all requests to that endpoint wait, and it is sent
    again, until `max_wait_s` have passed without a reply.

    Raises:
      UserError: A value is outside its range.
    """

    max_attempts: int = 8
    """How often one request is sent at most, the first time included; >= 1."""

    first_delay_s: float = 0.5
    """Seconds before the second attempt, >= 0; twice as long before each later one, and shortened
    at random by up to a half. A server that names a longer time (Retry-After) gets it. So long is
    also the first wait after a 429 that names no time."""

    max_delay_s: float = 60.0
    """The longest wait between two attempts in seconds, whatever the server asks for."""

    max_wait_s: float = 900.0
    """Seconds, > 0. An endpoint that has answered every request with 429 for this long fails."""

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


def _check_extra_body(where: str, fields: dict[str, Any]) -> None:
    for name in fields:
        if name in _OWN_FIELDS:
            raise UserError(f"{where}: extra_body has {name!r}; set {_OWN_FIELDS[name]} instead.")
        if name in _FIXED_FIELDS:
            raise UserError(f"{where}: extra_body has {name!r}, which may not be set; remove it.")
    try:
        json.dumps(fields, allow_nan=False, ensure_ascii=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise UserError(f"{where}: extra_body cannot be written as JSON: {error}.") from None


def _check_base_url(where: str, url: str) -> None:
    try:
        parts = urlsplit(url)
        _ = parts.port  # raises where it is no number
    except ValueError:
        parts = urlsplit("")
    if "@" in url or "?" in url:
        # The address stands in the journal and in errors, where no secret may be.
        raise UserError(
            f"{where}: base_url has a user, a password or a query; give the plain address, and the "
            "key through api_key_env."
        )
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UserError(f"{where}: base_url is {url!r}; it must be like http://127.0.0.1:8000/v1.")


def changes_of_replies(old: EndpointConfig, new: EndpointConfig) -> list[str]:
    """The settings in which two configs of one kind differ and that decide what a model says.

    Returns:
      Each as `key: old -> new`; empty = a journal of the one may be continued with the other.
    """
    return [
        change
        for change in changed_keys(old, new)
        if change.partition(":")[0].partition(".")[0] not in DECIDES_NO_REPLY
    ]
