"""Measures of askers: values that can be worked out by hand, and properties."""

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from parrot_jax.askers.card import Card, Column
from parrot_jax.askers.first_turns import diversity, similarities
from parrot_jax.askers.lengths import Lasting, end_amounts, lasting
from parrot_jax.askers.measures import measure_questions
from parrot_jax.askers.naturalness import auc, auc_with_interval, held_out_scores
from parrot_jax.askers.reference import Place, Reference, Said, read_reference
from parrot_jax.askers.writing import card_page
from parrot_jax.dialogue.types import Dialogue, Turn
from parrot_jax.report.page import render_page
from parrot_jax.stats.diversity import hdd, mattr
from parrot_jax.stats.inputs import source_of
from parrot_jax.stats.measure_file import Estimate


def dialogue(*texts: str) -> Dialogue:
    roles = itertools.cycle(["user", "assistant"])
    return Dialogue(turns=tuple(Turn(role, text) for role, text in zip(roles, texts, strict=False)))


LAKES = dialogue(
    "Where is the Oria lake?", "In the north of the country.",
    "How deep is it?", "Sixty metres.",
    "Thanks. Now suggest a bread recipe with seeds.", "Mix flour and seeds.",
)  # fmt: skip


def test_the_measures_of_a_dialogue_by_hand() -> None:
    reference = Reference([LAKES], ["en"], 10)
    assert list(reference.places(first_turn=True)) == [Place(0, turn) for turn in (1, 2, 3, 4)]
    people = reference.said(first_turn=False)
    assert [one.text for one in people] == ["How deep is it?", LAKES.turns[4].text, None]
    (found,) = measure_questions(reference, people)
    assert {key: amount.amount / amount.num for key, amount in found.items() if amount.num} == {
        "words": (4 + 8) / 2,
        "pronouns": 1 / 2,
        "ellipsis": 0,
        "context_dependent": 1,
        "thanks": 1 / 2,
        "repeats": 0,
        "answer_like": 0,
        # Of the second question, all content words are new; the first one needs its context.
        "topic_shifts": 1 / 2,
        "intent_overlap": 0,
        "self_rouge": 0,
    }
    said = [
        Said(Place(0, 2), "Where is the Oria lake?"),
        Said(Place(0, 3), "In the north of the country!"),
        Said(Place(0, 4), "Certainly! It is deep."),
    ]
    (found,) = measure_questions(reference, said)
    assert found["repeats"] == (1, 3)
    assert found["answer_like"] == (2, 3)  # a copied answer, and an opening of chat models
    assert found["intent_overlap"] == (1.0, 3)
    # "In the north" continues the dialogue; "deep" was said before.
    assert found["topic_shifts"].amount == 0


def test_rows_that_are_no_dialogue_of_their_own_are_counted_and_left_out(tmp_path: Path) -> None:
    def row(number: int, **keys: object) -> dict[str, object]:
        texts = (("user", f"Q{number}"), ("assistant", f"A{number}"))
        messages = [{"role": role, "content": text} for role, text in texts]
        return {"prompt": messages[:1], "chosen": messages[1:], **keys}

    def rejected(text: str) -> list[dict[str, str]]:
        return [{"role": "assistant", "content": text}]

    rows = [row(1, rejected=rejected("x")), row(1, rejected=rejected("y"))]
    rows += [row(2, rejected=rejected("x"), intent=intent) for intent in (["Q"], 7)]
    rows += [row(number, rejected=rejected("x"), intent=None) for number in (3, 4)]
    file = tmp_path / "pairs.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = read_reference(source_of(str(file)), sample=None, max_turns=10, seed=0)
    assert sorted(dialogue.turns[0].text for dialogue in found.dialogues) == ["Q1", "Q3", "Q4"]
    assert found.left_out == {"twice": 1, "`intent` is not a text": 2}


def test_context_dependent_questions_are_counted_where_people_asked() -> None:
    short = dialogue("Where is Oria?", "North.", "Is it cold?", "Yes.")
    reference = Reference([LAKES, short, dialogue("Hi", "Hello")], ["en"] * 3, 10)

    def counts(*texts: str | None) -> list[tuple[float, float]]:
        """`""` = an end, None = missing."""
        said = [
            Said(place, text or None, ended=text == "", reason="" if text is not None else "failed")
            for place, text in zip(reference.places(first_turn=False), texts, strict=True)
        ]
        found = measure_questions(reference, said)
        return [(one["context_dependent"].amount, one["context_dependent"].num) for one in found]

    why = "Why is it?"
    # Somebody who never ends asks three more, where people asked nothing.
    assert counts(why, why, why, why, why, why) == [(2, 1), (1, 1), (0, 0)]
    # An end is no question; of a dialogue with a missing one, the number is not known.
    assert counts(why, "", "", "", "", "") == [(1, 1), (0, 1), (0, 0)]
    assert counts(why, None, why, why, None, why) == [(0, 0), (1, 1), (0, 0)]


def test_ends_and_lengths_by_hand() -> None:
    short = dialogue("Hi", "Hello")
    reference = Reference([LAKES, short], ["en", None], 10)
    said = [
        Said(Place(0, 2), "A?"),
        Said(Place(0, 3), None, ended=True),  # too early
        Said(Place(0, 4), "B?"),  # too late
        Said(Place(1, 2), None, ended=True),  # right
    ]
    whole, right = end_amounts(reference, said)
    assert whole == {"end_precision": (0, 1), "end_recall": (0, 1), "end_f1": (0, 2)}
    assert right == {"end_precision": (1, 1), "end_recall": (1, 1), "end_f1": (2, 2)}
    # At question 2, one of two ends; at 3 the only one; so nothing lasts until 4.
    assert lasting(said) == [(1, 1.0), (2, 0.5), (3, 0.0), (4, 0.0)]
    missing = [Said(Place(0, 2), None, reason="filtered"), Said(Place(1, 2), "A?")]
    assert lasting(missing) == [(1, 1.0), (2, 1.0)]
    assert end_amounts(reference, missing)[0]["end_f1"] == (0, 0)


@given(st.lists(st.text("ab c", max_size=8), min_size=2, max_size=8))
def test_similarities_are_those_of_sets(texts: list[str]) -> None:
    found = similarities(texts)
    for (one, first), (other, second) in itertools.product(enumerate(texts), repeat=2):
        a, b = set(first.split()), set(second.split())
        expected = len(a & b) / len(a | b) if a | b else 1.0
        assert found[one, other] == pytest.approx(expected)


def test_equal_questions_have_no_diversity_and_no_interval() -> None:
    assert diversity(["Where is Oria?"] * 3) == (0.0, None, None)
    found = diversity(["a b", "b c", "c d", "a d"])
    assert found is not None
    value, low, high = found
    assert low is not None
    assert high is not None
    assert low < value < high
    assert value == pytest.approx(1 - 4 / 6 / 3)  # four of six pairs share one word of three


@given(st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=60), st.integers(1, 12))
def test_mattr_is_the_mean_over_windows(words: list[str], window: int) -> None:
    windows = [words[n : n + window] for n in range(len(words) - window + 1)]
    expected = [len(set(one)) / window for one in windows]
    found = mattr(words, window)
    assert found == (pytest.approx(np.mean(expected)) if windows else None)


def test_hdd_is_the_mean_over_random_draws() -> None:
    words = list("aaaabbbccd")
    draws = [len(set(draw)) / 3 for draw in itertools.combinations(words, 3)]
    assert hdd(words, draws=3) == pytest.approx(np.mean(draws))


def test_the_auc_is_that_of_all_pairs() -> None:
    random = np.random.default_rng(0)
    scores = random.integers(0, 5, size=40).astype(np.float64)
    positive = random.random(40) < 0.4
    pairs = [(a > b) + 0.5 * (a == b) for a in scores[positive] for b in scores[~positive]]
    assert auc(scores, positive) == pytest.approx(np.mean(pairs))
    assert auc(scores, np.ones(40, bool)) is None
    found = auc_with_interval(scores, positive, np.arange(40))
    assert found is not None
    assert found[1] is not None
    assert found[1] < found[0] < found[2]


def test_a_dialogue_is_scored_by_a_classifier_that_has_not_seen_it() -> None:
    # Each dialogue has its own word, which tells the classes apart only within the dialogue.
    texts, classes = [], []
    for number in range(30):
        word = chr(ord("a") + number % 26) * (3 + number // 26)
        texts += [f"{word} x{number % 2}", f"{word} x{1 - number % 2}"]
        classes += [True, False]
    is_positive, owners = np.array(classes), np.repeat(np.arange(30), 2)
    scores = held_out_scores(texts, is_positive, owners)
    assert scores is not None
    within = auc(scores, is_positive)
    assert within is not None
    assert within < 0.75
    assert held_out_scores(texts[:8], is_positive[:8], owners[:8]) is None


def test_an_asker_has_the_same_colour_in_all_charts() -> None:
    def column(name: str, **more: Any) -> Column:
        numbers = {"questions": 1, "ended": 0, "cut": 0, "missing": {}}
        return Column(
            name=name, estimates={}, lasting=[Lasting(1, 1.0)], lengths={3: 1}, **numbers, **more
        )

    measured = {2: Estimate(7.0, 6.0, 8.0, 1.0), None: Estimate(7.0, 6.0, 8.0, 1.0)}
    askers = [column("api"), column("run", perplexity=measured), column("third")]
    people = column("people")

    def page_of(askers: list[Column]) -> str:
        card = Card(
            askers=askers, people=people, halves=(people, people),
            reference=Reference([LAKES], ["en"], 10), said={}, seed=0,
        )  # fmt: skip
        return render_page(card_page(card))

    page = page_of(askers)
    charts = page.split("<h2")[2:5]  # ends, lengths, perplexity
    assert ["contrast" in chart for chart in charts] == [True] * 3
    assert "accent" not in charts[2].split("<table")[0]
    assert "The charts have the first two askers" in page
    assert "The charts have" not in page_of(askers[:2])
    assert (
        "<svg" not in page_of([askers[0], askers[2], askers[1]]).split("Perplexity</h2>")[1][:900]
    )
