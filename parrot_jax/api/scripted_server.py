"""An OpenAI-compatible server that says what a script says, and fails when the script says so.

It is a real HTTP server on a free port of this machine, so whatever talks to it is tested with the
real client. Temperature, top-p and limits mean nothing to it.
"""

import asyncio
import hashlib
import json
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import uvicorn

Script = Callable[[dict[str, Any]], "Scripted"]
"""From the body of a request to what the server does. It runs in the server's thread, for one
request at a time, and may keep a memory of its own."""


@dataclass(frozen=True, kw_only=True)
class Scripted:
    """What the server does with one request."""

    text: Any = ""
    """What the model says, or the message of the error."""
    finish_reason: str | None = "stop"
    status: int = 200
    """From 400 on, the body is an error."""
    code: str | None = None
    """OpenAI's word for the error."""
    body: str | None = None
    """The whole body, in place of what is made of the fields above."""
    headers: Mapping[str, str] = field(default_factory=dict)
    delay_s: float = 0.0
    """Seconds until the reply."""
    hangs_up: bool = False
    """Breaks the connection within the reply."""


def converse(body: dict[str, Any]) -> Scripted:
    """A text that follows from messages and seed alone: the same request has the same reply.

    >>> converse({"messages": [{"role": "user", "content": "Hi"}], "seed": 1}).text
    'answer 1: 3cae8ad6'
    """
    messages = body["messages"]
    digest = hashlib.sha256(json.dumps([messages, body.get("seed")]).encode()).hexdigest()[:8]
    kind = "answer" if messages[-1]["role"] == "user" else "question"
    return Scripted(text=f"{kind} {len(messages)}: {digest}")


_SERVED = (("POST", "/v1/chat/completions"), ("POST", "/v1/moderations"))


class ScriptedServer:
    """Serves while the `with` block runs.

    Attributes:
      url: What clients take for `base_url`.
      bodies: The body of every request, in the order of arrival.
      most_in_flight: How many requests waited for their reply at once, at most.
    """

    def __init__(
        self,
        script: Script = converse,
        *,
        delay_s: float = 0.0,
        key: str | None = None,
        keeps_bodies: bool = True,
    ) -> None:
        """Serves nothing yet.

        Args:
          script: Says what to do with a request.
          delay_s: Seconds that every reply takes besides what the script says.
          key: Who has another one is sent away, and told which one it was; None = all are let in.
          keeps_bodies: Whether `bodies` gets every request; a long run would fill the memory.
        """
        self.bodies: list[dict[str, Any]] = []
        self.most_in_flight = self._in_flight = 0
        self._script, self._delay_s, self._key = script, delay_s, key
        self._keeps_bodies = keeps_bodies
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=2048)
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}/v1"
        self._server = uvicorn.Server(
            uvicorn.Config(
                self._answer, interface="asgi3", lifespan="off", ws="none", log_level="critical",
                access_log=False, proxy_headers=False,
                # Its own would close the handlers of others, and absl's closes standard error.
                log_config=None,
                timeout_keep_alive=75, timeout_graceful_shutdown=1,
            )
        )  # fmt: skip
        self._thread = threading.Thread(
            target=self._server.run, args=([self._listener],), name="scripted server", daemon=True
        )

    def __enter__(self) -> "ScriptedServer":
        """Returns when the server is ready."""
        self._thread.start()
        while not self._server.started:
            time.sleep(0.001)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stops; replies that are still to come have a second."""
        self._server.should_exit = True
        self._thread.join()
        self._listener.close()

    async def _answer(
        self,
        scope: Mapping[str, Any],
        receive: Callable[[], Awaitable[Mapping[str, Any]]],
        send: Callable[[Mapping[str, Any]], Awaitable[None]],
    ) -> None:
        """The ASGI application."""
        body = b""
        while (message := await receive())["type"] == "http.request":
            body += message["body"]
            if not message.get("more_body"):
                break
        given = dict(scope["headers"]).get(b"authorization", b"").decode().removeprefix("Bearer ")
        if (scope["method"], scope["path"]) not in _SERVED:
            scripted = Scripted(status=404, text=f"there is no {scope['method']} {scope['path']}")
        elif self._key not in (None, given):
            scripted = Scripted(status=401, text=f"Incorrect API key provided: {given}")
        else:
            request = json.loads(body)
            if self._keeps_bodies:
                self.bodies.append(request)
            scripted = self._script(request)
        self._in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self._in_flight)
        await asyncio.sleep(self._delay_s + scripted.delay_s)
        self._in_flight -= 1
        content = _body(scripted).encode()
        headers = {"content-type": "application/json", **scripted.headers}
        headers["content-length"] = str(len(content) + scripted.hangs_up)
        await send(
            {
                "type": "http.response.start",
                "status": scripted.status,
                "headers": [(k.encode(), v.encode()) for k, v in headers.items()],
            }
        )
        # A body that ends before its announced length makes uvicorn close the connection.
        await send({"type": "http.response.body", "body": content, "more_body": scripted.hangs_up})


def _body(scripted: Scripted) -> str:
    if scripted.body is not None:
        return scripted.body
    if scripted.status >= 400:
        error = {"message": scripted.text, "type": "error", "param": None, "code": scripted.code}
        return json.dumps({"error": error})
    message = {"role": "assistant", "content": scripted.text}
    words = len(scripted.text.split()) if isinstance(scripted.text, str) else 0
    return json.dumps(
        {
            "id": "chatcmpl-scripted",
            "object": "chat.completion",
            "created": 0,
            "model": "scripted",
            "choices": [{"index": 0, "message": message, "finish_reason": scripted.finish_reason}],
            "usage": {"prompt_tokens": 0, "completion_tokens": words, "total_tokens": words},
        }
    )
