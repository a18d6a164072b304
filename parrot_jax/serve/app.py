"""The web application around a speaker: `/v1/chat/completions`, `/v1/completions`, `/v1/models`.

It knows no jax. Whatever goes wrong is answered in OpenAI's shape: what a client can mend with
status 400 to 499 and the reason; a bug of ours with status 500 and no internals, while its
traceback goes to stderr.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from parrot_jax.core.errors import UserError
from parrot_jax.serve import protocol
from parrot_jax.serve.speaker import Completion, RequestError, Speaker

Endpoint = Callable[[Request], Awaitable[Response]]

_log = logging.getLogger(__name__)

_PATHS = "POST /v1/chat/completions, POST /v1/completions, GET /v1/models and GET /health"

MAX_BODY_BYTES = 4 * 2**20
"""Largest request that is read; no context holds as much text."""


def make_app(speaker: Speaker) -> Starlette:
    """The ASGI application that serves one speaker.

    Args:
      speaker: Started and stopped with the application.
    """

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        await speaker.start()
        try:
            yield
        finally:
            await speaker.stop()

    endpoints = _Endpoints(speaker)
    return Starlette(
        routes=[
            Route("/health", endpoints.health),
            Route("/v1/models", endpoints.models),
            Route("/v1/chat/completions", _with_errors_answered(endpoints.chat), methods=["POST"]),
            Route("/v1/completions", _with_errors_answered(endpoints.complete), methods=["POST"]),
        ],
        exception_handlers={HTTPException: _answer_wrong_route},
        lifespan=lifespan,
    )


class _Endpoints:
    """What each path does."""

    def __init__(self, speaker: Speaker) -> None:
        self.speaker, self.created = speaker, int(time.time())

    async def health(self, _: Request) -> Response:
        return Response(status_code=200)

    async def models(self, _: Request) -> Response:
        return JSONResponse(protocol.models_response(self.speaker.model, self.created))

    async def chat(self, request: Request) -> Response:
        asked = protocol.read_chat_request(await _read_body(request))
        self._check_model(asked.model)
        speaking = self.speaker.chat(asked.plain_messages(), asked.settings())
        completion = await _unless_hung_up(request, speaking)
        return JSONResponse(
            protocol.chat_response(
                self.speaker.model, completion, with_ids=bool(asked.return_token_ids)
            )
        )

    async def complete(self, request: Request) -> Response:
        asked = protocol.read_completion_request(await _read_body(request))
        self._check_model(asked.model)
        speaking = self.speaker.complete(
            asked.prompt, asked.settings(), add_special_tokens=asked.add_special_tokens
        )
        completion = await _unless_hung_up(request, speaking)
        return JSONResponse(
            protocol.completion_response(
                self.speaker.model, completion, with_ids=bool(asked.return_token_ids)
            )
        )

    def _check_model(self, model: str | None) -> None:
        if model not in (None, self.speaker.model):
            raise RequestError(
                f"there is no model {model!r} here; this server has {self.speaker.model!r}.",
                status=404, param="model", code="model_not_found",
            )  # fmt: skip


async def _read_body(request: Request) -> bytes:
    """The body.

    Raises:
      RequestError: It is too large.
      ClientDisconnect: The client hung up before its end.
    """
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            raise RequestError(
                f"the request is larger than {MAX_BODY_BYTES:,} bytes; send less.", status=413
            )
    return bytes(body)


async def _unless_hung_up(request: Request, work: Coroutine[Any, Any, Completion]) -> Completion:
    """Does the work, but cancels it when the client is gone.

    Raises:
      ClientDisconnect: The client hung up.
      CancelledError: The server stops, and cannot wait for the work any longer.
    """
    working = asyncio.ensure_future(work)
    hanging_up = asyncio.ensure_future(_hung_up(request))
    try:
        await asyncio.wait({working, hanging_up}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise ClientDisconnect
    finally:
        working.cancel()
        hanging_up.cancel()


async def _hung_up(request: Request) -> None:
    """Returns when the client of a request whose body was read is gone."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


# ---- errors -------------------------------------------------------------------------------------


def _with_errors_answered(endpoint: Endpoint) -> Endpoint:
    # Starlette's own way raises a bug again behind the answer, and uvicorn then hangs up on a
    # client that means to go on.
    async def answered(request: Request) -> Response:
        try:
            return await endpoint(request)
        except RequestError as error:
            return _error(str(error), error.status, error.param, error.code)
        except UserError as error:
            return _error(str(error), 400)
        except ClientDisconnect:
            return Response(status_code=499)  # which nobody gets
        except asyncio.CancelledError:
            return _error("the server is stopping.", 503, code="stopping")
        except Exception:
            _log.exception("%s %s: internal error", request.method, request.url.path)
            return _error("internal error; the server's log has more.", 500)

    return answered


async def _answer_wrong_route(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    asked = f"{request.method} {request.url.path}"
    text = f"{asked}: {error.detail.lower()}; this server has {_PATHS}."
    response = _error(text, error.status_code)
    response.headers.update(error.headers or {})
    return response


def _error(
    message: str, status: int, param: str | None = None, code: str | None = None
) -> JSONResponse:
    body = protocol.error_response(message, status=status, param=param, code=code)
    return JSONResponse(body, status, {"Retry-After": "1"} if status == 503 else None)
