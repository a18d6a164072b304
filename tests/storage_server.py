"""An emulator of Google Cloud Storage, extended by generations.

Each write of an object gets a number, its generation. tensorstore replaces an object only if its
generation is still the one that it has read; this is how several writers share one checkpoint. The
original emulator sends no generations and ignores such conditions.
"""

import contextlib
import re
from collections.abc import Callable
from http import HTTPStatus
from urllib.parse import parse_qs, unquote, urlsplit

from gcp_storage_emulator.exceptions import NotFound
from gcp_storage_emulator.server import RequestHandler

_OBJECT = re.compile(r".*/b/([^/]+)/o(?:/([^/]+))?$")


class GenerationsHandler(RequestHandler):
    """Handles one request at a time, so that checking a condition and writing are atomic."""

    def do_GET(self) -> None:  # noqa: N802
        self._answer(super().do_GET, HTTPStatus.NOT_MODIFIED)

    def do_POST(self) -> None:  # noqa: N802
        self._answer(super().do_POST, HTTPStatus.PRECONDITION_FAILED)

    def do_DELETE(self) -> None:  # noqa: N802
        self._answer(super().do_DELETE, HTTPStatus.PRECONDITION_FAILED)

    def end_headers(self) -> None:
        if self._generation != "0":
            self.send_header("x-goog-generation", self._generation)
        super().end_headers()

    def _answer(self, handle: Callable[[], None], unchanged: HTTPStatus) -> None:
        url = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        found = _OBJECT.match(url.path)
        self._generation = "0"  # the generation of a missing object
        if found and (name := unquote(found[2] or query.get("name", ""))):
            with contextlib.suppress(NotFound):
                self._generation = self.storage.get_file_obj(found[1], name)["generation"]
        if query.get("ifGenerationMatch", self._generation) != self._generation:
            self._refuse(HTTPStatus.PRECONDITION_FAILED)
        elif query.get("ifGenerationNotMatch") == self._generation:
            self._refuse(unchanged)
        else:
            handle()

    def _refuse(self, status: HTTPStatus) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()
