"""One dialogue as a small state machine: what comes next follows from what was said, and no more.

No clock, no network, no journal: the same replies always lead to the same step, whether they came
a second ago or before a kill.

    question?  ──asker──▶  question  ──answerer──▶  answer  ──▶  question?  ...  until a stop
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Literal

from parrot_jax.api.replies import Outcome, Reply
from parrot_jax.dialogue.types import Dialogue, Turn

Speaker = Literal["asker", "answerer"]


class StopReason(StrEnum):
    """Why a dialogue ended. Each ends with exactly one."""

    MAX_TURNS = "max_turns"
    """It has as many turns as it may have."""
    ASKER_LEFT = "asker_left"
    """The asker said nothing: it has no more to ask."""
    EMPTY_ANSWER = "empty_answer"
    """The answerer said nothing."""
    MEANINGLESS_ANSWER = "meaningless_answer"
    """One of the patterns was found in the answer."""
    CUT_QUESTION = "cut_question"
    """The question reached the limit of tokens; half a question is not answered."""
    CUT_ANSWER = "cut_answer"
    """The answer reached the limit of tokens; who learned from it would stop in mid-sentence."""
    FILTERED_QUESTION = "filtered_question"
    """The asker's endpoint held the question back."""
    FILTERED_ANSWER = "filtered_answer"
    """The answerer's endpoint held the answer back."""
    CONTEXT_FULL = "context_full"
    """It is longer than one of the two can read."""


_BAD_QUESTIONS = {
    Outcome.CUT: StopReason.CUT_QUESTION,
    Outcome.FILTERED: StopReason.FILTERED_QUESTION,
    Outcome.CONTEXT_FULL: StopReason.CONTEXT_FULL,
}
_BAD_ANSWERS = {
    Outcome.CUT: StopReason.CUT_ANSWER,
    Outcome.FILTERED: StopReason.FILTERED_ANSWER,
    Outcome.CONTEXT_FULL: StopReason.CONTEXT_FULL,
}


@dataclass(frozen=True, slots=True)
class Rules:
    """When a dialogue ends."""

    max_turns: int
    """Questions with their answers, >= 1."""
    stop_answers: tuple[re.Pattern[str], ...] = ()
    """What makes an answer meaningless."""


@dataclass(frozen=True, slots=True)
class DialogueState:
    """A dialogue after some replies."""

    turns: tuple[Turn, ...]
    """What was said; a reply that ended the dialogue is not in it."""
    stop: StopReason | None = None
    """Why it ended; None = it goes on."""

    @property
    def complete_turns(self) -> tuple[Turn, ...]:
        """The turns through the last answer: a question that got none is left out."""
        return self.turns if self.turns[-1].role == "assistant" else self.turns[:-1]


@dataclass(frozen=True, slots=True)
class Speak:
    """The next step is a request."""

    speaker: Speaker
    messages: list[dict[str, str]]
    """The whole dialogue so far, with the roles as they are: who asks writes the user's turn."""
    turn: int
    """The turn that is asked for, from 0."""


@dataclass(frozen=True, slots=True)
class Done:
    """There is no next step."""

    reason: StopReason


def next_step(beginning: Dialogue, replies: Sequence[Reply], rules: Rules) -> Speak | Done:
    """What is to be done after these replies.

    Args:
      beginning: Ends with a question, or with an answer.
      replies: In the order of the turns; none has failed. Those behind a stop change nothing.
      rules: When to end.

    >>> hello = Dialogue(turns=(Turn("user", "Hi"),))
    >>> next_step(hello, [], Rules(max_turns=1))
    Speak(speaker='answerer', messages=[{'role': 'user', 'content': 'Hi'}], turn=1)
    >>> next_step(hello, [Reply(Outcome.COMPLETE, "Hello!")], Rules(max_turns=1))
    Done(reason=<StopReason.MAX_TURNS: 'max_turns'>)
    """
    state = replay(beginning, replies, rules)
    if state.stop is not None:
        return Done(state.stop)
    return Speak(
        speaker="asker" if state.turns[-1].role == "assistant" else "answerer",
        messages=replace(beginning, turns=state.turns).messages(),
        turn=len(state.turns),
    )


def replay(beginning: Dialogue, replies: Sequence[Reply], rules: Rules) -> DialogueState:
    """The state of a dialogue after these replies; the arguments are those of `next_step`.

    Raises:
      ValueError: One of the replies has failed: it is no part of a dialogue.
    """
    state = _limited(beginning.turns, rules)
    for reply in replies:
        if state.stop is not None:
            break
        if reply.outcome is Outcome.FAILED:
            raise ValueError("a failed request has no reply that could stand in a dialogue")
        is_question = state.turns[-1].role == "assistant"
        state = (_after_question if is_question else _after_answer)(state, reply, rules)
    return state


def _after_question(state: DialogueState, reply: Reply, rules: Rules) -> DialogueState:
    stop = _BAD_QUESTIONS.get(reply.outcome)
    if stop is None and not reply.text:
        stop = StopReason.ASKER_LEFT
    if stop is not None:
        return replace(state, stop=stop)
    return DialogueState((*state.turns, Turn("user", reply.text)))


def _after_answer(state: DialogueState, reply: Reply, rules: Rules) -> DialogueState:
    stop = _BAD_ANSWERS.get(reply.outcome)
    if stop is None and not reply.text:
        stop = StopReason.EMPTY_ANSWER
    if stop is None and any(pattern.search(reply.text) for pattern in rules.stop_answers):
        stop = StopReason.MEANINGLESS_ANSWER
    if stop is not None:
        return replace(state, stop=stop)
    return _limited((*state.turns, Turn("assistant", reply.text)), rules)


def _limited(turns: tuple[Turn, ...], rules: Rules) -> DialogueState:
    """The state with these turns, ended where they are as many as there may be."""
    num_answers = len(turns) // 2
    return DialogueState(turns, StopReason.MAX_TURNS if num_answers >= rules.max_turns else None)
