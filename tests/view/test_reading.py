"""Pages of the list: filters and orders, walking through them, addresses."""

import itertools
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parrot_jax.core.errors import UserError
from parrot_jax.view import reading
from parrot_jax.view.query import SORTS, Query
from parrot_jax.view.reading import IndexReader

from .conftest import Index, row


@pytest.fixture
def seven(index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> IndexReader:
    """Seven dialogues with equal and missing values; three fit on a page."""
    monkeypatch.setattr(reading, "PAGE_ROWS", 3)
    path = tmp_path / "a.jsonl"
    scores = [5, None, 9, 5, None, 1, 5]
    stops = ["max_turns", "thanks", "max_turns", "thanks", "refusal", "max_turns", "max_turns"]
    path.write_text(
        "".join(
            row(n, *["river hill"] * (n % 3 + 1), *(["Velora"] if n == 3 else []), stop=stops[n],
                score=scores[n], model="m1" if n < 4 else "m2")
            for n in range(7)
        )
    )  # fmt: skip
    return index(path)


@pytest.mark.parametrize("sort", SORTS)
def test_pages_in_both_directions_and_neighbours_agree(seven: IndexReader, sort: str) -> None:
    query, forward, after = Query(sort=sort), [], None
    while (page := seven.page(query, after=after)).rows:
        assert page.has_before == (after is not None)
        forward += [one.number for one in page.rows]
        assert page.has_after == (len(forward) < seven.count(query))
        if not page.has_after:
            break
        after = forward[-1]
    values = [getattr(one, query.column) for one in map(lambda n: by_number(seven)[n], forward)]
    assert values == sorted(values, reverse=query.is_falling)
    assert len(forward) == (5 if query.column == "score" else 7)
    assert [seven.neighbours(query, n)[1] for n in forward] == [*forward[1:], None]
    assert [seven.neighbours(query, n)[0] for n in forward] == [None, *forward[:-1]]
    before = seven.page(query, before=forward[-1])
    assert [one.number for one in before.rows] == forward[-4:-1]
    around = seven.page(query, around=forward[2])
    assert [one.number for one in around.rows] == forward[1:4]


def by_number(reader: IndexReader) -> dict[int, reading.Row]:
    rows = itertools.chain(*(reader.page(Query(), after=n).rows for n in (None, 2, 5)))
    return {one.number: one for one in rows}


@pytest.mark.parametrize(
    ("filters", "numbers"),
    [
        ({"q": "velora"}, [3]),
        ({"q": "river -- hill"}, [0, 1, 2]),
        ({"q": "d5"}, [5]),  # an id
        ({"q": "!?"}, []),
        ({"stop": "thanks"}, [1, 3]),
        ({"stop": "thanks", "model": "m2"}, []),
        ({"model": "m2", "flag": "unanswered"}, [5, 6]),
        ({"min_score": "5", "max_score": "8"}, [0, 3, 6]),
        ({"min_turns": "2"}, [2, 5]),
        ({"max_words": "2"}, [0, 6]),
        ({"q": "river", "sort": "-score"}, [2, 6, 3]),
    ],
)
def test_filters(seven: IndexReader, filters: dict[str, str], numbers: list[int]) -> None:
    query = Query.parse(filters)
    assert [one.number for one in seven.page(query).rows] == numbers
    if len(numbers) < 3:
        assert seven.count(query) == len(numbers)


def test_choices_are_counted(seven: IndexReader) -> None:
    choices = seven.choices()
    assert choices["stop"] == [("max_turns", 4), ("thanks", 2), ("refusal", 1)]
    assert choices["model"] == [("m1", 4), ("m2", 3)]
    assert seven.without_score() == 2


@given(
    st.fixed_dictionaries(
        {}, optional={name: st.text(max_size=9) for name in ("q", "stop", "flag")}
    )
)
def test_an_address_gives_the_same_query(values: dict[str, str]) -> None:
    from urllib.parse import parse_qsl

    query = Query.parse(values)
    assert Query.parse(dict(parse_qsl(query.address().removeprefix("?")))) == query


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"min_turns": "two"}, "min_turns is 'two'; give a number"),
        ({"max_score": "nan"}, "max_score is 'nan'"),
        ({"sort": "words; DROP TABLE x"}, "it must be one of -number, -turns"),
        ({"q": "x" * 1001}, "q has 1,001 characters"),
    ],
)
def test_a_wrong_address_says_what_is_allowed(values: dict[str, str], said: str) -> None:
    with pytest.raises(UserError, match=said):
        Query.parse(values)
