"""Serves the pages while the indexes are kept up to date."""

from parrot_jax.browser.serving import serve_pages
from parrot_jax.serve.background import open_port
from parrot_jax.view.indexing import Keeper, Part
from parrot_jax.view.pages import PACKAGE, Viewer


def serve(parts: list[Part], *, port: int) -> None:
    """Serves until Ctrl-C.

    Args:
      parts: What to show.
      port: 0 = a free port.

    Raises:
      UserError: The port is in use.
      RunError: The server ended by itself.
    """
    with open_port(port=port) as listener, Keeper(parts):
        title = ", ".join(part.label for part in parts)
        serve_pages(Viewer(parts).routes(), PACKAGE, listener, title=title)
