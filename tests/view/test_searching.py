"""A search is any text: it finds words and phrases, and is never an error."""

import sqlite3

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from parrot_jax.view.searching import marked, match_of, spaced, terms_of


@pytest.fixture(scope="module")
def table() -> sqlite3.Connection:
    db = sqlite3.connect(":memory:")
    db.execute(
        "CREATE VIRTUAL TABLE texts USING fts5(text, tokenize='unicode61 remove_diacritics 2')"
    )
    for text in ("The river of Velora is cold.", "A café in 北京市中心, near the river", "never"):
        db.execute("INSERT INTO texts VALUES (?)", (spaced(text),))
    return db


def found(table: sqlite3.Connection, search: str) -> list[int]:
    query = "SELECT rowid FROM texts WHERE texts MATCH ? ORDER BY rowid"
    return [number for (number,) in table.execute(query, (match_of(search),))]


@pytest.mark.parametrize(
    ("search", "numbers"),
    [
        ("river", [1, 2]),
        ("RIVER cold", [1]),
        ('"river of velora"', [1]),
        ('"of river"', []),
        ('"river of', [1]),  # the last quote is missing
        ("cafe", [2]),
        ("北京", [2]),
        ("京市中", [2]),
        ("中北", []),
        ("NOT river", []),  # a word, not an operator
        ("riv", []),
    ],
)
def test_words_and_phrases_are_found(
    table: sqlite3.Connection, search: str, numbers: list[int]
) -> None:
    assert found(table, search) == numbers


@given(st.text(max_size=30))
@example('"')
@example('a" OR text:b* NEAR(c, 2) ^d {e} + f')
@example("\0")
@example('x\0"')
def test_no_search_is_an_error(table: sqlite3.Connection, search: str) -> None:
    if match_of(search):
        found(table, search)
    assert "".join(part for _, part in marked(search, terms_of(search))) == search


def test_what_was_found_is_marked() -> None:
    hits = [part for hit, part in marked("Rivers, the river: of  Velora", ["river", "of velora"])
            if hit]  # fmt: skip
    assert hits == ["river", "of  Velora"]
    assert [part for hit, part in marked("在北京市", ["北京"]) if hit] == ["北京"]
