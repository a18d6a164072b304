"""The application in a thread of this process, on a port of its own. Loads no jax."""

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
"""Seconds that requests in flight have when the server is told to stop."""

_TICK_S = 0.005


def open_port(host: str = "127.0.0.1", port: int = 0) -> socket.socket:
    """Takes a port; clients that connect wait until a server serves it.

    Args:
      host: An address of this machine. The default is reached from this machine only.
      port: 0 = one that is free.

    Raises:
      UserError: The port is in use or may not be opened, or the host is not this machine.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise UserError(
                f"port {port} on {host} is in use; choose another with --port, or --port 0 for "
                "one that is free."
            ) from None
        raise UserError(
            f"cannot open port {port} on {host}: {error.strerror}; check --host and --port."
        ) from None


class BackgroundServer:
    """Serves an application while the `with` block runs.

    >>> from parrot_jax.serve.app import make_app
    >>> from parrot_jax.serve.engine import FunctionSpeaker
    >>> import urllib.request
    >>> app = make_app(FunctionSpeaker("echo", lambda messages: messages[-1]["content"]))
    >>> with BackgroundServer(app) as server:
    ...     urllib.request.urlopen(server.url + "/models").status
    200

    Attributes:
      url: What clients take for `base_url`, e.g. `http://127.0.0.1:8000/v1`.
    """

    def __init__(self, app: Starlette, listener: socket.socket | None = None) -> None:
        """Serves nothing yet.

        Args:
          app: From `make_app`; an application serves once.
          listener: From `open_port`; None = a free port on loopback. Closed at the end.
        """
        self._listener = open_port() if listener is None else listener
        host, port = self._listener.getsockname()[:2]
        self.url = f"http://{f'[{host}]' if ':' in host else host}:{port}/v1"
        self._server = uvicorn.Server(
            uvicorn.Config(
                app,
                http=Connection,
                loop="asyncio",  # uvloop has another way to limit what is read at once
                lifespan="on",
                ws="none",
                log_level="error",  # a line for each malformed request would fill a disk
                access_log=False,
                proxy_headers=False,
                server_header=False,
                timeout_keep_alive=int(KEEP_ALIVE_S),
                timeout_graceful_shutdown=GRACE_S,
            )
        )
        # Not the thread itself is waited for: an interrupted `Thread.join` takes it for ended.
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="server", daemon=True)

    def __enter__(self) -> "BackgroundServer":
        """Returns when the server is ready.

        Raises:
          RunError: The application failed to start; the reason has been logged.
        """
        raise_limit(MAX_CONNECTIONS)
        self._thread.start()
        while not self._server.started:
            if self._ended.is_set():
                raise RunError("the server did not start; the lines above say why.")
            time.sleep(_TICK_S)
        return self

    def join(self) -> None:
        """Waits until the server ends, which it does not do by itself."""
        self._ended.wait()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stops: no new requests; those in flight have `GRACE_S` seconds, then get status 503."""
        self._server.should_exit = True
        self._ended.wait()

    def _serve(self) -> None:
        try:
            # uvicorn logs why an application cannot start, and exits.
            with contextlib.suppress(SystemExit):
                self._server.run([self._listener])
        finally:
            self._listener.close()
            self._ended.set()


def serve_until_stopped(server: BackgroundServer, model: str) -> None:
    """Serves until SIGINT or SIGTERM, which is no failure. Call it in the main thread.

    Args:
      server: Not started yet.
      model: What is served, for the line that says where.

    Raises:
      RunError: The server did not start, or ended by itself.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with contextlib.suppress(KeyboardInterrupt), server:
        print(f"serving {model} at {server.url} (Ctrl-C stops)", flush=True)
        server.join()
        raise RunError("the server ended by itself; the lines above say why.")
