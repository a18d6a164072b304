"""The facts of the synthetic world: places, attributes and values.

A difficulty and a seed determine everything. `easy` can be learned in two minutes on two CPU cores;
`hard` has more facts, and users who refer farther back, correct themselves and mention places that
they do not ask about.
"""

import itertools
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from random import Random
from types import MappingProxyType
from typing import Literal

from parrot_jax.core.errors import UserError
from parrot_jax.core.files import open_input

Difficulty = Literal["easy", "hard"]

_WORDS = {
    "dish": "barley chowder curry dumpling eel falafel goulash lentil mutton noodle pasty porridge",
    "flower": "aster begonia crocus daisy foxglove iris jasmine lilac marigold orchid poppy violet",
    "animal": "badger crane dormouse falcon heron ibex lynx marten otter puffin raven stoat",
    "metal": "brass bronze cobalt copper gold iron lead nickel silver steel tin zinc",
}
_ONSETS = ("b", "d", "f", "g", "k", "l", "m", "n", "p", "r", "s", "t", "v", "z", "br", "st", "tr")
_VOWELS = ("a", "e", "i", "o", "u")
_VALUES_PER_ATTRIBUTE = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Traits:
    """Settings of a difficulty."""

    num_places: int
    attributes: tuple[str, ...]
    ordinals: tuple[str, ...]
    """Words for back-references: the first named place, the second, ..."""
    kind_weights: Mapping[str, float]
    """Weight of each kind of question, among the kinds possible in a context."""
    aside_rate: float
    """Share of later questions that are preceded by a sentence about an unrelated place."""


TRAITS: Mapping[Difficulty, Traits] = MappingProxyType(
    {
        "easy": Traits(
            num_places=12,
            attributes=("river", "mayor", "language", "dish"),
            ordinals=("first",),
            kind_weights={
                "full": 1.0, "shift": 1.0, "anaphora": 3.0, "ellipsis": 3.0, "back": 4.0,
                "comparison": 2.0, "correction": 1.0,
            },
            aside_rate=0.0,
        ),
        "hard": Traits(
            num_places=48,
            attributes=("river", "mayor", "language", "dish", "flower", "animal", "metal"),
            ordinals=("first", "second", "third", "fourth"),
            kind_weights={
                "full": 0.5, "shift": 0.5, "anaphora": 3.0, "ellipsis": 2.0, "back": 4.0,
                "comparison": 2.0, "correction": 2.0,
            },
            aside_rate=0.3,
        ),
    }
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class World:
    """Places, attributes and facts. Equal seeds and difficulties give equal worlds."""

    difficulty: Difficulty
    seed: int
    places: tuple[str, ...]
    facts: Mapping[tuple[str, str], str]
    """The value of each (place, attribute)."""

    @property
    def traits(self) -> Traits:
        """The settings of the difficulty."""
        return TRAITS[self.difficulty]

    @property
    def attributes(self) -> tuple[str, ...]:
        """Attributes that every place has."""
        return self.traits.attributes


def make_world(difficulty: Difficulty, seed: int) -> World:
    """Makes the world of this difficulty and seed.

    Args:
      difficulty: `easy` or `hard`.
      seed: At least 0.

    Raises:
      UserError: The seed is negative.
    """
    if seed < 0:
        raise UserError(f"the world's seed is {seed}; it must be at least 0.")
    traits = TRAITS[difficulty]
    # With a string seed, `Random` gives the same numbers on every machine and Python version.
    random = Random(f"facts {difficulty} {seed}")
    names = _names(random)
    places = tuple(itertools.islice(names, traits.num_places))
    facts = {}
    for attribute in traits.attributes:
        if attribute in _WORDS:
            values = _WORDS[attribute].split()
        else:
            suffix = "ish" if attribute == "language" else ""
            values = [name + suffix for name in itertools.islice(names, _VALUES_PER_ATTRIBUTE)]
        for place in places:
            facts[place, attribute] = random.choice(values)
    return World(difficulty, seed, places, MappingProxyType(facts))


def _names(random: Random) -> Iterator[str]:
    """Yields distinct made-up names."""
    syllables = [onset + vowel for onset in _ONSETS for vowel in _VOWELS]
    seen: set[str] = set()
    while True:
        name = "".join(random.sample(syllables, 2)).capitalize() + random.choice("lnrst")
        if name not in seen:
            seen.add(name)
            yield name


def read_world(folder: Path) -> World:
    """Reads the world that `write_world` wrote to a folder.

    Raises:
      UserError: The file is missing, or its facts do not match its seed.
    """
    with open_input(folder / "world.json") as file:
        found = json.load(file)
    world = make_world(found["difficulty"], found["seed"])
    if facts_of(world) != found["facts"]:
        raise UserError(
            f"{folder / 'world.json'} does not match the {world.difficulty} world of seed "
            f"{world.seed}: another version wrote it; write the world again."
        )
    return world


def facts_of(world: World) -> list[list[str]]:
    """Returns all facts as `[place, attribute, value]`."""
    return [[place, attribute, value] for (place, attribute), value in world.facts.items()]
