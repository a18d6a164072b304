"""The page: all text is escaped, nothing is loaded from elsewhere, tags are nested correctly."""

import re
import resource
from html.parser import HTMLParser
from pathlib import Path

import pytest

from parrot_jax.core.errors import DiskFullError
from parrot_jax.report import charts
from parrot_jax.report.charts import Bars, row_chart
from parrot_jax.report.page import (
    Answer,
    Link,
    Listing,
    Page,
    Picture,
    Round,
    Section,
    Table,
    Tile,
    TranscriptPanel,
    render_page,
    write_page,
)

HOSTILE = (
    """</p></title></style></svg><script src="http://evil">x</script>"'><b>{{ 1 }} & \x1b\ud800"""
)
FIT = HOSTILE.replace("\x1b", "␛").replace("\ud800", "\ufffd")
VOID = {"meta", "br", "img", "link", "input", "hr"}


class Checker(HTMLParser):
    """Collects what a browser would see; fails if tags are not nested correctly."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str, str]] = []
        self.texts: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_startendtag(tag, attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data.strip())


def page(text: str) -> Page:
    """A page with every kind of block and this text everywhere."""
    chart = row_chart([("kind", "")], [Bars(name=text, hue="accent", values=[0.5])], label=text)
    table = Table(columns=(text, text), rows=[(text, text)])
    answers = [Answer(text, True), Answer(text, False, text)]
    blocks = [
        Picture(chart=chart, caption=text, numbers=table),
        table,
        TranscriptPanel(
            title=text, asker=text, answerers=(text, text), rounds=[Round(text, text, answers)]
        ),
        TranscriptPanel(
            title=text, asker=text, answerers=(text,), rounds=[Round(text, "", [Answer(text)])]
        ),
        Listing(text),
    ]
    return Page(
        title=text, lead=text, tiles=[Tile(text, text, text)],
        sections=[Section(heading=text, text=[text], blocks=blocks)],
        footer=text, links=[Link(text, "https://example.org")],
    )  # fmt: skip


def test_a_hostile_text_changes_no_tag() -> None:
    plain, hostile = Checker(render_page(page("some text"))), Checker(render_page(page(HOSTILE)))
    assert hostile.tags == plain.tags
    assert "script" not in hostile.tags
    assert [t for t in hostile.texts if t] == [
        t.replace("some text", FIT) for t in plain.texts if t
    ]


def test_nothing_is_loaded_from_anywhere() -> None:
    html = render_page(page("some text"))
    seen = Checker(html)
    linked = {(tag, value) for tag, name, value in seen.attributes if "href" in name}
    assert {value for tag, value in linked if tag == "a"} == {"https://example.org"}
    assert all(value.startswith("#") for tag, value in linked if tag != "a")
    assert not {name for _, name, _ in seen.attributes} & {"src", "srcset", "data", "onload"}
    assert not seen.tags & {"script", "link", "iframe", "img"}
    assert not re.search(r"@import|url\((?!#)", html)


def test_every_id_is_given_once() -> None:
    ids = [
        value
        for _, name, value in Checker(render_page(page("some text"))).attributes
        if name == "id"
    ]
    assert len(ids) == len(set(ids))


def test_right_and_wrong_are_told_by_words_and_the_truth_where_it_is_missed() -> None:
    answers = [Answer("iron", True, "iron"), Answer("zinc", False, "iron"), Answer("tin")]
    rounds = [Round("Its metal?", "anaphora", answers)]
    transcript = TranscriptPanel(title="t", asker="q", answerers=("a", "b", "c"), rounds=rounds)
    section = Section(heading="h", text=[], blocks=[transcript])
    seen = Checker(render_page(Page(title="p", lead="", tiles=[], sections=[section])))
    shown = [text for text in seen.texts if text]
    assert shown[shown.index("Its metal?") :] == [
        "Its metal?", "anaphora", "✓ right", "iron", "✗ wrong", "zinc", "True: iron", "tin",
    ]  # fmt: skip


def test_a_chart_alone_has_the_pages_light_colours() -> None:
    html = render_page(Page(title="p", lead="", tiles=[], sections=[]))
    light = html[: html.index("@media")]
    for name, colour in charts._COLOURS.items():
        assert f"--{name}: {colour};" in light


def test_a_page_is_written_whole(tmp_path: Path) -> None:
    write_page(tmp_path / "new" / "page.html", page("a"))
    assert (tmp_path / "new" / "page.html").read_text() == render_page(page("a"))


def test_a_full_disk_is_one_line(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2_000, before[1]))
    try:
        with pytest.raises(DiskFullError, match="no room left on the disk for the page"):
            write_page(tmp_path / "page.html", page("a"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(tmp_path.iterdir()) == []
