"""Measures of an asker's questions, checked by hand."""

import os
import subprocess
import sys
from collections import Counter

import pytest

from parrot_jax.world.exam_measures import asked_kinds, kind_distance
from parrot_jax.world.facts import make_world
from parrot_jax.world.questions import Language

WORLD = make_world("easy", 0)
A, B = WORLD.places[:2]


def test_kinds_are_counted_by_turn_and_invalid_is_one_of_them() -> None:
    dialogues = [
        ([f"What is the river of {A}?", "And its mayor?", "Hm?", f"What about {B}?"], 1),
        ([f"What is the river of {A}?", "And its dish?"], 0),
    ]
    asked = asked_kinds(Language(WORLD), dialogues)
    assert asked.by_turn == {
        0: Counter(full=1), 1: Counter(anaphora=2), 2: Counter(invalid=1), 3: Counter(ellipsis=1),
    }  # fmt: skip
    assert asked.invalid == Counter(unparsable=1)
    assert asked.num_questions == 5
    assert asked.valid_rate == pytest.approx(4 / 5)


def test_the_distance_is_taken_at_equal_turns() -> None:
    # Overall both have the same shares, but in the opposite order.
    first = {1: Counter(full=10), 2: Counter(back=10)}
    second = {1: Counter(back=10), 2: Counter(full=10)}
    assert kind_distance(first, second) == 1
    assert kind_distance(first, first) == 0


def test_turns_weigh_as_much_as_the_first_has_questions_there() -> None:
    first = {1: Counter(full=30), 2: Counter(full=10), 7: Counter(full=99)}
    second = {1: Counter(full=5), 2: Counter(back=5)}
    assert kind_distance(first, second) == pytest.approx(10 / 40)


def test_without_a_common_turn_there_is_no_distance() -> None:
    with pytest.raises(ValueError, match="no turn in common"):
        kind_distance({1: Counter(full=1)}, {2: Counter(full=1)})


def test_the_distance_is_the_same_number_in_every_process() -> None:
    # The order of a set of strings, and so a sum over it, would differ between processes.
    program = (
        "from collections import Counter; "
        "from parrot_jax.world.exam_measures import kind_distance; "
        "words = 'full shift anaphora ellipsis back comparison correction'.split(); "
        "a = {1: Counter(dict(zip(words, [4, 6, 6, 24, 11, 20, 17])))}; "
        "b = {1: Counter(dict(zip(words, [39, 14, 39, 3, 38, 11, 28])))}; "
        "print(repr(kind_distance(a, b)))"
    )
    seen = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": str(seed)}, capture_output=True, check=True,
        ).stdout
        for seed in range(6)
    }  # fmt: skip
    assert len(seen) == 1
