"""What every page in a browser needs: templates, static files, headers, bounded bodies."""

import asyncio
import json
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import BaseRoute, Route

from parrot_jax.browser.sign_in import Links, SignIn
from parrot_jax.core.errors import UserError
from parrot_jax.report.environment import make_environment
from parrot_jax.serve.callers.known_callers import App, KnownCallers, Receive, Scope, Send

MAX_BODY_BYTES = 256 * 1024
"""Limit on the size of a request's body."""

BODY_S = 30.0
"""Seconds for the body of a request."""

_OWN = "parrot_jax.browser"
_REPORT = "parrot_jax.report"
_TYPES = {".css": "text/css", ".js": "text/javascript"}
# Only scripts and styles of this server: text of a dialogue could do nothing even if a template
# forgot to escape it.
_HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
        "connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}


class Pages:
    """Renders the templates of a package, which may extend `layout.html` of this one."""

    def __init__(self, package: str) -> None:
        """Takes the name of a package with a folder `templates`, e.g. `parrot_jax.view`."""
        self._environment = make_environment(package, _OWN, _REPORT)

    def page(self, template: str, status: int = 200, /, **values: Any) -> HTMLResponse:
        """Renders a template; all values are escaped."""
        return HTMLResponse(self.text(template, **values), status)

    def text(self, template: str, /, **values: Any) -> str:
        """Renders a template, or a part of a page, to text."""
        return self._environment.get_template(template).render(values)


def make_pages_app(routes: Sequence[BaseRoute], links: Links, package: str) -> Starlette:
    """Creates the application: the routes behind the sign-in, on loopback only.

    Args:
      routes: Of the pages.
      links: Who may sign in.
      package: Its style sheets and scripts in `templates/` are served at `/static/`.
    """
    colours = {"colours.css": _static_files(_REPORT)["colours.css"]}
    files = colours | _static_files(_OWN) | _static_files(package)

    async def static(request: Request) -> Response:
        name = request.path_params["name"]
        if name not in files:
            raise HTTPException(404)
        content_type, body = files[name]
        return Response(body, media_type=content_type)

    return Starlette(
        routes=[*routes, Route("/static/{name}", static)],
        middleware=[
            Middleware(_SecurityHeaders),
            Middleware(KnownCallers),
            Middleware(SignIn, links=links),
        ],
        exception_handlers={UserError: _explain, HTTPException: _explain},
    )


async def read_body(request: Request) -> Mapping[str, Any]:
    """Reads the JSON object in the body of a request.

    Raises:
      HTTPException: It is larger than `MAX_BODY_BYTES`, slower than `BODY_S`, or not an object.
    """
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_S):
            async for chunk in request.stream():
                body += chunk
                if len(body) > MAX_BODY_BYTES:
                    raise HTTPException(413, f"the request is larger than {MAX_BODY_BYTES:,} bytes")
    except TimeoutError:
        raise HTTPException(408, f"the body was not complete after {BODY_S:g} s") from None
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        raise HTTPException(400, "the body is not JSON") from None
    if not isinstance(value, dict):
        raise HTTPException(400, "the body is not a JSON object")
    return value


class _SecurityHeaders:
    """ASGI middleware that adds `_HEADERS` to every reply."""

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Any) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(_HEADERS)
            await send(message)

        await self._app(scope, receive, send_with_headers)


async def _explain(request: Request, error: Exception) -> Response:
    """Answers an error with its reason: as JSON to a script, as a page to a person."""
    is_http = isinstance(error, HTTPException)
    status, reason = (error.status_code, error.detail) if is_http else (400, str(error))
    if request.method != "GET" or "text/html" not in request.headers.get("accept", ""):
        return JSONResponse({"error": reason}, status)
    return Pages(_OWN).page("problem.html", status, status=status, reason=reason)


def _static_files(package: str) -> dict[str, tuple[str, bytes]]:
    found = {}
    for file in resources.files(package).joinpath("templates").iterdir():
        suffix = f".{file.name.rpartition('.')[2]}"
        if suffix in _TYPES:
            found[file.name] = (_TYPES[suffix], file.read_bytes())
    return found
