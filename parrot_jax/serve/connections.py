"""Connections of the web server, with timeouts for every phase and a limit on their number.

uvicorn has no timeout for the head of a request, for a client that does not read its reply, or for
data sent after a request. Without them, a client could exhaust all connections by leaving them
open.
"""

import asyncio
import contextlib
import json

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from parrot_jax.core.open_files import most_connections
from parrot_jax.serve.replies import error_response

HEAD_S = 20.0
"""Seconds for the head of a request, from the start of the connection or its first byte."""

KEEP_ALIVE_S = 75.0
"""Seconds between two requests. Longer than in clients, so that the client closes first."""

WRITE_S = 60.0
"""Seconds for a client to read a reply."""

LINGER_S = 5.0
"""Seconds for data that arrives after the reply, and for closing a connection."""

MAX_CONNECTIONS = 4096

_READ_BYTES = 16 * 2**10
"""Small, since each byte may be a chunk of a body: parsing it takes milliseconds, not a second."""


class Connection(H11Protocol, asyncio.BufferedProtocol):
    """A uvicorn connection with timeouts."""

    _timer: asyncio.TimerHandle | None = None
    _phase: object = None
    _since = 0.0

    # ---- events ----

    def connection_made(  # pyright: ignore[reportIncompatibleMethodOverride] - as in uvicorn
        self, transport: asyncio.Transport
    ) -> None:
        """Starts the connection; may close another one to make room."""
        super().connection_made(transport)
        self._look()
        if len(self.connections) > min(MAX_CONNECTIONS, most_connections()):
            self._make_room()

    def get_buffer(self, sizehint: int) -> bytearray:
        """Allocates a buffer for the next bytes."""
        self._buffer = bytearray(_READ_BYTES)
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Handles the bytes of the buffer."""
        self.data_received(bytes(self._buffer[:nbytes]))
        del self._buffer

    def data_received(self, data: bytes) -> None:
        """Reads a request, one at a time."""
        if self._has_whole_request():
            # Discard data that arrives before the reply to this request: buffering it has no limit,
            # and without reading, a disconnect would not be noticed.
            self.cycle.keep_alive = False
            return
        super().data_received(data)
        if self._has_whole_request() and self.conn.trailing_data[0]:
            self.cycle.keep_alive = False
            self.flow.resume_reading()
        self._look()

    def on_response_complete(self) -> None:
        """Starts the timer for the next request."""
        super().on_response_complete()
        self._look()

    def pause_writing(self) -> None:
        """Starts the timer of a client that has stopped reading."""
        super().pause_writing()
        self._look()

    def resume_writing(self) -> None:
        """Ends the timer of a client that reads again."""
        super().resume_writing()
        self._look()

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancels the timer."""
        self._expect(None)
        super().connection_lost(exc)

    def timeout_keep_alive_handler(self) -> None:
        """Closes a connection that uvicorn found idle."""
        self._too_late()

    def send_400_response(self, msg: str) -> None:
        """Replies to invalid HTTP."""
        self._refuse(400, "this is not an HTTP/1.1 request.")

    # ---- timeouts ----

    def _is_working(self) -> bool:
        """Whether there is a request without a complete reply."""
        return self.cycle is not None and not self.cycle.response_complete

    def _has_whole_request(self) -> bool:
        return self._is_working() and not self.cycle.more_body

    def _look(self) -> None:
        """Starts the timer of the current phase, if the phase has changed."""
        if self.transport.is_closing():
            phase, seconds = "closing", LINGER_S
        elif self.flow.write_paused:
            phase, seconds = "writing", WRITE_S
        elif self._is_working():
            phase, seconds = self.cycle, None  # the application has its own timeouts
        elif self.conn.their_state is h11.SEND_BODY:
            phase, seconds = "draining", LINGER_S
        elif self.cycle is None or self.conn.trailing_data[0]:
            phase, seconds = "head", HEAD_S
        else:
            phase, seconds = "idle", KEEP_ALIVE_S
        if phase != self._phase:
            self._phase, self._since = phase, self.loop.time()
            self._expect(seconds)

    def _expect(self, seconds: float | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None if seconds is None else self.loop.call_later(seconds, self._too_late)

    def _too_late(self) -> None:
        if self._phase == "head" and self.conn.trailing_data[0]:
            self._refuse(408, f"the head of the request was not complete after {HEAD_S:g} s.")
        elif self._phase in ("head", "idle"):
            self.transport.close()
        else:
            self.transport.abort()
        self._look()

    def _make_room(self) -> None:
        """Aborts the connection that has been longest without a complete request."""
        waiting = [
            each
            for each in self.connections
            if isinstance(each, Connection)
            and not (each._is_working() and not each.cycle.more_body)
        ]
        min(waiting, key=lambda each: each._since, default=self).transport.abort()

    def _refuse(self, status: int, message: str) -> None:
        """Sends an error and closes the connection."""
        body = json.dumps(error_response(message, status=status)).encode()
        headers = [
            ("content-type", "application/json"),
            ("content-length", str(len(body))),
            ("connection", "close"),
        ]
        events = (
            h11.Response(status_code=status, headers=headers),
            h11.Data(data=body),
            h11.EndOfMessage(),
        )
        # A reply that has already begun is cut off.
        with contextlib.suppress(h11.LocalProtocolError):
            self.transport.write(b"".join(self.conn.send(event) or b"" for event in events))
        self.transport.close()
        self._look()
