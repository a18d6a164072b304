"""The state machine of a dialogue: next speaker and end, as a function of the replies."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parrot_jax.api.replies import Outcome, Reply
from parrot_jax.collect.dialogue_state import (
    Done,
    OnReasoning,
    Rules,
    Speak,
    StopReason,
    next_step,
    replay,
)
from parrot_jax.dialogue.types import Dialogue, Turn

QUESTION = Dialogue(turns=(Turn("user", "Who are you?"),), system="Be brief.")
SESSION = Dialogue(turns=(Turn("user", "Hi"), Turn("assistant", "Hello.")))
RULES = Rules(max_turns=3)


def step_after(beginning: Dialogue, replies: Sequence[Reply], rules: Rules) -> Speak | Done:
    return next_step(beginning, replay(beginning, replies, rules), rules)


def said(*texts: str) -> list[Reply]:
    return [Reply(Outcome.COMPLETE, text) for text in texts]


def test_a_first_question_is_answered_and_a_session_is_asked_on() -> None:
    assert step_after(QUESTION, [], RULES) == Speak(
        speaker="answerer",
        shown=QUESTION,
        turn=1,
    )
    assert step_after(SESSION, [], RULES) == Speak(
        speaker="asker",
        shown=SESSION,
        turn=2,
    )


def test_the_askers_reply_becomes_the_users_turn() -> None:
    step = step_after(SESSION, said("And you?"), RULES)
    assert isinstance(step, Speak)
    assert (step.speaker, step.turn) == ("answerer", 3)
    assert step.shown.turns[-1] == Turn("user", "And you?")


def test_a_dialogue_ends_with_its_last_turn() -> None:
    # Three turns, including the one of the beginning.
    replies = said("q2", "a2", "q3", "a3")
    assert isinstance(step_after(SESSION, replies[:3], RULES), Speak)
    assert step_after(SESSION, replies, RULES) == Done(StopReason.MAX_TURNS)
    assert len(replay(SESSION, replies, RULES).complete_turns) == 6
    long = Dialogue(turns=SESSION.turns * 3)
    assert step_after(long, [], RULES) == Done(StopReason.MAX_TURNS)


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
    assert step_after(SESSION, replies, RULES) == Done(reason)
    assert [turn.text for turn in replay(SESSION, replies, RULES).complete_turns] == [
        "Hi", "Hello.", "q2", "a2"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("outcome", "text", "reason"),
    [
        (Outcome.COMPLETE, "", StopReason.EMPTY_ANSWER),
        (Outcome.CUT, "It is a lo", StopReason.CUT_ANSWER),
        (Outcome.FILTERED, "", StopReason.FILTERED_ANSWER),
        (Outcome.CONTEXT_FULL, "", StopReason.CONTEXT_FULL),
    ],
)
def test_an_unusable_answer_takes_its_question_with_it(
    outcome: Outcome, text: str, reason: StopReason
) -> None:
    replies = [*said("q2"), Reply(outcome, text)]
    assert step_after(SESSION, replies, RULES) == Done(reason)
    state = replay(SESSION, replies, RULES)
    assert [turn.text for turn in state.turns] == ["Hi", "Hello.", "q2"]
    assert state.complete_turns == SESSION.turns


def test_a_verdict_ends_the_dialogue_before_the_text_that_it_is_on() -> None:
    useless = Reply(Outcome.COMPLETE, "I do not know.", "meaningless_answer: by pattern 3")
    assert step_after(SESSION, [*said("q2"), useless], RULES) == Done(
        StopReason.MEANINGLESS_ANSWER, "by pattern 3"
    )
    assert replay(SESSION, [*said("q2"), useless], RULES).complete_turns == SESSION.turns


def test_a_speaker_that_cannot_read_all_is_shown_the_first_round_and_the_latest() -> None:
    rules = Rules(max_turns=9, truncates=True)
    full = Reply(Outcome.CONTEXT_FULL, "")

    def shown(*replies: Reply) -> list[str]:
        step = step_after(SESSION, replies, rules)
        assert isinstance(step, Speak)
        return [turn.text for turn in step.shown.turns]

    talk = said("q2", "a2", "q3", "a3")
    assert shown(*talk) == ["Hi", "Hello.", "q2", "a2", "q3", "a3"]
    # The asker's context was full, so it is shown fewer turns; the answerer is shown all.
    assert shown(*talk, full) == ["Hi", "Hello.", "q3", "a3"]
    more = [*talk, full, *said("q4")]
    assert shown(*more) == ["Hi", "Hello.", "q2", "a2", "q3", "a3", "q4"]
    assert shown(*more, *said("a4")) == ["Hi", "Hello.", "q3", "a3", "q4", "a4"]
    assert shown(*more, full) == ["Hi", "Hello.", "q3", "a3", "q4"]
    assert replay(SESSION, more, rules).is_truncated
    # The dialogue has all turns, including hidden ones.
    assert len(replay(SESSION, more, rules).turns) == 7
    # Only the first and the last turn are left, so no more can be hidden.
    assert step_after(SESSION, [*talk, full, full], rules) == Done(StopReason.CONTEXT_FULL)
    assert step_after(SESSION, [*more, full, full], rules) == Done(StopReason.CONTEXT_FULL)


TRANSCRIPT = "[|Human|] Hi\n[|AI|] Hello.\n[|Human|] And you?\n[|AI|] Me too.\n[|Human|]"


def test_a_writer_writes_all_of_it() -> None:
    rules = Rules(max_turns=3, has_writer=True)
    assert step_after(QUESTION, [], rules) == Speak(speaker="writer", shown=QUESTION, turn=1)
    state = replay(QUESTION, said(TRANSCRIPT), rules)
    assert [turn.text for turn in state.turns] == ["Hi", "Hello.", "And you?", "Me too."]
    assert state.stop is StopReason.WRITER_ENDED
    state = replay(QUESTION, said(TRANSCRIPT), Rules(max_turns=1, has_writer=True))
    assert [turn.text for turn in state.turns] == ["Hi", "Hello."]
    assert state.stop is StopReason.MAX_TURNS
    cut = replay(QUESTION, [Reply(Outcome.CUT, TRANSCRIPT)], rules)
    assert (cut.stop, cut.turns) == (StopReason.CUT_ANSWER, QUESTION.turns)


def test_what_a_writer_wrote_ends_before_its_first_bad_turn() -> None:
    def judged(verdict: str, max_turns: int = 3) -> tuple[list[str], str | None, str | None]:
        reply = Reply(Outcome.COMPLETE, TRANSCRIPT, verdict)
        state = replay(QUESTION, [reply], Rules(max_turns=max_turns, has_writer=True))
        return [turn.text for turn in state.complete_turns], state.stop, state.detail

    assert judged("sensitive: turn 4, phone") == (["Hi", "Hello."], "sensitive", "turn 4, phone")
    assert judged("thanks: turn 3") == (["Hi", "Hello."], "thanks", "turn 3")
    assert judged("refusal: turn 2") == ([], "refusal", "turn 2")
    # A lower limit ends the dialogue before its bad turn; a higher one reaches it.
    assert judged("thanks: turn 3", max_turns=1) == (["Hi", "Hello."], "max_turns", None)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("Sure! " + TRANSCRIPT, "it does not begin with [|Human|]"),
        ("Hi there.", "it does not begin with [|Human|]"),
        ("[|AI|] Hello.", "turn 1 is by [|AI|], twice in a row"),
        ("[|Human|] Hi\n[|Human|] Ho\n[|AI|] x", "turn 2 is by [|Human|], twice in a row"),
        ("[|Human|] Hi\n[|AI|]\n[|Human|] Ho\n[|AI|] x", "turn 2 is empty"),
        ("[|Human|] Hi", "no question is answered"),
    ],
)
def test_what_is_no_transcript_is_no_dialogue(text: str, problem: str) -> None:
    state = replay(QUESTION, said(text), Rules(max_turns=3, has_writer=True))
    assert (state.stop, state.detail) == (StopReason.NO_TRANSCRIPT, problem)
    assert state.turns == QUESTION.turns


@pytest.mark.parametrize("outcome", [Outcome.FAILED, Outcome.REJECTED])
def test_a_failure_never_becomes_a_turn(outcome: Outcome) -> None:
    with pytest.raises(ValueError, match="no reply to add to a dialogue"):
        step_after(SESSION, [Reply(outcome, "")], RULES)


THOUGHT = "<think>A capital.</think>"


@pytest.mark.parametrize(
    ("on_reasoning", "texts", "stop"),
    [
        ("strip", ["Hi", "Hello.", "q2", "Paris."], None),
        ("keep", ["Hi", "Hello.", "q2", f"{THOUGHT}\nParis."], None),
        ("end", ["Hi", "Hello.", "q2"], "reasoning"),
    ],
)
def test_reasoning_in_a_reply_is_stripped_kept_or_ends_the_dialogue(
    on_reasoning: OnReasoning, texts: list[str], stop: str | None
) -> None:
    rules = Rules(max_turns=3, reasoning=on_reasoning)
    state = replay(SESSION, said("q2", f"{THOUGHT}\nParis."), rules)
    assert [turn.text for turn in state.turns] == texts
    assert (state.stop, state.reasoning) == (stop, 1)


def test_a_reply_of_nothing_but_reasoning_is_an_empty_one() -> None:
    for replies, stop in (([THOUGHT], "asker_left"), (["q2", "<think>So"], "empty_answer")):
        state = replay(SESSION, said(*replies), RULES)
        assert (state.stop, state.detail) == (stop, "nothing but reasoning")


def test_a_reply_that_was_cut_within_its_reasoning_says_so() -> None:
    cut = Reply(Outcome.CUT, "<think>Well, it is")
    assert step_after(SESSION, [cut], RULES) == Done(
        StopReason.CUT_QUESTION, "within its reasoning"
    )


def test_reasoning_in_the_answers_of_a_beginning_is_stripped_as_well() -> None:
    turns = (Turn("user", "<think> is a tag?"), Turn("assistant", f"{THOUGHT} Yes."))
    state = replay(Dialogue(turns=turns), [], RULES)
    assert [turn.text for turn in state.turns] == ["<think> is a tag?", "Yes."]
    assert state.reasoning == 1
    only = replay(Dialogue(turns=(turns[0], Turn("assistant", THOUGHT))), [], RULES)
    assert (only.stop, only.complete_turns[1].text) == ("empty_answer", THOUGHT)


def test_reasoning_in_what_a_writer_wrote() -> None:
    text = (
        "<think>[|Human|] a draft\n[|AI|] of it</think>\n[|Human|] Hi\n"
        f"[|AI|] {THOUGHT} Hello.\n[|Human|] And you?\n[|AI|] I am\n</think>\n\nMe too."
    )
    state = replay(QUESTION, said(text), Rules(max_turns=3, has_writer=True))
    assert [turn.text for turn in state.turns] == ["Hi", "Hello.", "And you?", "Me too."]
    assert state.reasoning == 3


def test_a_higher_limit_goes_on_where_a_lower_one_had_ended() -> None:
    replies = said("q2", "a2")
    assert step_after(SESSION, replies, Rules(max_turns=2)) == Done(StopReason.MAX_TURNS)
    assert isinstance(step_after(SESSION, replies, Rules(max_turns=3)), Speak)
    assert len(replay(SESSION, said("q2", "a2", "q3", "a3"), Rules(max_turns=2)).turns) == 4


# Most replies are complete; otherwise few dialogues would get long.
outcomes = st.sampled_from(
    [Outcome.COMPLETE] * 8 + [o for o in Outcome if o not in (Outcome.FAILED, Outcome.REJECTED)]
)
replies_of_any_kind = st.lists(
    st.builds(
        Reply,
        outcomes,
        st.sampled_from(["", "x", "y y", "I do not know."]),
        st.sampled_from([None] * 6 + ["meaningless_answer"]),
    ),
    max_size=12,
)
dialogues = st.sampled_from([QUESTION, SESSION, Dialogue(turns=SESSION.turns * 2)])
limits = st.builds(Rules, st.integers(1, 5), truncates=st.booleans())


@given(dialogues, replies_of_any_kind, limits)
def test_turns_alternate_and_a_dialogue_ends_once_within_its_limit(
    beginning: Dialogue, replies: list[Reply], rules: Rules
) -> None:
    ended_after = None
    for used in range(len(replies) + 1):
        step = step_after(beginning, replies[:used], rules)
        if isinstance(step, Done):
            # Later replies change neither the end nor its reason.
            assert step_after(beginning, replies, rules) == step
            ended_after = used
            break
        num_full = sum(reply.outcome is Outcome.CONTEXT_FULL for reply in replies[:used])
        assert step.turn == len(beginning.turns) + used - num_full
        assert step.speaker == ("answerer" if step.turn % 2 else "asker")
        # Roles alternate, even if turns are hidden, and each question comes right before its
        # answer.
        turns = replay(beginning, replies[:used], rules).turns
        assert step.shown.turns[0] == beginning.turns[0]
        assert step.shown.turns[-1] == turns[-1]
        rounds = [turns[place : place + 2] for place in range(0, len(turns), 2)]
        shown = step.shown.turns
        assert all(shown[place : place + 2] in rounds for place in range(0, len(shown), 2))
    state = replay(beginning, replies, rules)
    assert (state.stop is None) == (ended_after is None)
    num_turns = len(state.complete_turns) // 2
    assert num_turns <= max(rules.max_turns, len(beginning.turns) // 2)
    # All turns after the beginning are replies, unchanged and in order.
    collected = [turn.text for turn in state.turns[len(beginning.turns) :]]
    texts = [reply.text for reply in replies if reply.outcome is not Outcome.CONTEXT_FULL]
    assert collected == texts[: len(collected)]
