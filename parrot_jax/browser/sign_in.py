"""Lets a browser in by a one-time link, and keeps out other users and programs of the machine.

A link works once; the browser then has a session cookie. Tokens and cookies are only in memory, so
a restarted server asks for its new link.
"""

import hmac
import secrets
from collections.abc import Callable
from urllib.parse import parse_qsl, urlencode

from parrot_jax.serve.callers.known_callers import App, Receive, Scope, Send

MAX_SESSIONS = 256
"""Browsers let in at most; the first of more must open a new link."""

_TOKEN = "token"
_REFUSAL = b"""<!DOCTYPE html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<meta name="color-scheme" content="light dark"><title>Open the link of the terminal</title>
<p>Open the link that the terminal shows. Each link works once, in one browser.</p></html>
"""


class Links:
    """The current one-time link, and the sessions of the browsers that used one."""

    def __init__(self, announce: Callable[[str], None]) -> None:
        """Makes the first link.

        Args:
          announce: Called with the query string of each new link after the first one was used,
            e.g. `?token=...`.
        """
        self._announce = announce
        self._token = secrets.token_urlsafe(24)
        self._sessions: list[str] = []

    @property
    def query(self) -> str:
        """The query string of the current link."""
        return f"?{_TOKEN}={self._token}"

    def redeem(self, token: str) -> str | None:
        """Returns a new session for the current token, which is used up; None = a wrong token."""
        if not _equal(token, self._token):
            return None
        session = secrets.token_urlsafe(24)
        self._sessions = [*self._sessions, session][-MAX_SESSIONS:]
        self._token = secrets.token_urlsafe(24)
        self._announce(self.query)
        return session

    def knows(self, session: str) -> bool:
        """Whether a browser with this session was let in."""
        return any([_equal(session, known) for known in self._sessions])


class SignIn:
    """ASGI middleware: without a session, every request gets status 403."""

    def __init__(self, app: App, links: Links) -> None:
        """Wraps an application."""
        self._app, self._links = app, links

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Lets a request pass, redirects from a one-time link, or rejects."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        # The cookies of one host are common to all its ports.
        cookie = f"parrot-{scope['server'][1]}"
        query = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        token = dict(query).get(_TOKEN)
        is_known = any(map(self._links.knows, _cookies(scope, cookie)))
        if token is None:
            if is_known:
                await self._app(scope, receive, send)
            else:
                await _reply(send, 403, [(b"content-type", b"text/html; charset=utf-8")], _REFUSAL)
            return
        session = None if is_known else self._links.redeem(token)
        if session is None and not is_known:
            await _reply(send, 403, [(b"content-type", b"text/html; charset=utf-8")], _REFUSAL)
            return
        # The address without the token, so that it is not in the history or in a bookmark.
        rest = urlencode([(name, value) for name, value in query if name != _TOKEN])
        path = "/" + scope["raw_path"].decode("latin-1").split("?")[0].lstrip("/")
        headers = [(b"location", f"{path}{'?' if rest else ''}{rest}".encode("latin-1"))]
        if session is not None:
            value = f"{cookie}={session}; HttpOnly; SameSite=Strict; Path=/"
            headers.append((b"set-cookie", value.encode()))
        await _reply(send, 303, headers, b"")


def _equal(one: str, other: str) -> bool:
    return hmac.compare_digest(one.encode("utf-8", "replace"), other.encode())


def _cookies(scope: Scope, name: str) -> list[str]:
    # Not `SimpleCookie`, which stops at the first cookie that it cannot read, e.g. one with JSON of
    # a program on another port.
    pairs = [
        pair.strip().partition("=")
        for header, value in scope["headers"]
        if header == b"cookie"
        for pair in value.decode("latin-1").split(";")
    ]
    return [value for key, _, value in pairs if key == name]


async def _reply(send: Send, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
    headers = [
        *headers,
        (b"content-length", str(len(body)).encode()),
        (b"cache-control", b"no-store"),
        (b"referrer-policy", b"no-referrer"),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
