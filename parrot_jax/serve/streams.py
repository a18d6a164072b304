"""Streams a reply while it is generated, as server-sent events."""

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from parrot_jax.serve.engine import Completion, Say
from parrot_jax.serve.replies import ResponseFormat, event

ResultT = TypeVar("ResultT")


class Speaking:
    """A reply that is being generated."""

    def __init__(self, speak: Callable[[Say], Coroutine[Any, Any, Completion]]) -> None:
        """Starts the generation."""
        self._pieces: asyncio.Queue[str | None] = asyncio.Queue()
        self._work = asyncio.ensure_future(speak(self._pieces.put_nowait))
        self._work.add_done_callback(lambda _: self._pieces.put_nowait(None))

    async def next(self) -> str | Completion:
        """Returns the next piece of text; after the last piece, the completion.

        Raises:
          Exception: The exception of the generation.
        """
        piece = await self._pieces.get()
        return self._work.result() if piece is None else piece

    def stop(self) -> None:
        """Cancels the generation if it is still running."""
        self._work.cancel()


class Stream(Response):
    """A response that sends a reply in pieces."""

    media_type = "text/event-stream"

    def __init__(
        self,
        request: Request,
        reply: ResponseFormat,
        first: str | Completion,
        speaking: Speaking,
        describe_error: Callable[[BaseException, Request], tuple[int, dict[str, Any]]],
    ) -> None:
        """Prepares the response.

        Args:
          request: The request.
          reply: Formats the events.
          first: The first piece, generated before, so that early errors can set the HTTP status.
          speaking: Generates the other pieces.
          describe_error: Returns the body for an error after the status was sent.
        """
        super().__init__(headers={"Cache-Control": "no-cache"})
        del self.headers["content-length"]
        self._request, self._reply = request, reply
        self._first, self._speaking = first, speaking
        self._describe_error = describe_error

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends all events; stops if the client disconnects."""

        async def send_bytes(data: bytes, *, more: bool = True) -> None:
            await send({"type": "http.response.body", "body": data, "more_body": more})

        await send(
            {"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers}
        )
        try:
            with contextlib.suppress(ClientDisconnect):
                await unless_hung_up(self._request, self._send_events(send_bytes))
        except (Exception, asyncio.CancelledError) as error:
            # No [DONE], since the reply is incomplete.
            await send_bytes(event(self._describe_error(error, self._request)[1]))
        finally:
            self._speaking.stop()
        await send_bytes(b"", more=False)

    async def _send_events(self, send: Callable[[bytes], Coroutine[Any, Any, None]]) -> None:
        if opening := self._reply.opening():
            await send(opening)
        piece = self._first
        while isinstance(piece, str):
            await send(self._reply.piece(piece))
            piece = await self._speaking.next()
        await send(b"".join(self._reply.closing(piece)))


async def unless_hung_up(request: Request, work: Coroutine[Any, Any, ResultT]) -> ResultT:
    """Runs the work, but cancels it if the client disconnects.

    Args:
      request: A request whose body has been read.
      work: The work to run.

    Raises:
      ClientDisconnect: The client disconnected.
      CancelledError: The server is stopping and cannot wait any longer.
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
        await asyncio.wait({working, hanging_up})


async def _hung_up(request: Request) -> None:
    """Returns when the client disconnects; the request's body must have been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
