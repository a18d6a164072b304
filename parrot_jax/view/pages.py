"""The pages of the viewer: a list, a dialogue, rejected rows, and what is new."""

import contextlib
from collections.abc import Iterator
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Route

from parrot_jax.browser.pages import Pages
from parrot_jax.core.errors import UserError
from parrot_jax.view.indexing import Part
from parrot_jax.view.query import SORTS, Query
from parrot_jax.view.reading import IndexReader, Totals
from parrot_jax.view.searching import marked, terms_of

PACKAGE = "parrot_jax.view"

_NUMBERS = 2**53
"""Numbers of dialogues are smaller."""

_CHECK_S = 10.0
"""Seconds that a page waits until its index is known to be current."""


class Viewer:
    """Answers requests about the parts. Each request opens the index for itself."""

    def __init__(self, parts: list[Part]) -> None:
        """Args: parts: In the order of the tabs."""
        self._parts = parts
        self._pages = Pages(PACKAGE)
        self._known: dict[tuple[int, int, Query], int] = {}

    def routes(self) -> list[BaseRoute]:
        """The addresses. A part is named by its place in the command, from 1."""
        return [
            Route("/", lambda _: RedirectResponse("/1")),
            Route("/{part:int}", self._list),
            Route("/{part:int}/news", self._news),
            Route("/{part:int}/rejected", self._rejected),
            Route("/{part:int}/{number:int}", self._dialogue),
        ]

    def _list(self, request: Request) -> Response:
        part, query = self._part(request), Query.parse(request.query_params)
        with self._reader(part) as reader:
            totals = reader.totals()
            anchors = {name: _number(request, name) for name in ("after", "before", "around")}
            return self._pages.page(
                "list.html",
                200,
                **self._frame(request, totals, query),
                page=reader.page(query, **anchors),
                matching=self._count(request, reader, totals, query),
                without_score=reader.without_score() if query.column == "score" else 0,
                choices=reader.choices(),
                sorts=SORTS,
                terms=terms_of(query.q),
            )

    def _dialogue(self, request: Request) -> Response:
        part, query = self._part(request), Query.parse(request.query_params)
        number = request.path_params["number"]
        with self._reader(part) as reader:
            shown = reader.dialogue(number) if number < _NUMBERS else None
            if shown is None:
                raise HTTPException(404, f"{part.label} has no dialogue {number}.")
            before, after = reader.neighbours(query, number)
            return self._pages.page(
                "dialogue.html",
                200,
                **self._frame(request, reader.totals(), query),
                shown=shown,
                number=number,
                version=reader.version(number),
                before=before,
                after=after,
                terms=terms_of(query.q),
                live_text=part.source.live_text(shown),
            )

    def _rejected(self, request: Request) -> Response:
        with self._reader(self._part(request)) as reader:
            return self._pages.page(
                "rejected.html",
                200,
                **self._frame(request, reader.totals(), Query()),
                rows=reader.rejected(after=_number(request, "after") or 0),
            )

    def _news(self, request: Request) -> Response:
        """What has changed, for the script: counts, and the state of a dialogue."""
        part, query = self._part(request), Query.parse(request.query_params)
        with self._reader(part) as reader:
            totals = reader.totals()
            dialogue = _number(request, "dialogue")
            return JSONResponse(
                {
                    "matching": self._count(request, reader, totals, query),
                    "generation": totals.generation,
                    "progress": progress_of(part),
                    "problem": part.problem,
                    "version": None if dialogue is None else reader.version(dialogue),
                }
            )

    def _count(self, request: Request, reader: IndexReader, totals: Totals, query: Query) -> int:
        """The number of dialogues that match; kept, because open pages keep asking."""
        key = (request.path_params["part"], totals.revision, query)
        if key not in self._known:
            if len(self._known) > 1000:
                self._known.clear()
            self._known[key] = reader.count(query) if query.conditions()[0] else totals.dialogues
        return self._known[key]

    def _part(self, request: Request) -> Part:
        place = request.path_params["part"]
        if not 1 <= place <= len(self._parts):
            raise HTTPException(404, f"there is no path {place}; there are {len(self._parts)}.")
        return self._parts[place - 1]

    @contextlib.contextmanager
    def _reader(self, part: Part) -> Iterator[IndexReader]:
        if not part.checked.wait(_CHECK_S):
            raise HTTPException(503, f"{part.label} is still being compared with its index.")
        if not part.index.exists():
            raise UserError(part.problem or f"{part.label} is not read yet; try again.")
        with contextlib.closing(IndexReader(part.index)) as reader:
            reader.hold()
            yield reader

    def _frame(self, request: Request, totals: Totals, query: Query) -> dict[str, Any]:
        """What every page shows."""
        place = request.path_params["part"]
        return {
            "place": place,
            "part": self._parts[place - 1],
            "labels": [part.label for part in self._parts],
            "totals": totals,
            "progress": progress_of(self._parts[place - 1]),
            "query": query,
            "marked": marked,
        }


def progress_of(part: Part) -> str:
    """What the first pass has done so far; empty once it is complete."""
    if not part.is_reading:
        return ""
    share = part.source.progress()
    return "reading" if share is None else f"reading: {share:.0%}"


def _number(request: Request, name: str) -> int | None:
    text = request.query_params.get(name, "")
    if not text:
        return None
    if not text.isascii() or not text.isdecimal() or len(text) > 15:
        raise UserError(f"{name} is {text[:40]!r}; it must be the number of a dialogue.")
    return int(text)
