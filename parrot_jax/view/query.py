"""What the list shows: search, filters, order and page, as they are in its address."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any
from urllib.parse import urlencode

from parrot_jax.core.errors import UserError
from parrot_jax.view.searching import match_of

SORTS: Mapping[str, str] = {
    "": "in order",
    "-number": "last first",
    "-turns": "most turns first",
    "turns": "fewest turns first",
    "-words": "longest first",
    "words": "shortest first",
    "-score": "best score first",
    "score": "worst score first",
}
"""By the value in the address: what the page calls it."""

MARKS = ("stop", "model", "flag")
_RANGES = ("turns", "words", "score")
_MOST_CHARS = 1000


@dataclass(frozen=True, kw_only=True)
class Query:
    """Which dialogues are listed, and in which order."""

    q: str = ""
    """A search, as typed."""
    stop: str = ""
    model: str = ""
    flag: str = ""
    min_turns: str = ""
    max_turns: str = ""
    min_words: str = ""
    max_words: str = ""
    min_score: str = ""
    max_score: str = ""
    sort: str = ""
    """A key of `SORTS`."""

    @classmethod
    def parse(cls, values: Mapping[str, str]) -> "Query":
        """Reads an address; other keys are ignored.

        Raises:
          UserError: A number is not one, an order is unknown, or a value is too long.
        """
        found = cls(**{f.name: values[f.name].strip() for f in fields(cls) if f.name in values})
        for field in fields(cls):
            value = getattr(found, field.name)
            if len(value) > _MOST_CHARS:
                raise UserError(
                    f"{field.name} has {len(value):,} characters; at most {_MOST_CHARS:,} are "
                    "allowed."
                )
            if field.name.startswith(("min_", "max_")) and value and _number(value) is None:
                raise UserError(f"{field.name} is {value!r}; give a number, or leave it out.")
        if found.sort not in SORTS:
            raise UserError(f"sort is {found.sort!r}; it must be one of {', '.join(SORTS)[2:]}.")
        return found

    def address(self, **more: Any) -> str:
        """The query string, with more keys; empty without any."""
        values = {f.name: getattr(self, f.name) for f in fields(self)} | more
        rest = urlencode({name: value for name, value in values.items() if value != ""})
        return f"?{rest}" if rest else ""

    def without(self, *names: str) -> "Query":
        """The same without some filters."""
        return replace(self, **dict.fromkeys(names, ""))

    @property
    def filters(self) -> dict[str, str]:
        """Those in use besides the search and the order, by name."""
        return {
            f.name: value
            for f in fields(self)
            if f.name not in ("q", "sort") and (value := getattr(self, f.name))
        }

    @property
    def column(self) -> str:
        """The column of the order."""
        return self.sort.removeprefix("-") or "number"

    @property
    def is_falling(self) -> bool:
        """Whether the largest value is first."""
        return self.sort.startswith("-")

    def conditions(self) -> tuple[list[str], list[Any]]:
        """The conditions of SQL on the table `dialogues`, and their values."""
        conditions, values = [], []
        if self.q:
            match = match_of(self.q)
            if match:
                conditions.append("number IN (SELECT rowid FROM texts WHERE texts MATCH ?)")
                values.append(match)
            else:
                conditions.append("0")  # there are no letters to find
        for kind in MARKS:
            if name := getattr(self, kind):
                conditions.append(
                    "number IN (SELECT number FROM marks WHERE kind = ? AND name = ?)"
                )
                values += [kind, name]
        for name in _RANGES:
            for bound, sign in (("min", ">="), ("max", "<=")):
                if value := getattr(self, f"{bound}_{name}"):
                    conditions.append(f"{name} {sign} ?")
                    values.append(_number(value))
        if self.column == "score":
            conditions.append("score IS NOT NULL")
        return conditions, values


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
