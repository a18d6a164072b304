"""Context errors of the world: made on request, and found in wrong answers."""

from collections import Counter
from collections.abc import Sequence

import pytest

from parrot_jax.world.facts import World, make_world
from parrot_jax.world.mistakes import (
    ERROR_KINDS,
    WHICH_PLACE,
    WrongAnswerer,
    error_kind,
    errors_by_turn,
    resolved,
)
from parrot_jax.world.people import people_dialogues
from parrot_jax.world.questions import Language, Question, true_answer


@pytest.fixture(scope="module")
def world() -> World:
    return make_world("hard", 0)


def kind_of(world: World, questions: Sequence[str], answer: str) -> str:
    *before, question = resolved(Language(world), questions)
    names = {name for q in before for name in (*q.places, q.attribute)}
    return error_kind(question, questions[-1], answer, before=names)


def test_each_wrong_answer_has_its_kind(world: World) -> None:
    a, b, c = world.places[:3]

    def say(place: str, attribute: str) -> str:
        return true_answer(world, Question("full", place, attribute))

    asked = [f"What is the river of {a}?", f"And {b}?", "And its mayor?"]
    wrong_value = say(b, "mayor").replace(world.facts[b, "mayor"], "Nobody")
    assert {
        answer: kind_of(world, asked, answer)
        for answer in (say(a, "mayor"), say(b, "river"), say(c, "mayor"), say(b, "dish"),
                       wrong_value, WHICH_PLACE, "The river river.")
    } == {
        say(a, "mayor"): "misunderstanding", say(b, "river"): "misunderstanding",
        say(c, "mayor"): "hallucination", say(b, "dish"): "hallucination",
        wrong_value: "wrong_fact", WHICH_PLACE: "neglect", "The river river.": "other",
    }  # fmt: skip
    aside = [*asked[:2], f"My aunt lives in {c}. And its mayor?"]
    assert kind_of(world, aside, say(c, "mayor")) == "neglect"
    compared = [*asked[:2], f"Compare it with {a}."]
    swapped = true_answer(world, Question("comparison", a, "river", b))
    assert kind_of(world, compared, swapped) == "misunderstanding"
    assert kind_of(world, compared, say(b, "river")) == "misunderstanding"


def test_errors_are_made_as_the_prompt_asks(world: World) -> None:
    answerer = WrongAnswerer(world)
    made: dict[str, Counter[str]] = {}
    for dialogue in people_dialogues(world, "all", 40, num_rounds=6):
        questions = dialogue.questions()
        for turn in range(2, 7):
            asked, right = questions[:turn], dialogue.turns[2 * turn - 1].text
            for prompt, kind in (("{}", "neglect"), ("Guess: {}", "hallucination"),
                                 ("Elsewhere: {}", "misunderstanding")):  # fmt: skip
                # Only a misunderstanding sees the dialogue.
                seen = [prompt.format(asked[-1])]
                seen = [*asked[:-1], *seen] if kind == "misunderstanding" else seen
                answer = answerer.answer(seen)
                assert answer == answerer.answer(seen)
                if answer != right:
                    made.setdefault(kind, Counter())[kind_of(world, asked, answer)] += 1
    for kind, found in made.items():
        assert found.most_common(1)[0][0] == kind, found
        assert found["wrong_fact"] == found["other"] == 0
    assert made["misunderstanding"]["misunderstanding"] > 0.95 * made["misunderstanding"].total()


def test_an_exam_is_counted_by_turn(world: World) -> None:
    a, b, _ = world.places[:3]
    questions = [f"What is the river of {a}?", f"And {b}?"]
    truth = [true_answer(world, q) for q in resolved(Language(world), questions)]
    rows = [
        {"questions": questions, "answers": [truth[0], truth[0]], "right": [True, False]},
        {"questions": questions, "answers": ["", truth[1]], "right": [False, True]},
    ]
    assert errors_by_turn(Language(world), rows) == [{"other": 1}, {"misunderstanding": 1}]
    assert {"other", "misunderstanding"} <= {*ERROR_KINDS}
