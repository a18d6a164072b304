"""The pages of an annotation, and the requests of their script."""

from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from parrot_jax.annotate.desk import Desk, StaleError, clean_name
from parrot_jax.annotate.tasks import SKIP, Choice
from parrot_jax.browser.pages import Pages, read_body
from parrot_jax.core.errors import UserError

PACKAGE = "parrot_jax.annotate"

_SKIP = Choice(SKIP, "s", "Skip")


def make_routes(desk: Desk) -> list[BaseRoute]:
    """The routes; nothing that they send tells the source of an item.

    Args:
      desk: Gives out the items. It is only used in the server's thread.
    """
    site = _Site(desk)
    return [
        Route("/", site.start),
        Route("/judge", site.judge),
        Route("/verdict", site.verdict, methods=["POST"]),
        Route("/undo", site.undo, methods=["POST"]),
    ]


class _Site:
    def __init__(self, desk: Desk) -> None:
        self._desk, self._pages = desk, Pages(PACKAGE)

    async def start(self, request: Request) -> Response:
        """Asks for a name, and lists everybody with their progress."""
        people = [(name, self._desk.state(name)) for name in self._desk.annotators()]
        return self._pages.page("start.html", task=self._desk.task, skip=_SKIP, people=people)

    async def judge(self, request: Request) -> Response:
        """The page with the current item of a person."""
        annotator = clean_name(request.query_params.get("annotator"))
        task, state = self._desk.task, self._desk.state(annotator)
        return self._pages.page(
            "judge.html",
            task=task,
            skip=_SKIP,
            annotator=annotator,
            state=state,
            item=self._pages.text("item.html", task=task, state=state),
        )

    async def verdict(self, request: Request) -> Response:
        """Saves a verdict."""
        body = await read_body(request)
        annotator = clean_name(body.get("annotator"))
        token, value, text = (_text(body, key) for key in ("item", "value", "text"))
        try:
            said = self._desk.judge(annotator, token, value, text)
        except StaleError as error:
            return self._stale(annotator, error)
        return self._reply(annotator, f"Saved: {self._words(said)}.")

    async def undo(self, request: Request) -> Response:
        """Takes back a verdict."""
        body = await read_body(request)
        annotator = clean_name(body.get("annotator"))
        try:
            said = self._desk.undo(annotator, _text(body, "undo"))
        except StaleError as error:
            return self._stale(annotator, error)
        return self._reply(annotator, f"Taken back: {self._words(said)}.")

    def _words(self, value: str) -> str:
        choices = (_SKIP, *self._desk.task.choices)
        return next(choice.words for choice in choices if choice.value == value)

    def _stale(self, annotator: str, error: StaleError) -> Response:
        said = f"Nothing was saved, because this page was out of date: {error}. This is the current"
        return self._reply(annotator, f"{said} one.", status=409)

    def _reply(self, annotator: str, said: str, *, status: int = 200) -> Response:
        state = self._desk.state(annotator)
        return JSONResponse(
            {
                "said": said,
                "done": state.done,
                "total": state.total,
                "html": self._pages.text("item.html", task=self._desk.task, state=state),
            },
            status,
        )


def _text(body: Any, key: str) -> str:
    """A text of the script's request; empty if it is absent."""
    value = body.get(key, "")
    if not isinstance(value, str):
        raise UserError(f"`{key}` is {value!r:.40}; it must be a text.")
    return value
