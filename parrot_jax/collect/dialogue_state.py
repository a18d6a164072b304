"""One dialogue as a small state machine: what comes next follows from what was said, and no more.

No clock, no network, no journal: the same replies always lead to the same step, whether they came
a second ago or before a kill.

    question?  ──asker──▶  question  ──answerer──▶  answer  ──▶  question?  ...  until a stop
    question   ──writer──▶  a whole dialogue
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from types import MappingProxyType
from typing import Literal

from parrot_jax.api.replies import Outcome, Reply
from parrot_jax.collect.transcript import parse_transcript
from parrot_jax.dialogue.reasoning import split_reasoning
from parrot_jax.dialogue.types import Dialogue, Turn

Speaker = Literal["asker", "answerer", "writer"]
OnReasoning = Literal["strip", "end", "keep"]


class StopReason(StrEnum):
    """Why a dialogue ended. Each ends with exactly one."""

    MAX_TURNS = "max_turns"
    """It has as many turns as it may have."""
    ASKER_LEFT = "asker_left"
    """The asker said nothing: it has no more to ask."""
    EMPTY_ANSWER = "empty_answer"
    """The answerer said nothing."""
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
    ERROR = "error"
    """An endpoint does not take the request, and will not take it later. It follows from no reply:
    the journal says it."""
    BUDGET = "budget"
    """The next call might have cost more than is left. A higher budget goes on with it."""
    WRITER_ENDED = "writer_ended"
    """The writer ended it before it had as many turns as it may have."""
    REASONING = "reasoning"
    """A speaker wrote its reasoning into its reply, and that ends it."""
    NO_TRANSCRIPT = "no_transcript"
    """What the writer wrote is no dialogue in the form that it was told."""

    # What the text itself says; `stops.py` finds these.
    MEANINGLESS_ANSWER = "meaningless_answer"
    """The answer says nothing."""
    REFUSAL = "refusal"
    """The answer says that it will not be given."""
    THANKS = "thanks"
    """The question does nothing but thank or say good-bye."""
    REPEATED_QUESTION = "repeated_question"
    """The question was asked before in the dialogue, in these words or nearly."""
    SHORT_QUESTION = "short_question"
    """There is too little in it to be a question."""
    ASKER_ANSWERS = "asker_answers"
    """The asker speaks as the answerer does, or says what that has said."""
    ANSWERER_ASKS = "answerer_asks"
    """The answerer asks back again and again."""
    LANGUAGE_SWITCH = "language_switch"
    """The question is in another language than the first one."""
    FILTER = "filter"
    """A function that was given to `collect` says so; its words are the detail."""
    SENSITIVE = "sensitive"
    """It holds an address, a number or a key that belongs to somebody."""


USELESS = frozenset(
    {
        StopReason.EMPTY_ANSWER, StopReason.CUT_QUESTION, StopReason.CUT_ANSWER,
        StopReason.FILTERED_QUESTION, StopReason.FILTERED_ANSWER, StopReason.CONTEXT_FULL,
    }
)  # fmt: skip
"""Ends by a reply that holds nothing. Where all do, the settings may be at fault."""

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
_ONLY_REASONING = "nothing but reasoning"


@dataclass(frozen=True, slots=True)
class Rules:
    """How a dialogue goes."""

    max_turns: int
    """Questions with their answers at most, >= 1."""
    truncates: bool = False
    """Whether a speaker that cannot read all of it is shown less."""
    has_writer: bool = False
    """Whether one speaker writes all of it."""
    reasoning: OnReasoning = "strip"
    """What is done where a reply, or an answer of the beginning, has reasoning in it."""


@dataclass(frozen=True, slots=True)
class DialogueState:
    """A dialogue after some replies."""

    turns: tuple[Turn, ...]
    """What was said; a reply that ended the dialogue is not in it."""
    stop: StopReason | None = None
    """Why it ended; None = it goes on."""
    detail: str | None = None
    """What more is known about it."""
    hidden: Mapping[Speaker, int] = field(default_factory=lambda: MappingProxyType({}))
    """How many turns behind the first answer a speaker is not shown; even: a question goes with its
    answer."""
    reasoning: int = 0
    """Turns that came with reasoning, which is left out of them unless it is to be kept."""

    @property
    def complete_turns(self) -> tuple[Turn, ...]:
        """The turns through the last answer: a question that got none is left out."""
        return self.turns if self.turns[-1].role == "assistant" else self.turns[:-1]

    @property
    def is_truncated(self) -> bool:
        """Whether a speaker was shown less than all."""
        return any(self.hidden.values())

    @property
    def next_speaker(self) -> Speaker:
        """Who speaks next, where it goes on and nobody writes all of it."""
        return "asker" if self.turns[-1].role == "assistant" else "answerer"


@dataclass(frozen=True, slots=True)
class Speak:
    """The next step is a request."""

    speaker: Speaker
    shown: Dialogue
    """What the speaker is shown: the roles are as they are, so who asks writes the user's turn."""
    turn: int
    """The turn that is asked for, from 0."""


@dataclass(frozen=True, slots=True)
class Done:
    """There is no next step."""

    reason: StopReason
    detail: str | None = None


def next_step(beginning: Dialogue, state: DialogueState, rules: Rules) -> Speak | Done:
    """What is to be done in this state; the arguments are those of `replay`.

    >>> hello, rules = Dialogue(turns=(Turn("user", "Hi"),)), Rules(max_turns=1)
    >>> next_step(hello, replay(hello, [], rules), rules).speaker
    'answerer'
    >>> said = [Reply(Outcome.COMPLETE, "Hello!")]
    >>> next_step(hello, replay(hello, said, rules), rules)
    Done(reason=<StopReason.MAX_TURNS: 'max_turns'>, detail=None)
    """
    if state.stop is not None:
        return Done(state.stop, state.detail)
    speaker: Speaker = "writer" if rules.has_writer else state.next_speaker
    turns = state.turns
    if hidden := state.hidden.get(speaker, 0):
        turns = turns[:2] + turns[2 + hidden :]
    return Speak(speaker, replace(beginning, turns=turns), turn=len(state.turns))


def replay(beginning: Dialogue, replies: Sequence[Reply], rules: Rules) -> DialogueState:
    """The state of a dialogue after some replies.

    Args:
      beginning: Ends with a question, or with an answer.
      replies: In the order of the turns; none has failed or was rejected. Those behind a stop
        change nothing.
      rules: When to end.

    Raises:
      ValueError: One of the replies has failed or was rejected: it is no part of a dialogue.
    """
    state = _begun(beginning.turns, rules)
    for reply in replies:
        if state.stop is not None:
            break
        state = after_reply(state, reply, rules)
    return state


def after_reply(state: DialogueState, reply: Reply, rules: Rules) -> DialogueState:
    """The state after one more reply.

    Args:
      state: It goes on.
      reply: To what `next_step` asks for.
      rules: When to end.

    Raises:
      ValueError: The reply has failed or was rejected.
    """
    if reply.outcome in (Outcome.FAILED, Outcome.REJECTED):
        raise ValueError("a failed request has no reply that could stand in a dialogue")
    if rules.has_writer:
        return _after_transcript(state, reply, rules)
    if reply.outcome is Outcome.CONTEXT_FULL and rules.truncates:
        return _after_full_context(state)
    is_question = state.next_speaker == "asker"
    stop = (_BAD_QUESTIONS if is_question else _BAD_ANSWERS).get(reply.outcome)
    text, has_reasoning = said(reply.text, rules)
    if stop is not None:
        # Where `max_tokens` is too low for the reasoning alone, every dialogue ends so.
        is_within = reply.outcome is Outcome.CUT and has_reasoning and not text
        return replace(state, stop=stop, detail="within its reasoning" if is_within else None)
    state = replace(state, reasoning=state.reasoning + has_reasoning)
    if has_reasoning and rules.reasoning == "end":
        return replace(state, stop=StopReason.REASONING)
    if not text:
        stop = StopReason.ASKER_LEFT if is_question else StopReason.EMPTY_ANSWER
        return replace(state, stop=stop, detail=_ONLY_REASONING if has_reasoning else None)
    if reply.verdict is not None:
        return _stopped(state, reply.verdict)
    turn = Turn("user" if is_question else "assistant", text)
    return _limited(replace(state, turns=(*state.turns, turn)), rules)


def said(text: str, rules: Rules) -> tuple[str, bool]:
    """What a reply says, and whether there was reasoning in it.

    >>> said("<think>A capital.</think> Paris.", Rules(max_turns=1))
    ('Paris.', True)
    """
    split = split_reasoning(text)
    return (text if rules.reasoning == "keep" else split.text), bool(split.reasoning)


def _begun(turns: tuple[Turn, ...], rules: Rules) -> DialogueState:
    """The state before the first reply; answers of the beginning are read as replies are."""
    read = [(turn.text, False) if turn.role == "user" else said(turn.text, rules) for turn in turns]
    state = DialogueState(turns, reasoning=sum(has_reasoning for _, has_reasoning in read))
    if state.reasoning and rules.reasoning == "end":
        return replace(state, stop=StopReason.REASONING, detail="in the beginning")
    if not all(text for text, _ in read):
        detail = f"{_ONLY_REASONING}, in the beginning"
        return replace(state, stop=StopReason.EMPTY_ANSWER, detail=detail)
    stripped = (replace(turn, text=text) for turn, (text, _) in zip(turns, read, strict=True))
    return _limited(replace(state, turns=tuple(stripped)), rules)


def _after_full_context(state: DialogueState) -> DialogueState:
    """Hides one more question with its answer from the speaker; the first and the last stay."""
    speaker = state.next_speaker
    hidden = state.hidden.get(speaker, 0) + 2
    # What was said last stays, or the next question would be asked of nothing.
    num_shown = len(state.turns) - hidden
    if num_shown < (4 if speaker == "asker" else 5):
        return replace(state, stop=StopReason.CONTEXT_FULL)
    return replace(state, hidden=MappingProxyType({**state.hidden, speaker: hidden}))


def _after_transcript(state: DialogueState, reply: Reply, rules: Rules) -> DialogueState:
    stop = _BAD_ANSWERS.get(reply.outcome)
    if stop is not None:
        return replace(state, stop=stop)
    try:
        turns, num_reasoning = parse_transcript(
            reply.text, keeps_reasoning=rules.reasoning == "keep"
        )
    except ValueError as problem:
        return replace(state, stop=StopReason.NO_TRANSCRIPT, detail=str(problem))
    state = replace(state, reasoning=num_reasoning)
    if num_reasoning and rules.reasoning == "end":
        return replace(state, stop=StopReason.REASONING)
    if reply.verdict is not None:
        found = _FIRST_BAD_TURN.search(reply.verdict)
        assert found is not None, reply.verdict
        turns = turns[: int(found[1]) - 1]
    state = _limited(replace(state, turns=turns[: 2 * rules.max_turns]), rules)
    if state.stop is not None:
        return state
    if reply.verdict is not None:
        return _stopped(state, reply.verdict)
    return replace(state, stop=StopReason.WRITER_ENDED)


_FIRST_BAD_TURN = re.compile(r": turn (\d+)")


def _stopped(state: DialogueState, verdict: str) -> DialogueState:
    reason, _, detail = verdict.partition(": ")
    return replace(state, stop=StopReason(reason), detail=detail or None)


def _limited(state: DialogueState, rules: Rules) -> DialogueState:
    """The state, ended where its turns are as many as there may be."""
    is_full = len(state.turns) // 2 >= rules.max_turns
    return replace(state, stop=StopReason.MAX_TURNS) if is_full else state
