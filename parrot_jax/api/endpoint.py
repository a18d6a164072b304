"""One OpenAI-compatible endpoint: a request in, whatever came back out. Knows no journal."""

import asyncio
import os
from collections.abc import Callable
from dataclasses import replace
from types import TracebackType
from typing import Any

import httpx2
import openai

from parrot_jax.api.config import EndpointConfig
from parrot_jax.api.rate_headers import read_rate_limit, read_retry_after_s
from parrot_jax.api.replies import Response, no_response, read_response
from parrot_jax.core.errors import UserError

# What is shorter ("none", "EMPTY") is no secret, but may be a word of a reply.
_MIN_SECRET_CHARS = 8
# The throttle limits what is in flight. The client's own limit, 1,000, would let the time of a
# request run while it waits for a connection. To aiohttp, 0 is no limit, and None is 100.
_NO_LIMIT = httpx2.Limits(max_connections=0)
_NEVER_CONNECTED = (httpx2.ConnectError, httpx2.ConnectTimeout)


def request_body(
    config: EndpointConfig, messages: list[dict[str, str]], *, seed: int
) -> dict[str, Any]:
    """The body of a request to `/chat/completions`; what the config leaves open is not in it."""
    settings = {
        "temperature": config.temperature,
        "top_p": config.top_p,
        "max_tokens": config.max_tokens,
    }
    given = {name: value for name, value in settings.items() if value is not None}
    return {"model": config.model, "messages": messages, **given, "seed": seed}


class Endpoint:
    """A client of one endpoint, open while the `async with` block runs.

    The client never retries: a request that nobody wrote down would be paid for in secret.
    """

    def __init__(
        self,
        config: EndpointConfig,
        *,
        path: str = "/chat/completions",
        read: Callable[[int, str], Response] = read_response,
    ) -> None:
        """Connects to nothing yet.

        Args:
          config: Where it is, and what it may be asked.
          path: Behind the base URL.
          read: From status and body to the response, without what the headers say.

        Raises:
          UserError: The environment variable of the key is not set, or holds no key.
        """
        self.config, self._path, self._read = config, path, read
        self._key = _read_key(config)
        self._client = openai.AsyncOpenAI(
            base_url=config.base_url,
            api_key=self._key or "none",  # the client insists on one
            max_retries=0,
            timeout=None,  # `send` limits the whole request; the client would limit its parts
            # The default transport walks over all of its connections at each request.
            http_client=openai.DefaultAioHttpClient(timeout=None, limits=_NO_LIMIT),
        )

    async def __aenter__(self) -> "Endpoint":
        """Nothing is done before the first request."""
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Closes the connections."""
        await self._client.close()

    async def send(self, body: dict[str, Any]) -> Response:
        """Sends one request once.

        Args:
          body: From `request_body`, or what the path takes.

        Returns:
          What came back. Whatever goes wrong on the way is a response as well: its outcome is
          `failed` and its error says why. The key stands nowhere in it.
        """
        try:
            async with asyncio.timeout(self.config.timeout_s):
                # Not `chat.completions.create`: its models of request and response take half of
                # the time of a call, and what is journaled is the body as received.
                response = await self._client.post(self._path, body=body, cast_to=httpx2.Response)
        except TimeoutError:
            return no_response(f"no reply within {self.config.timeout_s:g} s")
        except openai.APIStatusError as error:
            response = error.response
        except openai.APIConnectionError as error:
            reason = self._without_key(_reason(error))
            return no_response(reason, was_sent=not isinstance(error.__cause__, _NEVER_CONNECTED))
        headers = response.headers
        return replace(
            self._read(response.status_code, self._without_key(response.text)),
            retry_after_s=read_retry_after_s(headers),
            request_limit=read_rate_limit(headers, "requests"),
            token_limit=read_rate_limit(headers, "tokens"),
        )

    def _without_key(self, text: str) -> str:
        if len(self._key) < _MIN_SECRET_CHARS:
            return text
        return text.replace(self._key, "[api key]")


def _read_key(config: EndpointConfig) -> str:
    if config.api_key_env is None:
        return ""
    key = os.environ.get(config.api_key_env, "").strip()
    if not key:
        raise UserError(
            f"endpoint {config.model!r}: the environment variable {config.api_key_env} is not set; "
            "put the key into it, or set api_key_env to null where none is wanted."
        )
    if not (key.isascii() and key.isprintable() and " " not in key):
        raise UserError(
            f"endpoint {config.model!r}: the environment variable {config.api_key_env} holds "
            "characters that no key has; set it anew."
        )
    return key


def _reason(error: openai.APIConnectionError) -> str:
    """What the layer below says; the client itself says only that it failed."""
    cause = error.__cause__ or error
    return str(cause) or type(cause).__name__
