"""A client of one OpenAI-compatible endpoint: sends a request, returns a response. No journal.

Whatever the server sends, or fails to send, becomes a `Response`. Responses are limited in size and
in time, decoded as UTF-8, and the API key is removed from them.
"""

import asyncio
import contextlib
import functools
import hashlib
import json
import os
import ssl
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import replace
from http.cookiejar import CookieJar, DefaultCookiePolicy
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
import httpx2

from parrot_jax.api.endpoint_config import EndpointConfig
from parrot_jax.api.rate_headers import read_rate_limit, read_retry_after_s
from parrot_jax.api.redaction import Redactor
from parrot_jax.api.replies import Response, no_response, one_line, read_response
from parrot_jax.core.errors import UserError

MAX_REPLY_BYTES = 4 * 2**20
"""Of a decompressed body; about a million tokens of English."""
MAX_ERROR_BYTES = 64 * 2**10
"""Of the body of an error; the rest is not read."""
_MAX_KEY_CHARS = 4096
"""Of a key, in any encoding in which a server may send it back."""

# The throttle limits requests in flight. With the client's own limit, a request's timeout would run
# while it waits for a connection. For aiohttp, 0 is no limit, and None is 100.
_NO_LIMIT = httpx2.Limits(max_connections=0)
_CONNECT_S = 15.0
_NEVER_CONNECTED = (
    aiohttp.ClientConnectorError,
    aiohttp.ConnectionTimeoutError,
    aiohttp.ClientHttpProxyError,
)


def request_body(
    config: EndpointConfig, messages: list[dict[str, str]], *, seed: int
) -> dict[str, Any]:
    """The body of a request to `/chat/completions`, without settings that are null."""
    settings = {
        "temperature": config.temperature,
        "top_p": config.top_p,
        config.max_tokens_field: config.max_tokens,
        "seed": seed if config.send_seed else None,
    }
    given = {name: value for name, value in settings.items() if value is not None}
    return {"model": config.model, "messages": messages, **given, **config.extra_body}


def seed_from(text: str) -> int:
    """A seed for a request, in [0, 2^31): equal texts give equal seeds in every run.

    >>> seed_from("a") == seed_from("a") != seed_from("b")
    True
    """
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "little") >> 1


class Endpoint:
    """A client of one endpoint, open while the `async with` block runs.

    It never retries, since every request must be journaled, and follows no redirects. It reads
    proxies and certificates from the environment, but not the settings of other clients
    (`OPENAI_*`, netrc).
    """

    def __init__(
        self,
        config: EndpointConfig,
        *,
        path: str = "/chat/completions",
        read: Callable[..., Response] = read_response,
    ) -> None:
        """Does not connect yet.

        Args:
          config: Address and settings.
          path: Appended to the base URL.
          read: Converts status, body and the keyword `request` to a response; headers are read
            here.

        Raises:
          UserError: The environment variable of the key is not set or invalid, the key is in the
            config, or a proxy or certificate from the environment cannot be used.
        """
        self.config, self._read = config, read
        key = _read_key(config)
        self._redactor = Redactor(key)
        shown = json.dumps([config.base_url, config.model, config.extra_body])
        if self._redactor.body(shown) != shown:
            raise UserError(
                f"the key of {config.api_key_env} is in base_url, model or extra_body, which "
                "are journaled; remove it there."
            )
        self._url = config.base_url.rstrip("/") + path
        self._headers = {"content-type": "application/json", "accept": "application/json"}
        if key:
            self._headers["authorization"] = f"Bearer {key}"
        self._client = _client(config)

    async def __aenter__(self) -> "Endpoint":
        """Does not connect yet; the first request does."""
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Closes all connections."""
        await self._client.aclose()

    async def send(self, body: dict[str, Any]) -> Response:
        """Sends one request once.

        Args:
          body: From `request_body`, or another body for the path.

        Returns:
          The response, without the key. Any failure is a response with outcome `failed` and an
          error.
        """
        content = json.dumps(body, ensure_ascii=False, allow_nan=False).encode()
        is_connected = asyncio.Event()
        _CONNECTED.set(is_connected)
        try:
            async with asyncio.timeout(self.config.timeout_s):
                status, headers, received = await self._exchange(content)
            return replace(
                self._response(status, headers, received, body),
                retry_after_s=read_retry_after_s(headers),
                request_limit=read_rate_limit(headers, "requests"),
                token_limit=read_rate_limit(headers, "tokens"),
            )
        except TimeoutError:
            within = f"within {self.config.timeout_s:g} s"
            if not is_connected.is_set():  # e.g. an open port that does not speak TLS
                return no_response(f"no connection {within}", was_sent=False)
            return no_response(f"no reply {within}")
        except Exception as error:
            # Any exception: parsers, decompressors and TLS raise many kinds on invalid HTTP; each
            # means a failed request. The request itself was built above.
            causes = list(_causes(error))
            reason = next((text for cause in causes if (text := str(cause))), type(error).__name__)
            was_sent = not any(isinstance(cause, _NEVER_CONNECTED) for cause in causes)
            return no_response(self._redactor.text(reason), was_sent=was_sent)

    async def _exchange(self, content: bytes) -> tuple[int, httpx2.Headers, bytes]:
        """Status, headers, and the body up to its limit."""
        async with self._client.stream(
            "POST", self._url, content=content, headers=self._headers
        ) as response:
            is_success = response.is_success
            most = MAX_REPLY_BYTES if is_success else MAX_ERROR_BYTES
            received = bytearray()
            async with contextlib.aclosing(response.aiter_bytes()) as parts:
                async for part in parts:
                    received += part
                    if len(received) > most:
                        break
            if len(received) > most and is_success:
                raise ValueError(f"the reply is longer than {most:,} bytes")
            # One byte more than allowed shows that the rest was not read.
            return response.status_code, response.headers, bytes(received[: most + 1])

    def _response(
        self, status: int, headers: httpx2.Headers, received: bytes, request: dict[str, Any]
    ) -> Response:
        # JSON is UTF-8, whatever the headers say; some servers add a byte order mark.
        text = received.decode("utf-8-sig", "replace").replace("\0", "\ufffd")
        body = self._redactor.body(text)
        if not 200 <= status < 300 and len(received) > MAX_ERROR_BYTES:
            # The rest was not read, and the last characters may be the beginning of the key.
            body = body[:-_MAX_KEY_CHARS]
        response = self._read(status, body, request=request)
        # A text in several parts may contain the key only after they are joined. The body has the
        # parts, so it is dropped.
        if (cleaned := self._redactor.text(response.reply.text)) != response.reply.text:
            response = replace(response, reply=response.reply._replace(text=cleaned), body=None)
        if 300 <= status < 400:
            target = self._redactor.text(headers.get("location", "nowhere"))
            return replace(
                response,
                error=one_line(
                    f"HTTP {status}: redirect to {target}, which is not followed; set base_url "
                    "to the address that answers."
                ),
            )
        if response.reply.text and not _is_utf8(received):
            return replace(no_response("the reply is not UTF-8"), status=status, body=response.body)
        return response


def _client(config: EndpointConfig) -> httpx2.AsyncClient:
    """The transport of the `openai` package, without its environment settings."""
    import openai  # slow to import

    proxy = _proxy(config)
    try:
        # The default transport scans all of its connections at each request.
        client = openai.DefaultAioHttpClient(
            # `send` limits the whole request; this notices sooner that a server is down.
            timeout=httpx2.Timeout(None, connect=_CONNECT_S),
            limits=_NO_LIMIT,
            follow_redirects=False,
            trust_env=False,
            verify=_certificates(os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR")),
            proxy=proxy,
            # No cookies: they are not configured, and a server may set more than it accepts.
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
        )
    except OSError as error:
        raise UserError(
            f"the certificates cannot be read: {error}; check the environment variables "
            "SSL_CERT_FILE and SSL_CERT_DIR."
        ) from None
    for transport in (client._transport, *client._mounts.values()):
        if transport is not None:  # the session is created at the first request
            transport.client = functools.partial(_session, transport.ssl_context)  # type: ignore[attr-defined]
    return client


def _session(certificates: ssl.SSLContext) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=_Connector(ssl=certificates, limit=0), cookie_jar=aiohttp.DummyCookieJar()
    )


_CONNECTED: ContextVar[asyncio.Event] = ContextVar("connected")
"""Set when a request is connected; before that it cannot be billed."""


class _Connector(aiohttp.TCPConnector):
    """Never reuses a connection that received unexpected data.

    Otherwise that data would be taken for the reply to the next request.
    """

    async def connect(self, *args: Any, **named: Any) -> Any:
        connection = await super().connect(*args, **named)
        _CONNECTED.get().set()
        return connection

    async def _get(self, key: Any, traces: Any) -> Any:
        while (connection := await super()._get(key, traces)) is not None:
            protocol = connection.protocol
            if protocol is not None and not protocol.should_close:
                break
            connection.close()
        return connection


@functools.lru_cache(maxsize=1)
def _certificates(file: str | None, folder: str | None) -> ssl.SSLContext:
    """The certificates of these variables, which httpx2 reads itself; cached, as it takes 0.1 s."""
    return httpx2.create_ssl_context()


def _proxy(config: EndpointConfig) -> httpx2.Proxy | None:
    """The proxy for this endpoint from the environment; none for servers on this machine.

    Raises:
      UserError: It cannot be used.
    """
    parts = urlsplit(config.base_url)
    proxies = getproxies()
    name = parts.scheme if proxies.get(parts.scheme) else "all"
    address = proxies.get(name)
    if not address or config.is_local or proxy_bypass(parts.netloc):
        return None
    # Only the scheme of the address is shown, because it may contain a password.
    scheme, separator, _ = address.partition("://")
    try:
        if separator and scheme not in ("http", "https"):
            raise ValueError
        proxy = httpx2.Proxy(address if separator else f"http://{address}")
        if not proxy.url.host or (proxy.url.port or 1) > 65_535:
            raise ValueError
        return proxy
    except (ValueError, httpx2.InvalidURL):
        what = f"a {scheme} proxy" if separator else "an address that cannot be read"
        raise UserError(
            f"the environment variable {name}_proxy (or {name.upper()}_PROXY) names {what} for "
            f"{parts.hostname}; give one like http://host:port, or add the host to NO_PROXY."
        ) from None


def _read_key(config: EndpointConfig) -> str:
    if config.api_key_env is None:
        return ""
    key = os.environ.get(config.api_key_env, "").strip()
    if not key:
        raise UserError(
            f"endpoint {config.model!r}: the environment variable {config.api_key_env} is not set; "
            "put the key into it, or set api_key_env to null if the server needs none."
        )
    if not (key.isascii() and key.isprintable() and " " not in key):
        raise UserError(
            f"endpoint {config.model!r}: the environment variable {config.api_key_env} has "
            "spaces or non-ASCII characters; set it again."
        )
    return key


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An error and its causes."""
    yield error
    if error.__cause__ is not None:
        yield from _causes(error.__cause__)


def _is_utf8(received: bytes) -> bool:
    try:
        received.decode("utf-8-sig")
    except UnicodeDecodeError:
        return False
    return True
