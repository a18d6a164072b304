"""Runs the application in a thread of this process, on its own port. Does not import jax."""

import contextlib
import errno
import signal
import socket
import threading
import time
from types import TracebackType

import uvicorn
from starlette.applications import Starlette

from parrot_jax.core.errors import RunError, UserError
from parrot_jax.core.open_files import raise_limit
from parrot_jax.serve.connections import KEEP_ALIVE_S, MAX_CONNECTIONS, Connection

GRACE_S = 20
"""Seconds to wait for requests in flight when the server stops."""

_TICK_S = 0.005


def open_port(host: str = "127.0.0.1", port: int = 0) -> socket.socket:
    """Opens a port; clients that connect wait until a server accepts them.

    Args:
      host: An address of this machine. The default is reachable only from this machine.
      port: 0 = a free port.

    Raises:
      UserError: The port is in use or not allowed, or the host is not an address of this machine.
    """
    if not 0 <= port <= 65535:
        raise UserError(f"port {port} does not exist; give one of 0 to 65535.")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise UserError(
                f"port {port} on {host} is in use; choose another with --port, or --port 0 for "
                "a free one."
            ) from None
        raise UserError(
            f"cannot open port {port} on {host}: {error.strerror}; check --host and --port."
        ) from None
    # Accepted connections inherit it. Otherwise the body of a reply, which uvicorn sends after the
    # head, waits up to 40 ms for the client's acknowledgement of the head. asyncio sets it only on
    # sockets of which it knows the protocol, unlike these.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


class BackgroundServer:
    """Serves an application while the `with` block runs.

    >>> from parrot_jax.serve.app import make_app
    >>> from parrot_jax.serve.engine import FunctionEngine
    >>> import urllib.request
    >>> app = make_app(FunctionEngine("echo", lambda messages: messages[-1]["content"]))
    >>> with BackgroundServer(app) as server:
    ...     urllib.request.urlopen(server.url + "/models").status
    200

    Attributes:
      url: The `base_url` for clients, e.g. `http://127.0.0.1:8000/v1`.
    """

    def __init__(self, app: Starlette, listener: socket.socket | None = None) -> None:
        """Opens the port; serving starts with the `with` block.

        Args:
          app: From `make_app`; an application can be served only once.
          listener: From `open_port`; None = a free port on loopback. Closed at the end.
        """
        self._listener = open_port() if listener is None else listener
        host, port = self._listener.getsockname()[:2]
        self.url = f"http://{f'[{host}]' if ':' in host else host}:{port}/v1"
        self._server = uvicorn.Server(
            uvicorn.Config(
                app,
                http=Connection,
                loop="asyncio",  # uvloop does not support our read limit
                lifespan="on",
                ws="none",
                log_level="error",  # a line per malformed request could fill a disk
                access_log=False,
                proxy_headers=False,
                server_header=False,
                timeout_keep_alive=int(KEEP_ALIVE_S),
                timeout_graceful_shutdown=GRACE_S,
            )
        )
        # An event, since an interrupted `Thread.join` considers the thread ended.
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="server", daemon=True)

    def __enter__(self) -> "BackgroundServer":
        """Returns when the server is ready.

        Raises:
          RunError: The application failed to start; uvicorn has logged the reason.
        """
        raise_limit(MAX_CONNECTIONS)
        self._thread.start()
        while not self._server.started:
            if self._ended.is_set():
                raise RunError("the server did not start; see the log above.")
            time.sleep(_TICK_S)
        return self

    def join(self) -> None:
        """Waits until the server ends."""
        self._ended.wait()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stops the server; requests in flight get status 503 after `GRACE_S` seconds."""
        self._server.should_exit = True
        self._ended.wait()

    def _serve(self) -> None:
        try:
            # If the application cannot start, uvicorn logs the reason and exits.
            with contextlib.suppress(SystemExit):
                self._server.run([self._listener])
        finally:
            self._listener.close()
            self._ended.set()


def serve_until_stopped(server: BackgroundServer, model: str) -> None:
    """Serves until SIGINT or SIGTERM, then returns. Call it in the main thread.

    Args:
      server: A server that is not started.
      model: The model's name, for the console.

    Raises:
      RunError: The server did not start, or ended by itself.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with contextlib.suppress(KeyboardInterrupt), server:
        print(f"serving {model} at {server.url} (Ctrl-C stops)", flush=True)
        server.join()
        raise RunError("the server ended by itself; see the log above.")
