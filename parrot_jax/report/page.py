"""A self-contained page: one HTML file with style and charts inside, without scripts.

Contents are data, and all texts are escaped; the layout is in `templates/`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import jinja2
from markupsafe import Markup

from parrot_jax.core.errors import disk_full_is_a_user_error
from parrot_jax.core.files import atomic_write
from parrot_jax.report.texts import fit_text

Hue = Literal["accent", "contrast", "plain"]
"""Meaning of a colour: the subject, the comparison, or a reference."""


class Chart(NamedTuple):
    """A chart as two SVGs, and its legend, which the page draws."""

    key: tuple[tuple[str, Hue], ...]
    wide: str
    narrow: str


@dataclass(frozen=True)
class Tile:
    """A figure to be seen first."""

    value: str
    name: str
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table; its first column names the rows."""

    macro: ClassVar[str] = "table"

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    """As many cells each as there are columns."""
    text_columns: int = 1
    """So many columns from the left hold text; the others hold numbers."""


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A chart, how to read it, and its numbers."""

    macro: ClassVar[str] = "picture"

    chart: Chart
    caption: str
    numbers: Table | None = None
    """Folded under the chart."""


@dataclass(frozen=True)
class Answer:
    """What a speaker said, and whether it was right; None = nobody judged it."""

    text: str
    right: bool | None = None
    truth: str = ""
    """Shown where the answer is wrong."""


@dataclass(frozen=True)
class Round:
    """A question and its answers, one a speaker."""

    question: str
    label: str
    """A word on the question, e.g. its kind; may be empty."""
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
    """Lines to be typed."""

    macro: ClassVar[str] = "listing"

    text: str


Block = Table | Picture | TranscriptPanel | Listing


@dataclass(frozen=True, kw_only=True)
class Section:
    """A heading, paragraphs, and what they speak of."""

    heading: str
    text: Sequence[str]
    blocks: Sequence[Block] = ()


@dataclass(frozen=True)
class Link:
    """Where to read on. Nothing is loaded from there."""

    text: str
    url: str


@dataclass(frozen=True, kw_only=True)
class Page:
    """All that a page says."""

    title: str
    lead: str
    tiles: Sequence[Tile]
    sections: Sequence[Section]
    footer: str = ""
    links: Sequence[Link] = ()
    """Shown behind the footer."""


def write_page(path: Path, page: Page) -> None:
    """Writes the page atomically.

    Args:
      path: The HTML file; its folder is made where it is missing.
      page: What it says.

    Raises:
      DiskFullError: The disk is full.
    """
    with disk_full_is_a_user_error(f"the page {path}"), atomic_write(path) as file:
        file.write(render_page(page))


def render_page(page: Page) -> str:
    """The page as HTML."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("parrot_jax.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_fit,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html").render(page=page)


def _fit(value: Any) -> Any:
    """Any text but what a macro has made, which is fit already."""
    return fit_text(value) if isinstance(value, str) and not isinstance(value, Markup) else value
