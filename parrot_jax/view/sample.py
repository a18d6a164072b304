"""Writes a sample of dialogues as one HTML file, to send to somebody.

The file has no script and needs no network. It names no folder of this machine.
"""

import contextlib
import hashlib
import heapq
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from parrot_jax.browser.pages import Pages
from parrot_jax.core.errors import UserError, disk_full_is_a_user_error
from parrot_jax.core.files import atomic_write
from parrot_jax.core.logs import console, counting
from parrot_jax.core.published_names import name_to_publish, value_to_publish, without_folders
from parrot_jax.dialogue.sensitive import SENSITIVE, find_secret
from parrot_jax.view.indexing import Part, build
from parrot_jax.view.pages import PACKAGE
from parrot_jax.view.reading import IndexReader
from parrot_jax.view.searching import marked
from parrot_jax.view.shown import WHY, Shown, ShownTurn, as_json

_PERSONAL = [kind for kind in SENSITIVE if kind != "secret"]


class _Place(NamedTuple):
    """A dialogue of a part."""

    part: int
    number: int


def write_sample(parts: Sequence[Part], out: str, *, size: int, seed: int) -> None:
    """Brings the indexes up to date, draws dialogues and writes them.

    A dialogue with a key or a password in the format of a provider is never drawn.

    Args:
      parts: Where to draw from, all together.
      out: The HTML file.
      size: Number of dialogues, >= 1.
      seed: With the same seed, a larger sample contains the smaller one.

    Raises:
      UserError: A part cannot be read, or has no dialogue.
      DiskFullError: The disk is full.
    """
    with counting("steps read") as advance:
        for _ in build(list(parts)):
            advance()
    with contextlib.ExitStack() as stack:
        readers = [
            stack.enter_context(contextlib.closing(IndexReader(part.index))) for part in parts
        ]
        places = [_Place(p, number) for p, one in enumerate(readers) for number in one.numbers()]
        if not places:
            raise UserError(f"there is no dialogue in {', '.join(part.label for part in parts)}.")
        drawn, num_secret = _draw(readers, places, size, seed)
    labels = [without_folders(part.label) for part in parts]
    entries = [(labels[place.part], place.number, shown) for place, shown in sorted(drawn.items())]
    rejected = sum(_rejected(part) for part in parts)
    text = Pages(PACKAGE).text(
        "sample.html", entries=entries, labels=labels, total=len(places), num_secret=num_secret,
        rejected=rejected, seed=seed, marked=marked,
    )  # fmt: skip
    with disk_full_is_a_user_error(f"the page {out}"), atomic_write(Path(out)) as file:
        file.write(text)
    console.print(f"wrote {len(entries):,} of {len(places):,} dialogues to {out}")
    if num_secret:
        console.print(f"{num_secret:,} with a key or a password were passed over")
    found = Counter(kind for shown in drawn.values() for kind in _personal(shown))
    if found:
        said = ", ".join(f"{kind} in {count:,}" for kind, count in found.most_common())
        console.print(f"look before you send it: {said}", style="yellow")


def _draw(
    readers: Sequence[IndexReader], places: Sequence[_Place], size: int, seed: int
) -> tuple[dict[_Place, Shown], int]:
    """The first dialogues in an order of the seed, and how many had a secret."""

    def order(place: _Place) -> bytes:
        return hashlib.blake2b(f"{seed} {place.part} {place.number}".encode()).digest()

    drawn: dict[_Place, Shown] = {}
    num_secret = 0
    for place in _in_order(places, order, size):
        shown = readers[place.part].dialogue(place.number)
        assert shown is not None  # its number was just listed
        shown = _published(shown)
        if find_secret(_all_texts(shown)):
            num_secret += 1
            continue
        drawn[place] = shown
        if len(drawn) == size:
            break
    return drawn, num_secret


def _in_order(
    places: Sequence[_Place], order: Callable[[_Place], bytes], size: int
) -> Iterator[_Place]:
    """All places, the first ones without sorting the rest."""
    first = heapq.nsmallest(size, places, key=order)
    yield from first
    if len(first) < len(places):
        seen = set(first)
        yield from sorted((place for place in places if place not in seen), key=order)


def _published(shown: Shown) -> Shown:
    """A dialogue without folders, and without what servers said of themselves."""
    return replace(
        shown,
        id=name_to_publish(shown.id),
        place=without_folders(shown.place),
        source=name_to_publish(shown.source),
        turns=tuple(map(_published_turn, shown.turns)),
        facts=tuple((name, name_to_publish(value)) for name, value in shown.facts if name != WHY),
        metadata=as_json(value_to_publish(json.loads(shown.metadata))) if shown.metadata else "",
        stop=name_to_publish(shown.stop),
        models=tuple(map(name_to_publish, shown.models)),
    )


def _published_turn(turn: ShownTurn) -> ShownTurn:
    return replace(
        turn,
        name=name_to_publish(turn.name),
        notes=tuple(
            replace(note, title=name_to_publish(note.title))
            for note in turn.notes
            if not note.is_private
        ),
        facts=tuple(map(name_to_publish, turn.facts)),
        other=None if turn.other is None else _published_turn(turn.other),
    )


def _all_texts(shown: Shown) -> str:
    """Every text of a dialogue that is written to the file."""
    return "\n".join(_strings(json.loads(shown.to_json())))


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _strings(inner)


def _personal(shown: Shown) -> list[str]:
    return [kind for kind in _PERSONAL if SENSITIVE[kind](_all_texts(shown))]


def _rejected(part: Part) -> int:
    with contextlib.closing(IndexReader(part.index)) as reader:
        return reader.totals().rejected
