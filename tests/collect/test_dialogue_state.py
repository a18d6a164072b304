"""The state machine of a dialogue: who speaks next, and when it ends, from the replies alone."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parrot_jax.api.replies import Outcome, Reply
from parrot_jax.collect.dialogue_state import (
    Done,
    Rules,
    Speak,
    StopReason,
    next_step,
    replay,
)
from parrot_jax.dialogue.types import Dialogue, Turn

QUESTION = Dialogue(turns=(Turn("user", "Who are you?"),), system="Be brief.")
SESSION = Dialogue(turns=(Turn("user", "Hi"), Turn("assistant", "Hello.")))
RULES = Rules(max_turns=3, stop_answers=(re.compile("^I do not"),))


def said(*texts: str) -> list[Reply]:
    return [Reply(Outcome.COMPLETE, text) for text in texts]


def test_a_first_question_is_answered_and_a_session_is_asked_on() -> None:
    assert next_step(QUESTION, [], RULES) == Speak(
        speaker="answerer",
        messages=[
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Who are you?"},
        ],
        turn=1,
    )
    assert next_step(SESSION, [], RULES) == Speak(
        speaker="asker",
        messages=[{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}],
        turn=2,
    )


def test_the_askers_reply_becomes_the_users_turn() -> None:
    step = next_step(SESSION, said("And you?"), RULES)
    assert isinstance(step, Speak)
    assert (step.speaker, step.turn) == ("answerer", 3)
    assert step.messages[-1] == {"role": "user", "content": "And you?"}


def test_a_dialogue_ends_with_its_last_turn() -> None:
    # Three turns: the beginning is the first of them.
    replies = said("q2", "a2", "q3", "a3")
    assert isinstance(next_step(SESSION, replies[:3], RULES), Speak)
    assert next_step(SESSION, replies, RULES) == Done(StopReason.MAX_TURNS)
    assert len(replay(SESSION, replies, RULES).complete_turns) == 6
    long = Dialogue(turns=SESSION.turns * 3)
    assert next_step(long, [], RULES) == Done(StopReason.MAX_TURNS)


@pytest.mark.parametrize(
    ("outcome", "text", "reason"),
    [
        (Outcome.COMPLETE, "", StopReason.ASKER_LEFT),
        (Outcome.CUT, "And wh", StopReason.CUT_QUESTION),
        (Outcome.FILTERED, "", StopReason.FILTERED_QUESTION),
        (Outcome.CONTEXT_FULL, "", StopReason.CONTEXT_FULL),
    ],
)
def test_an_unusable_question_ends_the_dialogue_before_it(
    outcome: Outcome, text: str, reason: StopReason
) -> None:
    replies = [*said("q2", "a2"), Reply(outcome, text)]
    assert next_step(SESSION, replies, RULES) == Done(reason)
    assert [turn.text for turn in replay(SESSION, replies, RULES).complete_turns] == [
        "Hi", "Hello.", "q2", "a2"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("outcome", "text", "reason"),
    [
        (Outcome.COMPLETE, "", StopReason.EMPTY_ANSWER),
        (Outcome.COMPLETE, "I do not understand.", StopReason.MEANINGLESS_ANSWER),
        (Outcome.CUT, "It is a lo", StopReason.CUT_ANSWER),
        (Outcome.FILTERED, "", StopReason.FILTERED_ANSWER),
        (Outcome.CONTEXT_FULL, "", StopReason.CONTEXT_FULL),
    ],
)
def test_an_unusable_answer_takes_its_question_with_it(
    outcome: Outcome, text: str, reason: StopReason
) -> None:
    replies = [*said("q2"), Reply(outcome, text)]
    assert next_step(SESSION, replies, RULES) == Done(reason)
    state = replay(SESSION, replies, RULES)
    assert [turn.text for turn in state.turns] == ["Hi", "Hello.", "q2"]
    assert state.complete_turns == SESSION.turns


def test_a_question_that_looks_like_a_meaningless_answer_is_a_question() -> None:
    assert isinstance(next_step(SESSION, said("I do not see it?"), RULES), Speak)


def test_a_failure_never_becomes_a_turn() -> None:
    with pytest.raises(ValueError, match="no reply that could stand in a dialogue"):
        next_step(SESSION, [Reply(Outcome.FAILED, "")], RULES)


def test_a_higher_limit_goes_on_where_a_lower_one_had_ended() -> None:
    replies = said("q2", "a2")
    assert next_step(SESSION, replies, Rules(max_turns=2)) == Done(StopReason.MAX_TURNS)
    assert isinstance(next_step(SESSION, replies, Rules(max_turns=3)), Speak)
    assert len(replay(SESSION, said("q2", "a2", "q3", "a3"), Rules(max_turns=2)).turns) == 4


# Most replies are complete, or few dialogues would come far.
outcomes = st.sampled_from([Outcome.COMPLETE] * 8 + [o for o in Outcome if o is not Outcome.FAILED])
replies_of_any_kind = st.lists(
    st.builds(Reply, outcomes, st.sampled_from(["", "x", "y y", "I do not know."])), max_size=12
)
dialogues = st.sampled_from([QUESTION, SESSION, Dialogue(turns=SESSION.turns * 2)])
limits = st.sampled_from(
    [Rules(turns, stops) for turns in range(1, 6) for stops in ((), RULES.stop_answers)]
)


@given(dialogues, replies_of_any_kind, limits)
def test_turns_alternate_and_a_dialogue_ends_once_within_its_limit(
    beginning: Dialogue, replies: list[Reply], rules: Rules
) -> None:
    ended_after = None
    for used in range(len(replies) + 1):
        step = next_step(beginning, replies[:used], rules)
        if isinstance(step, Done):
            # However many replies follow, it ends there and for this reason.
            assert next_step(beginning, replies, rules) == step
            ended_after = used
            break
        assert step.turn == len(beginning.turns) + used
        assert step.speaker == ("answerer" if step.turn % 2 else "asker")
        roles = [message["role"] for message in step.messages if message["role"] != "system"]
        assert roles == (["user", "assistant"] * len(roles))[: len(roles)]
    state = replay(beginning, replies, rules)
    assert (state.stop is None) == (ended_after is None)
    num_turns = len(state.complete_turns) // 2
    assert num_turns <= max(rules.max_turns, len(beginning.turns) // 2)
    # Every turn but the beginning's is a reply, unchanged and in order.
    collected = [turn.text for turn in state.turns[len(beginning.turns) :]]
    assert collected == [reply.text for reply in replies][: len(collected)]
