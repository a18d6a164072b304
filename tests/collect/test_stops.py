"""Stop rules: an example of each, real users' dialogues, and rules that are switched off."""

import json
import time
from pathlib import Path
from typing import Any

import pytest

from parrot_jax.collect.stops import StopConfig, StopJudge
from parrot_jax.core.errors import UserError
from parrot_jax.dialogue.phrases import only_thanks
from parrot_jax.dialogue.types import Turn

TALK = ("Where does the river Velora begin, and how long is it?", "In the hills of Oria. 70 km.")


def verdict(*said: str, **settings: Any) -> str | None:
    """The verdict on the last text, after the others; the first is a question."""
    turns = [Turn("assistant" if number % 2 else "user", text) for number, text in enumerate(said)]
    return StopJudge(StopConfig(**settings))(turns[:-1], turns[-1].text)


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ((*TALK, "And its mouth?"), None),
        ((*TALK, "?!"), "short_question"),
        ((*TALK, "Thank you so much, have a nice day!"), "thanks"),
        ((*TALK, "Thanks, and its mouth?"), None),
        ((*TALK, "Certainly! The river has two mouths."), "asker_answers"),
        ((*TALK, "in the hills of Oria: 70 km!"), "asker_answers: similarity 100"),
        ((*TALK, "In the hills of Oria? And it is 70 km long?"), None),
        ((TALK[0], "In Oria.", "In Oria?"), None),
        ((*TALK, TALK[0].upper()), "repeated_question: similarity 100"),
        ((*TALK, TALK[0].replace("is it", "was it")), "repeated_question: similarity 97"),
        ((*TALK, "Where does the river Arno begin, and how long is that?"), None),
        ((*TALK, "Et où se trouve donc sa source, dites-moi ?"), "language_switch: en to fr"),
        ((*TALK, "Où ?"), None),
        ((*TALK, "Write to jane.doe@uni-velora.org for me."), "sensitive: e-mail"),
        ((TALK[0], "I'm sorry, but I cannot help with that."), "refusal"),
        ((TALK[0], "I'm sorry for the delay: in the hills of Oria."), None),
        ((TALK[0], "Call +44 20 7946 0958."), "sensitive: phone"),
        ((TALK[0], "Which river do you mean?"), None),
    ],
)  # fmt: skip
def test_one_example_of_each_rule(said: tuple[str, ...], reason: str | None) -> None:
    assert verdict(*said) == reason


def test_an_answerer_may_ask_back_but_not_for_ever() -> None:
    back = "Which river do you mean?"
    said = ["And its mouth?", back, "Velora.", back, "I said Velora.", back]
    assert verdict(*said[:4]) is None
    assert verdict(*said) == "answerer_asks"
    assert verdict(*said, most_counter_questions=None) is None
    assert verdict(*said[:2], most_counter_questions=0) == "answerer_asks"
    # With a real answer in between, it is not a loop.
    assert verdict(*said[:3], "At Oria, by the sea.", *said[4:]) is None


def test_one_word_of_thanks_may_be_allowed_and_the_next_one_not() -> None:
    said = (*TALK, "Thanks!", "You're welcome. Anything else?", "Bye!")
    assert verdict(*said[:3], most_thanks=1) is None
    assert verdict(*said, most_thanks=1) == "thanks"
    assert verdict(*said, most_thanks=None) is None


def test_what_stood_in_the_dialogue_before_may_be_said_again() -> None:
    ask = "Is jane.doe@uni-velora.org right, or is it jane.roe@uni-velora.org?"
    assert verdict(ask, "It is jane.doe@uni-velora.org.") is None
    assert verdict(ask, "Her card is 4539 1488 0343 6467.") == "sensitive: card"
    assert verdict(ask, "Her card is 4539 1488 0343 6467.", sensitive=("iban",)) is None


def test_a_whole_dialogue_is_judged_turn_by_turn() -> None:
    def first_bad(*said: str) -> str | None:
        turns = [Turn("assistant" if n % 2 else "user", text) for n, text in enumerate(said)]
        return StopJudge(StopConfig()).in_transcript(turns)

    fine = (*TALK, "And its mouth?", "At Oria, by the sea.")
    assert first_bad(*fine) is None
    assert first_bad(*fine, "Thank you!", "You're welcome.") == "thanks: turn 5"
    assert first_bad(*fine, TALK[0], TALK[1]) == "repeated_question: turn 5, similarity 100"
    assert first_bad(*fine, "By whom?", "Write to a.b@uni-velora.org") == (
        "sensitive: turn 6, e-mail"
    )


HOSTILE = (
    *("_", "好", " ", "1", "a@a@", "a.", "@", "-", "1 ", "a1", "AB12 ", "+49 30 1", "(", "`"),
    *("sk-", "eyJ", "eyJ-", "sk-T3BlbkFJ", "//a/:_authToken=", "xoxb-1-", "thanks good bye "),
)


@pytest.mark.parametrize("piece", HOSTILE)
def test_the_judge_takes_a_time_that_is_linear_in_the_text(piece: str) -> None:
    judge = StopJudge(StopConfig())
    turns = [Turn("user", TALK[0]), Turn("assistant", f"{piece}x" * 4000), Turn("user", "So?")]

    def seconds(chars: int) -> float:
        text = piece * (chars // len(piece))
        started = time.process_time()
        judge(turns, text)
        judge(turns[:2], text)
        return time.process_time() - started

    seconds(1000)  # loads lazy imports
    # A text 16 times as long; quadratic time would be 256 times as long. Measured twice, because
    # garbage collection may fall into one of them.
    long = min(seconds(64_000), seconds(64_000))
    assert long < 64 * max(seconds(4_000), 1e-3)


def test_a_text_of_megabytes_is_searched_to_its_end() -> None:
    long = "All is well in Oria. " * 50_000
    assert verdict(TALK[0], f"{long}Write to jane.doe@uni-velora.org.") == "sensitive: e-mail"
    for kind, text in (("card", "4539 1488 0343 6467"), ("phone", "+44 20 7946 0958")):
        # Found at any place: pieces overlap, so none splits it.
        for place in range(19_980, 20_000):
            words = "x " * (place // 2)
            assert verdict(TALK[0], f"{words}{text} {words}") == f"sensitive: {kind}"


def test_every_way_to_divide_thanks_into_phrases_is_tried_once() -> None:
    started = time.process_time()
    assert not only_thanks("thanks " + "good bye " * 21 + "x")
    assert only_thanks("thanks " + "good bye " * 21)
    assert only_thanks("Good night, that's all for today!")
    assert time.process_time() - started < 1


def test_patterns_of_ones_own() -> None:
    settings = {"meaningless_answers": ("(?i)^as i said",)}
    assert verdict(TALK[0], "As I said, 70 km.", **settings) == "meaningless_answer"
    # The patterns apply to answers only.
    assert verdict(*TALK, "As I said, which one?", **settings) is None


OFF = {
    "refusals": False, "most_thanks": None, "repeated_question": None,
    "fewest_question_letters": 0, "asker_answers": False, "repeated_answer": None,
    "most_counter_questions": None, "language_switch": None, "sensitive": (),
}  # fmt: skip


@pytest.mark.parametrize(
    "text", ["?", "Thanks!", "Certainly! It is long.", *TALK, "Mail a.b@uni-velora.org"]
)
def test_every_rule_can_be_switched_off(text: str) -> None:
    assert verdict(*TALK, text) is not None
    assert verdict(*TALK, text, **OFF) is None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"repeated_question": 0.0}, r"stops.repeated_question is 0.0; it must be in \(0, 100\]"),
        ({"language_switch": 1.5}, r"stops.language_switch is 1.5; it must be in \(0, 1\]"),
        ({"most_thanks": -1}, "stops.most_thanks is -1; it must be at least 0"),
        (
            {"meaningless_answers": ("(",)},
            r"meaningless_answers: '\(' is not a valid regular expression",
        ),
    ],
)
def test_settings_that_cannot_be(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        StopConfig(**settings)


@pytest.mark.slow
def test_few_turns_of_real_people_would_be_ended(shared_data: Path) -> None:
    ended: dict[str, int] = {}
    num_questions = 0
    judge = StopJudge(StopConfig())
    with open(shared_data / "dialogues" / "wildchat.jsonl", encoding="utf-8") as file:
        for line in file:
            messages = json.loads(line)["messages"]
            turns = [Turn(m["role"], m["content"].strip() or "-") for m in messages]
            for place in range(2, len(turns), 2):
                num_questions += 1
                if found := judge(turns[:place], turns[place].text):
                    reason = found.partition(":")[0]
                    ended[reason] = ended.get(reason, 0) + 1
    assert num_questions == 733
    # People repeat questions to get another answer and ask for translations, but hardly thank.
    assert ended.pop("repeated_question") / num_questions < 0.08
    assert ended.pop("language_switch") / num_questions < 0.03
    assert sum(ended.values()) / num_questions < 0.005
