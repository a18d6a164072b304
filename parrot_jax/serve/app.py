"""The web application around an engine: `/v1/chat/completions`, `/v1/completions`, `/v1/models`.

It does not import jax. Errors have OpenAI's format: status 400 to 499 with the reason for client
errors; status 500 without internals for bugs, whose traceback goes to stderr. Requests have limits
of size and time, and work is cancelled when its client disconnects. Bodies are parsed in threads,
so that the event loop is never blocked.
"""

import asyncio
import concurrent.futures
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from typing import Any, TypeVar

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from parrot_jax.core.errors import UserError
from parrot_jax.core.logs import visible
from parrot_jax.serve import protocol
from parrot_jax.serve.callers.known_callers import KnownCallers
from parrot_jax.serve.engine import Completion, Engine, RequestError, Say, say_nothing
from parrot_jax.serve.replies import ResponseFormat, error_response, model_card
from parrot_jax.serve.streams import Speaking, Stream, unless_hung_up

Handler = Callable[[Request], Awaitable[Response]]
ReadT = TypeVar("ReadT")

_log = logging.getLogger(__name__)

_PATHS = (
    "POST /v1/chat/completions, POST /v1/completions, GET /v1/models, GET /v1/models/NAME and "
    "GET /health"
)
_SHOWN_CHARS = 100

MAX_BODY_BYTES = 4 * 2**20
"""Limit on the size of a request; larger than any context."""

MAX_BODIES_BYTES = 64 * MAX_BODY_BYTES
"""Limit on the total size of requests being read; small requests are exempt."""

_SMALL_BYTES = 2**16

BODY_S = 60.0
"""Seconds for the body of a request."""

REQUEST_S = 3600.0
"""Seconds for a reply, including the time in the queue."""

_DRAIN_S = 5  # for the rest of an oversized body


def make_app(engine: Engine, hosts: Sequence[str] = ()) -> Starlette:
    """Creates the ASGI application that serves one engine.

    Args:
      engine: Started and stopped with the application.
      hosts: Additional host names and addresses for clients, besides loopback.
    """
    endpoints = _Endpoints(engine)

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        await engine.start()
        try:
            yield
        finally:
            await engine.stop()
            endpoints.stop()

    app = Starlette(
        routes=[
            Route("/health", endpoints.health),
            Route("/v1/models", endpoints.models),
            Route("/v1/models/{name:path}", _with_errors_answered(endpoints.one_model)),
            Route("/v1/chat/completions", _with_errors_answered(endpoints.chat), methods=["POST"]),
            Route("/v1/completions", _with_errors_answered(endpoints.complete), methods=["POST"]),
        ],
        middleware=[Middleware(KnownCallers, hosts=hosts)],
        exception_handlers={HTTPException: _answer_wrong_route},
        lifespan=lifespan,
    )
    app.router.redirect_slashes = False
    return app


class _Endpoints:
    """The handlers of the paths."""

    def __init__(self, engine: Engine) -> None:
        self.engine, self.created = engine, int(time.time())
        # Two threads only, since parsed JSON takes up to 30 times the memory of the body.
        self._readers = concurrent.futures.ThreadPoolExecutor(2, "requests")
        self._held_bytes = 0

    def stop(self) -> None:
        self._readers.shutdown(wait=False, cancel_futures=True)

    async def health(self, _: Request) -> Response:
        return Response(status_code=200)

    async def models(self, _: Request) -> Response:
        return JSONResponse({"object": "list", "data": [self._card()]})

    async def one_model(self, request: Request) -> Response:
        self._check_model(request.path_params["name"])
        return JSONResponse(self._card())

    async def chat(self, request: Request) -> Response:
        asked = await self._read(request, protocol.read_chat_request)

        def speak(say: Say) -> Coroutine[Any, Any, Completion]:
            return self.engine.chat(asked.messages, asked.settings(), say)

        return await self._answer(request, asked, speak, is_chat=True)

    async def complete(self, request: Request) -> Response:
        asked = await self._read(request, protocol.read_completion_request)

        def speak(say: Say) -> Coroutine[Any, Any, Completion]:
            return self.engine.complete(
                asked.prompt,
                asked.settings(),
                say,
                add_special_tokens=asked.add_special_tokens is not False,
            )

        return await self._answer(request, asked, speak, is_chat=False)

    async def _answer(
        self,
        request: Request,
        asked: protocol.ChatRequest | protocol.CompletionRequest,
        speak: Callable[[Say], Coroutine[Any, Any, Completion]],
        *,
        is_chat: bool,
    ) -> Response:
        self._check_model(asked.model)
        reply = ResponseFormat(
            self.engine.model,
            is_chat=is_chat,
            with_ids=bool(asked.return_token_ids),
            with_usage=asked.with_usage,
        )
        if asked.stream:
            speaking = Speaking(lambda say: _in_time(speak(say)))
            try:
                first = await unless_hung_up(request, speaking.next())
            except BaseException:
                speaking.stop()
                raise
            return Stream(request, reply, first, speaking, describe_error)
        completion = await unless_hung_up(request, _in_time(speak(say_nothing)))
        return JSONResponse(reply.whole(completion))

    async def _read(self, request: Request, read: Callable[[bytes], ReadT]) -> ReadT:
        """Reads and parses the body of a request.

        Raises:
          RequestError: The body is too large, too slow or invalid.
          ClientDisconnect: The client disconnected before the body was complete.
        """
        body = bytearray()
        try:
            await self._fill(body, request)
            reading = asyncio.get_running_loop().run_in_executor(self._readers, read, bytes(body))
            return await reading
        finally:
            self._held_bytes -= len(body)

    async def _fill(self, body: bytearray, request: Request) -> None:
        try:
            async with asyncio.timeout(BODY_S) as limit:
                async for chunk in request.stream():
                    if len(body) > MAX_BODY_BYTES:
                        continue  # discard the rest: clients read no reply before sending it
                    body += chunk
                    self._held_bytes += len(chunk)
                    if len(body) > MAX_BODY_BYTES:
                        limit.reschedule(asyncio.get_running_loop().time() + _DRAIN_S)
                    if len(body) > _SMALL_BYTES and self._held_bytes > MAX_BODIES_BYTES:
                        raise RequestError(
                            "too many large requests at once; try again later.",
                            status=503, code="overloaded",
                        )  # fmt: skip
        except TimeoutError:
            if len(body) <= MAX_BODY_BYTES:
                raise RequestError(
                    f"the body of the request was not complete after {BODY_S:g} s.", status=408
                ) from None
        if len(body) > MAX_BODY_BYTES:
            raise RequestError(
                f"the request is larger than {MAX_BODY_BYTES:,} bytes; send a shorter one.",
                status=413,
            )

    def _check_model(self, model: str | None) -> None:
        if model not in (None, self.engine.model):
            raise RequestError(
                f"there is no model {model[:_SHOWN_CHARS]!r}; this server has "
                f"{self.engine.model!r}.",
                status=404, param="model", code="model_not_found",
            )  # fmt: skip

    def _card(self) -> dict[str, Any]:
        return model_card(self.engine.model, self.created)


async def _in_time(work: Coroutine[Any, Any, Completion]) -> Completion:
    try:
        async with asyncio.timeout(REQUEST_S):
            return await work
    except TimeoutError:
        raise RequestError(
            f"the reply was not complete after {REQUEST_S:g} s; lower max_tokens, or try again "
            "later.", status=504, code="timeout",
        ) from None  # fmt: skip


# ---- errors -------------------------------------------------------------------------------------


def _with_errors_answered(endpoint: Handler) -> Handler:
    # Starlette re-raises unexpected exceptions after the reply, and uvicorn then closes a
    # connection that the client still uses.
    async def answered(request: Request) -> Response:
        try:
            return await endpoint(request)
        except ClientDisconnect:
            return Response(status_code=499)  # never received
        except (Exception, asyncio.CancelledError) as error:
            status, body = describe_error(error, request)
            return _error(status, body)

    return answered


def describe_error(error: BaseException, request: Request) -> tuple[int, dict[str, Any]]:
    """Returns status and body of an error reply; logs bugs."""
    match error:
        case RequestError():
            status, param, code = error.status, error.param, error.code
            return status, error_response(str(error), status=status, param=param, code=code)
        case UserError():
            return 400, error_response(str(error), status=400)
        case asyncio.CancelledError():
            return 503, error_response("the server is stopping.", status=503, code="stopping")
    path = visible(request.scope["path"][:_SHOWN_CHARS])
    _log.error("%s %s: internal error", request.method, path, exc_info=error)
    return 500, error_response("internal error; see the server's log.", status=500)


async def _answer_wrong_route(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    asked = f"{request.method[:_SHOWN_CHARS]} {request.scope['path'][:_SHOWN_CHARS]}"
    text = f"{asked}: {error.detail.lower()}; use {_PATHS}."
    response = _error(error.status_code, error_response(text, status=error.status_code))
    response.headers.update(error.headers or {})
    return response


def _error(status: int, body: dict[str, Any]) -> JSONResponse:
    return JSONResponse(body, status, {"Retry-After": "1"} if status == 503 else None)
