"""Rejects requests from web pages of other sites; accepts programs. Standard library only.

A server on loopback has no password, and any web page in a browser on the same machine can send it
requests. They can be told apart: without a CORS preflight, a page can send only form content types,
never JSON; browsers set `Origin` or `Sec-Fetch-Site`; and with DNS rebinding, `Host` has the page's
host name.
"""

import ipaddress
import json
import os
import re
import socket
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import Any

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

HOSTS_VARIABLE = "PARROT_HOSTS"

_HOST = re.compile(r"(?P<name>\[[0-9a-f:.]+\]|[^\s:@/\[\]]+)(:\d{1,5})?")
_SHOWN_CHARS = 100


class KnownCallers:
    """ASGI middleware that rejects foreign requests with status 403 or 415."""

    def __init__(self, app: App, hosts: Sequence[str] = ()) -> None:
        """Wraps an application.

        Args:
          app: The application for all other requests.
          hosts: Additional host names and addresses for clients, besides loopback. `0.0.0.0` or
            `::` adds this machine's name and all IP addresses, since DNS rebinding needs a name.
        """
        self._app = app
        self._names = {"localhost", *(host.lower().strip("[]") for host in hosts)}
        self._any_address = bool({"0.0.0.0", "::", ""} & self._names)
        if self._any_address:
            self._names.add(socket.gethostname().lower())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Rejects a request, or passes it on."""
        refusal = None if scope["type"] == "lifespan" else self._refusal(scope)
        if refusal is None:
            await self._app(scope, receive, send)
            return
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        status, message = refusal
        body = json.dumps(
            {"error": {"message": message, "type": "invalid_request_error", "param": None,
                       "code": "forbidden_caller" if status == 403 else None}}
        ).encode()  # fmt: skip
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
        ]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    def _refusal(self, scope: Scope) -> tuple[int, str] | None:
        """Returns status and reason of a rejection; None = accepted."""
        found: dict[str, list[str]] = {}
        for name, value in scope["headers"]:
            found.setdefault(name.decode("latin-1"), []).append(value.decode("latin-1").strip())
        hosts = found.get("host", [])  # absent only in HTTP/1.0, which no browser uses
        for host in hosts:
            if not self._is_known(host.lower()):
                return 403, (
                    f"this server does not accept the host {_shown(host)}; use the address that it "
                    "printed; `parrot serve` can also add the host to --allowed-hosts."
                )
        own = {f"{scheme}://{host.lower()}" for scheme in ("http", "https") for host in hosts}
        for origin in found.get("origin", []):
            if origin.lower() not in own:
                return 403, f"pages of {_shown(origin)} may not use this server."
        for site in found.get("sec-fetch-site", []):
            if site not in ("same-origin", "none"):
                return 403, "pages of other sites may not use this server."
        if scope.get("method") in ("POST", "PUT", "PATCH"):
            return _wrong_content(found)
        return None

    def _is_known(self, host: str) -> bool:
        match = _HOST.fullmatch(host)
        if match is None:
            return False
        name = match["name"].strip("[]").removesuffix(".")
        try:
            return name in self._names or _is_loopback(name) or self._any_address
        except ValueError:  # not an address
            return name.endswith(".localhost")


class KnownCallersOfVllm(KnownCallers):
    """The same for vLLM, which passes no arguments to a middleware."""

    def __init__(self, app: App) -> None:
        """Reads the hosts from the environment variable `HOSTS_VARIABLE`, separated by commas."""
        super().__init__(app, os.environ[HOSTS_VARIABLE].split(","))


def _is_loopback(address: str) -> bool:
    return ipaddress.ip_address(address).is_loopback


def _wrong_content(found: dict[str, list[str]]) -> tuple[int, str] | None:
    kinds = found.get("content-type", [])
    if not kinds or any(kind.split(";")[0].strip().lower() != "application/json" for kind in kinds):
        found_kind = f"is {_shown(', '.join(kinds))}" if kinds else "is missing"
        return 415, f"the header Content-Type {found_kind}; it must be `application/json`."
    codings = [each for each in found.get("content-encoding", []) if each.lower() != "identity"]
    if codings:
        return 415, f"Content-Encoding is {_shown(', '.join(codings))}; send the body uncompressed."
    return None


def _shown(value: str) -> str:
    return repr(value[:_SHOWN_CHARS])
