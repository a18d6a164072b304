"""The synthetic world's language: questions parse as generated; other text is rejected."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parrot_jax.world.answerer import NO_ANSWER, Answerer, wrong_answers
from parrot_jax.world.facts import Difficulty, World, make_world, read_world
from parrot_jax.world.people import people_dialogues
from parrot_jax.world.questions import Context, Invalid, Language, Question, true_answer
from parrot_jax.world.world_files import Sizes, write_world

EASY = make_world("easy", 0)
HARD = make_world("hard", 0)
A, B, C = EASY.places[:3]


def understand(text: str, *before: str, world: World = EASY) -> Question | Invalid:
    language = Language(world)
    return language.understand(text, language.context_after(before))


def test_each_kind_of_question_is_resolved_in_its_context() -> None:
    first = f"What is the river of {A}?"
    assert understand(first) == ("full", A, "river", None)
    assert understand("And its mayor?", first) == ("anaphora", A, "mayor", None)
    assert understand(f"What about {B}?", first) == ("ellipsis", B, "river", None)
    assert understand(f"Compare it with {B}.", first) == ("comparison", A, "river", B)
    assert understand("No, I meant the dish.", first) == ("correction", A, "dish", None)
    assert understand(f"No, I meant {B}.", first) == ("correction", B, "river", None)
    shift = f"By the way, what is the dish of {C}?"
    assert understand(shift, first) == ("shift", C, "dish", None)
    assert understand("And the mayor of the first one?", first, shift) == ("back", A, "mayor", None)
    assert understand("The first one again?", first, shift) == ("back", A, "river", None)


def test_it_is_the_place_that_was_named_last() -> None:
    before = [f"What is the river of {A}?", f"Compare it with {B}."]
    assert understand("And its mayor?", *before) == ("anaphora", B, "mayor", None)


def test_the_first_one_stays_the_first_one() -> None:
    language = Language(HARD)
    a, b, c = HARD.places[:3]
    before = [f"What is the river of {a}?", f"What about {b}?", f"What about {a}?", f"And {c}?"]
    before += ["And its dish?", f"And {a}?"]
    assert language.context_after(before).named == ((a, "river"), (b, "river"), (c, "river"))
    assert understand("The third one again?", *before, world=HARD) == ("back", c, "river", None)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "unparsable"),
        ("Who are you?", "unparsable"),
        ("And its mayor", "unparsable"),
        ("And its mayor?", "no_referent"),
        (f"What about {A}?", "no_referent"),
        (f"No, I meant {A}.", "no_referent"),
        ("The first one again?", "no_referent"),
        ("What is the river of Atlantis?", "unknown_name"),
        (f"What is the anthem of {A}?", "unknown_name"),
    ],
)
def test_what_cannot_be_resolved_is_invalid(text: str, reason: str) -> None:
    assert understand(text) == Invalid(reason)  # type: ignore[arg-type]


def test_a_place_is_not_compared_with_itself() -> None:
    before = f"What is the river of {A}?"
    assert understand(f"Compare it with {A}.", before) == Invalid("no_referent")


def test_an_aside_names_a_place_that_is_not_meant() -> None:
    a, b = HARD.places[:2]
    text = f"My aunt lives in {b}. And its mayor?"
    assert understand(text, f"What is the river of {a}?", world=HARD) == (
        "anaphora", a, "mayor", None,
    )  # fmt: skip


@pytest.mark.parametrize("difficulty", ["easy", "hard"])
def test_people_are_understood_as_they_meant_it(difficulty: Difficulty) -> None:
    language = Language(make_world(difficulty, 3))
    for dialogue in people_dialogues(language.world, "test", 200):
        context = Context()
        for question, answer, kind in zip(
            dialogue.questions(), dialogue.turns[1::2], dialogue.metadata["kinds"], strict=True
        ):
            meant = language.understand(question, context)
            assert isinstance(meant, Question)
            assert meant.kind == kind
            assert true_answer(language.world, meant) == answer.text
            context = context.after(meant)


def test_what_can_be_meant_can_be_said_and_is_then_understood() -> None:
    language, random = Language(EASY), Random(0)
    context = Context(A, "river", ((C, "mayor"), (A, "dish")))
    for question in [
        Question("full", B, "dish"),
        Question("anaphora", A, "dish"),
        Question("back", C, "river"),
        Question("back", C, "mayor"),
        Question("correction", B, "river"),
        Question("comparison", A, "river", B),
    ]:
        for _ in range(10):
            assert language.understand(language.say(question, context, random), context) == question
    with pytest.raises(ValueError, match="no back phrase for"):
        language.say(Question("back", B, "river"), context, random)


@given(st.text(max_size=60))
def test_no_text_breaks_the_parser(text: str) -> None:
    assert isinstance(understand(text), Question | Invalid)


def test_the_answerer_errs_as_often_as_it_was_told_to() -> None:
    dialogues = list(people_dialogues(EASY, "test", 300, num_rounds=4))
    for rate, low, high in [(0.0, 0, 0), (0.1, 80, 160), (1.0, 1200, 1200)]:
        answerer = Answerer(EASY, mistake_rate=rate)
        wrong = 0
        for dialogue in dialogues:
            questions = dialogue.questions()
            for turn, truth in enumerate(dialogue.turns[1::2]):
                wrong += answerer.answer(questions[: turn + 1]) != truth.text
        assert low <= wrong <= high
    assert Answerer(EASY).answer(["Who are you?"]) == NO_ANSWER


def test_wrong_answers_are_about_something_that_was_said_or_made_up() -> None:
    question, context = (
        Question("anaphora", A, "mayor"),
        Context(A, "river", ((B, "mayor"), (A, "river"))),
    )
    wrong = wrong_answers(EASY, question, context)
    assert true_answer(EASY, Question("full", B, "mayor")) in wrong
    assert true_answer(EASY, Question("full", A, "river")) in wrong
    assert true_answer(EASY, question) not in wrong


@pytest.mark.slow
def test_people_leave_after_seven_questions_or_so() -> None:
    rounds = [dialogue.num_rounds for dialogue in people_dialogues(EASY, "test", 2000)]
    # A share of 0.1 leaves at once; a geometric law capped at 12 has the mean (1 - 0.9^12) / 0.1.
    assert sum(n == 1 for n in rounds) / 2000 == pytest.approx(0.1, abs=0.02)
    assert sum(rounds) / 2000 == pytest.approx(7.18, abs=0.25)


def test_a_world_is_a_function_of_difficulty_and_seed(tmp_path) -> None:
    sizes = Sizes(people=200, held_out=3, beginnings=6, exam=2)
    for name in ("one", "two"):
        write_world(tmp_path / name, make_world("easy", 5), sizes)
    files = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert len(files) == 7
    for name in files:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    assert read_world(tmp_path / "one") == make_world("easy", 5)
    assert make_world("easy", 5).facts != make_world("easy", 6).facts
