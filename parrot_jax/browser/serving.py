"""Serves pages on loopback until Ctrl-C."""

import contextlib
import signal
import socket
from collections.abc import Sequence

from starlette.routing import BaseRoute

from parrot_jax.browser.pages import make_pages_app
from parrot_jax.browser.sign_in import Links
from parrot_jax.core.errors import RunError
from parrot_jax.core.logs import visible
from parrot_jax.serve.background import BackgroundServer


def serve_pages(
    routes: Sequence[BaseRoute], package: str, listener: socket.socket, *, title: str
) -> None:
    """Serves until SIGINT or SIGTERM, then returns. Call it in the main thread.

    The first line printed ends with the link to open; each use of a link prints the next one, for
    another browser.

    Args:
      routes: Of the pages; `/` is the first one.
      package: Whose `templates/` have the style sheets and scripts.
      listener: From `open_port`.
      title: What is served, for the terminal.

    Raises:
      RunError: The server did not start, or ended by itself.
    """
    address = f"http://127.0.0.1:{listener.getsockname()[1]}/"
    links = Links(lambda query: print(f"for another browser: {address}{query}", flush=True))
    server = BackgroundServer(make_pages_app(routes, links, package), listener)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with contextlib.suppress(KeyboardInterrupt), server:
        print(f"{visible(title)}: open {address}{links.query} (Ctrl-C stops)", flush=True)
        server.join()
        raise RunError("the server ended by itself; see the log above.")
