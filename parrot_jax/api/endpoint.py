"""One OpenAI-compatible endpoint: a request in, whatever came back out. Knows no journal.

This is the one place that meets the peer. Whatever it sends, or fails to send, becomes a
`Response`; what it sends is bounded in size and in time, is read as UTF-8, and has no key in it.
"""

import asyncio
import contextlib
import functools
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

from parrot_jax.api.config import EndpointConfig
from parrot_jax.api.rate_headers import read_rate_limit, read_retry_after_s
from parrot_jax.api.redaction import Redactor
from parrot_jax.api.replies import Response, no_response, one_line, read_response
from parrot_jax.core.errors import UserError

MAX_REPLY_BYTES = 4 * 2**20
"""Of a body, decompressed; a million tokens of English are as long."""
MAX_ERROR_BYTES = 64 * 2**10
"""Of the body of an error; what comes behind the piece that passes them is not read."""
_MAX_KEY_CHARS = 4096
"""Of a key, in any form in which it may be sent back."""

# The throttle limits what is in flight. The client's own limit would let the time of a request run
# while it waits for a connection. To aiohttp, 0 is no limit, and None is 100.
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
    """The body of a request to `/chat/completions`; what the config leaves open is not in it."""
    settings = {
        "temperature": config.temperature,
        "top_p": config.top_p,
        config.max_tokens_field: config.max_tokens,
        "seed": seed if config.send_seed else None,
    }
    given = {name: value for name, value in settings.items() if value is not None}
    return {"model": config.model, "messages": messages, **given, **config.extra_body}


class Endpoint:
    """A client of one endpoint, open while the `async with` block runs.

    It never retries: a request that nobody wrote down would be paid for in secret. It sends what
    the config says and nothing else: it follows no redirect, and reads no settings of other clients
    from the environment (`OPENAI_*`, netrc) but proxies and certificates.
    """

    def __init__(
        self,
        config: EndpointConfig,
        *,
        path: str = "/chat/completions",
        read: Callable[..., Response] = read_response,
    ) -> None:
        """Connects to nothing yet.

        Args:
          config: Where it is, and what it may be asked.
          path: Behind the base URL.
          read: From status, body and the keyword `request` to the response, without what the
            headers say.

        Raises:
          UserError: The environment variable of the key is not set or holds no key, the key stands
            in the config, or a proxy or a certificate of the environment cannot be used.
        """
        self.config, self._read = config, read
        key = _read_key(config)
        self._redactor = Redactor(key)
        shown = json.dumps([config.base_url, config.model, config.extra_body])
        if self._redactor.body(shown) != shown:
            raise UserError(
                f"the key of {config.api_key_env} stands in base_url, model or extra_body, which "
                "are journaled; remove it there."
            )
        self._url = config.base_url.rstrip("/") + path
        self._headers = {"content-type": "application/json", "accept": "application/json"}
        if key:
            self._headers["authorization"] = f"Bearer {key}"
        self._client = _client(config)

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
        await self._client.aclose()

    async def send(self, body: dict[str, Any]) -> Response:
        """Sends one request once.

        Args:
          body: From `request_body`, or what the path takes.

        Returns:
          What came back. Whatever goes wrong on the way is a response as well: its outcome is
          `failed` and its error says why. The key stands nowhere in it.
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
            if not is_connected.is_set():  # an open port behind which nobody speaks TLS
                return no_response(f"no connection {within}", was_sent=False)
            return no_response(f"no reply {within}")
        except Exception as error:
            # Not a list of classes: parsers, decompressors and TLS raise whatever they like at
            # bytes that are no HTTP, and all of it means the same. The request was made above.
            causes = list(_causes(error))
            reason = next((text for cause in causes if (text := str(cause))), type(error).__name__)
            was_sent = not any(isinstance(cause, _NEVER_CONNECTED) for cause in causes)
            return no_response(self._redactor.text(reason), was_sent=was_sent)

    async def _exchange(self, content: bytes) -> tuple[int, httpx2.Headers, bytes]:
        """Status, headers, and as much of the body as there may be."""
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
                raise ValueError(f"the reply is longer than {most:,} bytes; it was not read on")
            return response.status_code, response.headers, bytes(received)

    def _response(
        self, status: int, headers: httpx2.Headers, received: bytes, request: dict[str, Any]
    ) -> Response:
        # JSON is UTF-8, whatever the headers say; some write a mark before it.
        text = received.decode("utf-8-sig", "replace").replace("\0", "\ufffd")
        body = self._redactor.body(text)
        if not 200 <= status < 300 and len(received) > MAX_ERROR_BYTES:
            # Nobody reads on, and the last characters may be the beginning of a key.
            body = body[:-_MAX_KEY_CHARS]
        response = self._read(status, body, request=request)
        # A text in parts has the key in one piece only once they are joined. Then its body is not
        # kept: it has the pieces.
        if (said := self._redactor.text(response.reply.text)) != response.reply.text:
            response = replace(response, reply=response.reply._replace(text=said), body=None)
        if 300 <= status < 400:
            target = self._redactor.text(headers.get("location", "nowhere"))
            return replace(
                response,
                error=one_line(
                    f"HTTP {status}: it redirects to {target}, which is not followed; set base_url "
                    "to the address that answers."
                ),
            )
        if response.reply.text and not _is_utf8(received):
            return replace(no_response("the reply is not UTF-8"), status=status, body=response.body)
        return response


def _client(config: EndpointConfig) -> httpx2.AsyncClient:
    """The transport of the `openai` package, without its reading of the environment."""
    import openai  # takes a second to load, and only those who ask a model need it

    proxy = _proxy(config)
    try:
        # The default transport walks over all of its connections at each request.
        client = openai.DefaultAioHttpClient(
            # `send` limits the whole request. A server that is down is noticed sooner.
            timeout=httpx2.Timeout(None, connect=_CONNECT_S),
            limits=_NO_LIMIT,
            follow_redirects=False,
            trust_env=False,
            verify=_certificates(os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR")),
            proxy=proxy,
            # Cookies are nothing that the config says, and a server may set more than it takes.
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
        )
    except OSError as error:
        raise UserError(
            f"the certificates cannot be read: {error}; see to the environment variables "
            "SSL_CERT_FILE and SSL_CERT_DIR."
        ) from None
    for transport in (client._transport, *client._mounts.values()):
        if transport is not None:  # it makes its session at the first request
            transport.client = functools.partial(_session, transport.ssl_context)  # type: ignore[attr-defined]
    return client


def _session(certificates: ssl.SSLContext) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=_Connector(ssl=certificates, limit=0), cookie_jar=aiohttp.DummyCookieJar()
    )


_CONNECTED: ContextVar[asyncio.Event] = ContextVar("connected")
"""Set once the connection of a request stands: before, it cannot have been paid for."""


class _Connector(aiohttp.TCPConnector):
    """Uses no connection again on which something came that nobody had asked for.

    Otherwise it would be taken for the reply to the next request, of another dialogue.
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
    """The certificates of those two variables, which httpx2 reads itself; 0.1 s, so only once."""
    return httpx2.create_ssl_context()


def _proxy(config: EndpointConfig) -> httpx2.Proxy | None:
    """The proxy that the environment names for this endpoint; a server of this machine has none.

    Raises:
      UserError: It cannot be used.
    """
    parts = urlsplit(config.base_url)
    proxies = getproxies()
    name = parts.scheme if proxies.get(parts.scheme) else "all"
    address = proxies.get(name)
    if not address or config.is_local or proxy_bypass(parts.netloc):
        return None
    # No part of the address but its scheme is shown: it may hold a password.
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
            "put the key into it, or set api_key_env to null where none is wanted."
        )
    if not (key.isascii() and key.isprintable() and " " not in key):
        raise UserError(
            f"endpoint {config.model!r}: the environment variable {config.api_key_env} holds "
            "characters that no key has; set it again."
        )
    return key


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An error and those behind it."""
    yield error
    if error.__cause__ is not None:
        yield from _causes(error.__cause__)


def _is_utf8(received: bytes) -> bool:
    try:
        received.decode("utf-8-sig")
    except UnicodeDecodeError:
        return False
    return True
