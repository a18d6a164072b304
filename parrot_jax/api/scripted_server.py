"""An OpenAI-compatible test server whose replies and failures come from a script.

It listens on a free local port, so tests use the real client. It writes to its sockets directly,
since library servers cannot produce invalid HTTP. It ignores temperature, top-p and token limits.
"""

import asyncio
import contextlib
import hashlib
import json
import socket
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

Script = Callable[[dict[str, Any]], "Scripted"]
"""Maps the body of a request to a response. Called in the server's thread, one request at a
time, so it may keep state."""


@dataclass(frozen=True, kw_only=True)
class Scripted:
    """The server's response to one request."""

    text: Any = ""
    """The reply's text, or the error's message."""
    finish_reason: str | None = "stop"
    status: int = 200
    """From 400 on, the body is an error."""
    code: str | None = None
    """OpenAI's error code."""
    usage: Mapping[str, Any] | None = None
    """The token counts; None = the number of words."""
    body: str | bytes | None = None
    """The whole body; replaces the fields above."""
    headers: Mapping[str, str] = field(default_factory=dict)
    delay_s: float = 0.0
    """Seconds until the reply."""
    hangs_up: bool = False
    """Closes the connection in the middle of the reply."""
    endless: bytes | None = None
    """Sent repeatedly after the body, until the client disconnects."""
    pause_s: float = 0.0
    """Seconds before each `endless` chunk."""
    raw: bytes | None = None
    """Raw bytes to send instead of an HTTP reply; then the connection is closed."""


def converse(body: dict[str, Any]) -> Scripted:
    """A reply that depends only on messages and seed.

    >>> converse({"messages": [{"role": "user", "content": "Hi"}], "seed": 1}).text
    'answer 1: 3cae8ad6'
    """
    messages = body["messages"]
    digest = hashlib.sha256(json.dumps([messages, body.get("seed")]).encode()).hexdigest()[:8]
    kind = "answer" if messages[-1]["role"] == "user" else "question"
    return Scripted(text=f"{kind} {len(messages)}: {digest}")


_SERVED = (b"POST /v1/chat/completions", b"POST /v1/moderations")


class ScriptedServer:
    """Serves while the `with` block runs.

    Attributes:
      url: The `base_url` for clients.
      bodies: The body of every request, in the order of arrival.
      heads: The request line and the headers of every request, in the order of arrival.
      most_in_flight: Largest number of requests that waited for a reply at once.
    """

    def __init__(
        self,
        script: Script = converse,
        *,
        delay_s: float = 0.0,
        key: str | None = None,
        keeps_bodies: bool = True,
    ) -> None:
        """Opens the port; serving starts with the `with` block.

        Args:
          script: Returns the response to each request.
          delay_s: Seconds added to every reply's delay.
          key: Other keys get 401, with the key in the message; None = all are accepted.
          keeps_bodies: Whether to record requests in `bodies` and `heads`; false for long runs.
        """
        self.bodies: list[dict[str, Any]] = []
        self.heads: list[str] = []
        self.most_in_flight = self._in_flight = 0
        self._script, self._delay_s, self._key = script, delay_s, key
        self._keeps_bodies = keeps_bodies
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=2048)
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}/v1"
        self._loop = asyncio.new_event_loop()
        self._connections: set[asyncio.Task[None]] = set()
        self._stopped = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="scripted server", daemon=True)

    def __enter__(self) -> "ScriptedServer":
        """Starts serving. The socket already listens, so earlier requests are not lost."""
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stops at once; pending replies are lost."""
        self._loop.call_soon_threadsafe(self._stopped.set)
        self._thread.join()
        self._listener.close()

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        server = await asyncio.start_server(self._connected, sock=self._listener, backlog=2048)
        await self._stopped.wait()
        server.close()
        for connection in self._connections:
            connection.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, until either side closes it."""
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            # A client that disconnects, or sends no HTTP, ends only its own connection.
            with contextlib.suppress(ConnectionError, EOFError, ValueError, asyncio.CancelledError):
                while await self._answer(reader, writer):
                    pass
        finally:
            self._connections.discard(task)
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Handles one request; returns whether the connection stays open."""
        head = await reader.readuntil(b"\r\n\r\n")
        line, *fields = head.split(b"\r\n")
        headers = {
            name.lower(): value.strip() for name, _, value in (f.partition(b":") for f in fields)
        }
        body = await reader.readexactly(int(headers.get(b"content-length", 0)))
        given = headers.get(b"authorization", b"").decode().removeprefix("Bearer ")
        if line.rpartition(b" ")[0] not in _SERVED:
            scripted = Scripted(status=404, text=f"there is no {line.decode('latin-1')}")
        elif self._key not in (None, given):
            scripted = Scripted(status=401, text=f"Incorrect API key provided: {given}")
        else:
            request = json.loads(body)
            if self._keeps_bodies:
                self.bodies.append(request)
                self.heads.append(head.decode("latin-1"))
            scripted = self._script(request)
        self._in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self._in_flight)
        try:
            await asyncio.sleep(self._delay_s + scripted.delay_s)
        finally:
            self._in_flight -= 1
        if scripted.raw is not None:
            writer.write(scripted.raw)
            await writer.drain()
            return False
        content = _body(scripted)
        length = len(content) + scripted.hangs_up
        sent = {"content-type": "application/json", "content-length": str(length)}
        if scripted.endless is not None:
            sent = {"content-type": "application/json", "connection": "close"}
        lines = [f"HTTP/1.1 {scripted.status} Scripted"]
        lines += [f"{name}: {value}" for name, value in (sent | dict(scripted.headers)).items()]
        writer.write("\r\n".join([*lines, "", ""]).encode() + content)
        await writer.drain()
        while scripted.endless is not None:
            await asyncio.sleep(scripted.pause_s)
            writer.write(scripted.endless)
            await writer.drain()
        return not scripted.hangs_up


def _body(scripted: Scripted) -> bytes:
    if scripted.body is not None:
        return scripted.body.encode() if isinstance(scripted.body, str) else scripted.body
    return json.dumps(_value(scripted)).encode()


def _value(scripted: Scripted) -> dict[str, Any]:
    if scripted.status >= 400:
        error = {"message": scripted.text, "type": "error", "param": None, "code": scripted.code}
        return {"error": error}
    message = {"role": "assistant", "content": scripted.text}
    words = len(scripted.text.split()) if isinstance(scripted.text, str) else 0
    return {
        "id": "chatcmpl-scripted",
        "object": "chat.completion",
        "created": 0,
        "model": "scripted",
        "choices": [{"index": 0, "message": message, "finish_reason": scripted.finish_reason}],
        "usage": scripted.usage
        or {"prompt_tokens": 0, "completion_tokens": words, "total_tokens": words},
    }
