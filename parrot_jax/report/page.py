"""A self-contained page: one HTML file with inline styles and charts, without scripts.

The contents are dataclasses, and all text is escaped; the layout is in `templates/`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal, NamedTuple

from parrot_jax.core.errors import disk_full_is_a_user_error
from parrot_jax.core.files import atomic_write
from parrot_jax.report.environment import make_environment

Hue = Literal["accent", "contrast", "plain"]
"""Meaning of a colour: the subject, the comparison, or a reference."""

HUES: Sequence[Hue] = ("accent", "contrast", "plain")
"""Of the lines or bars of one chart; more need another chart."""


class Chart(NamedTuple):
    """A chart as two SVGs, and its legend, which the page draws."""

    key: tuple[tuple[str, Hue], ...]
    wide: str
    narrow: str


@dataclass(frozen=True)
class Tile:
    """A key figure at the top of the page."""

    value: str
    name: str
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table; its first column names the rows."""

    macro: ClassVar[str] = "table"

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    """One cell per column."""
    text_columns: int = 1
    """Number of leading text columns; the others hold numbers."""


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A chart with a caption and its numbers."""

    macro: ClassVar[str] = "picture"

    chart: Chart
    caption: str
    numbers: Table | None = None
    """Shown below the chart, collapsed."""


@dataclass(frozen=True)
class Answer:
    """An answer, and whether it is right; None = not judged."""

    text: str
    right: bool | None = None
    truth: str = ""
    """The right answer; shown if the given one is wrong."""


@dataclass(frozen=True)
class Round:
    """A question and its answers, one per speaker."""

    question: str
    label: str
    """A label of the question, e.g. its kind; may be empty."""
    answers: Sequence[Answer]


@dataclass(frozen=True, kw_only=True)
class TranscriptPanel:
    """A dialogue, or several answerers' dialogues over the same questions side by side."""

    macro: ClassVar[str] = "transcript"

    title: str
    asker: str
    answerers: Sequence[str]
    rounds: Sequence[Round]


@dataclass(frozen=True)
class Listing:
    """Commands to type, or a config."""

    macro: ClassVar[str] = "listing"

    text: str


Block = Table | Picture | TranscriptPanel | Listing


@dataclass(frozen=True, kw_only=True)
class Section:
    """A heading, paragraphs and blocks."""

    heading: str
    text: Sequence[str]
    blocks: Sequence[Block] = ()


@dataclass(frozen=True)
class Link:
    """A link for further reading; the page loads nothing from it."""

    text: str
    url: str


@dataclass(frozen=True, kw_only=True)
class Page:
    """The contents of a page."""

    title: str
    lead: str
    tiles: Sequence[Tile]
    sections: Sequence[Section]
    footer: str = ""
    links: Sequence[Link] = ()
    """Shown after the footer."""


def write_page(path: Path, page: Page) -> None:
    """Writes the page atomically.

    Args:
      path: The HTML file; its folder is created if missing.
      page: The contents.

    Raises:
      DiskFullError: The disk is full.
    """
    with disk_full_is_a_user_error(f"the page {path}"), atomic_write(path) as file:
        file.write(render_page(page))


def render_page(page: Page) -> str:
    """Returns the page as HTML."""
    environment = make_environment("parrot_jax.report")
    return environment.get_template("page.html").render(page=page)
