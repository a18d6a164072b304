"""A dialogue as a state machine: the next step depends only on the replies so far.

It uses no clock, network or journal: the same replies give the same step, also after a kill.

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
    """Why a dialogue ended; each has exactly one reason."""

    MAX_TURNS = "max_turns"
    """It has reached `max_turns`."""
    ASKER_LEFT = "asker_left"
    """The asker's reply was empty: it has no more questions."""
    EMPTY_ANSWER = "empty_answer"
    """The answerer's reply was empty."""
    CUT_QUESTION = "cut_question"
    """The question reached the token limit; half a question is not answered."""
    CUT_ANSWER = "cut_answer"
    """The answer reached the token limit; a model trained on it would stop in mid-sentence."""
    FILTERED_QUESTION = "filtered_question"
    """The asker's endpoint filtered the question."""
    FILTERED_ANSWER = "filtered_answer"
    """The answerer's endpoint filtered the answer."""
    CONTEXT_FULL = "context_full"
    """It exceeds the context of a speaker."""
    ERROR = "error"
    """An endpoint rejected the request permanently. Recorded in the journal, since no reply implies
    it."""
    BUDGET = "budget"
    """The next call might have exceeded the budget. A higher budget resumes it."""
    WRITER_ENDED = "writer_ended"
    """The writer ended it before `max_turns`."""
    REASONING = "reasoning"
    """A reply had reasoning, and `reasoning` is `end`."""
    NO_TRANSCRIPT = "no_transcript"
    """The writer's reply is not a dialogue in the expected form."""

    # Found in the text by `stops.py`.
    MEANINGLESS_ANSWER = "meaningless_answer"
    """The answer matches a pattern of `meaningless_answers`."""
    REFUSAL = "refusal"
    """The answer is a refusal."""
    THANKS = "thanks"
    """The question only thanks or says good-bye."""
    REPEATED_QUESTION = "repeated_question"
    """The question repeats an earlier one of the dialogue, exactly or nearly."""
    SHORT_QUESTION = "short_question"
    """The question has too few letters."""
    ASKER_ANSWERS = "asker_answers"
    """The asker writes like the answerer, or repeats an answer."""
    ANSWERER_ASKS = "answerer_asks"
    """The answerer asks back too many times in a row."""
    LANGUAGE_SWITCH = "language_switch"
    """The question is in another language than the first one."""
    FILTER = "filter"
    """A custom filter of `collect` ended it; its text is the detail."""
    SENSITIVE = "sensitive"
    """It contains personal data: an address, a number or a key."""


USELESS = frozenset(
    {
        StopReason.EMPTY_ANSWER, StopReason.CUT_QUESTION, StopReason.CUT_ANSWER,
        StopReason.FILTERED_QUESTION, StopReason.FILTERED_ANSWER, StopReason.CONTEXT_FULL,
    }
)  # fmt: skip
"""Stops by replies without content. If all dialogues stop like this, settings may be wrong."""

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
    """Settings of the state machine."""

    max_turns: int
    """Most question-answer turns, >= 1."""
    truncates: bool = False
    """Whether a speaker with a full context is shown fewer turns."""
    has_writer: bool = False
    """Whether a writer writes the whole dialogue."""
    reasoning: OnReasoning = "strip"
    """How to handle reasoning in a reply, or in an answer of the beginning."""


@dataclass(frozen=True, slots=True)
class DialogueState:
    """A dialogue after some replies."""

    turns: tuple[Turn, ...]
    """The turns so far, without the reply that ended the dialogue."""
    stop: StopReason | None = None
    """Why it ended; None = it has not."""
    detail: str | None = None
    """More about the stop."""
    hidden: Mapping[Speaker, int] = field(default_factory=lambda: MappingProxyType({}))
    """By speaker, the number of messages after the first answer that it is not shown. Even, because
    questions and answers are hidden together."""
    reasoning: int = 0
    """Number of messages that came with reasoning (removed unless it is to be kept)."""

    @property
    def complete_turns(self) -> tuple[Turn, ...]:
        """The turns through the last answer, without an unanswered question."""
        return self.turns if self.turns[-1].role == "assistant" else self.turns[:-1]

    @property
    def is_truncated(self) -> bool:
        """Whether a speaker was not shown all turns."""
        return any(self.hidden.values())

    @property
    def next_speaker(self) -> Speaker:
        """Who speaks next; valid until the dialogue ends, and without a writer."""
        return "asker" if self.turns[-1].role == "assistant" else "answerer"


@dataclass(frozen=True, slots=True)
class Speak:
    """The next step is a request."""

    speaker: Speaker
    shown: Dialogue
    """The messages for the speaker. Roles are unchanged: the asker writes user messages."""
    turn: int
    """Index of the requested message, from 0."""


@dataclass(frozen=True, slots=True)
class Done:
    """The dialogue has ended."""

    reason: StopReason
    detail: str | None = None


def next_step(beginning: Dialogue, state: DialogueState, rules: Rules) -> Speak | Done:
    """The next step in a state; takes the arguments of `replay`.

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
      replies: In the order of the turns, without failed or rejected ones. Replies after a stop are
        ignored.
      rules: When to end.

    Raises:
      ValueError: A reply failed or was rejected, so it cannot be part of a dialogue.
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
      state: A state without a stop.
      reply: The reply to the request of `next_step`.
      rules: When to end.

    Raises:
      ValueError: The reply failed or was rejected.
    """
    if reply.outcome in (Outcome.FAILED, Outcome.REJECTED):
        raise ValueError("a failed request has no reply to add to a dialogue")
    if rules.has_writer:
        return _after_transcript(state, reply, rules)
    if reply.outcome is Outcome.CONTEXT_FULL and rules.truncates:
        return _after_full_context(state)
    is_question = state.next_speaker == "asker"
    stop = (_BAD_QUESTIONS if is_question else _BAD_ANSWERS).get(reply.outcome)
    text, has_reasoning = said(reply.text, rules)
    if stop is not None:
        # If `max_tokens` is too low for the reasoning alone, every dialogue ends here.
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
    """The text of a reply, and whether it had reasoning.

    >>> said("<think>A capital.</think> Paris.", Rules(max_turns=1))
    ('Paris.', True)
    """
    split = split_reasoning(text)
    return (text if rules.reasoning == "keep" else split.text), bool(split.reasoning)


def _begun(turns: tuple[Turn, ...], rules: Rules) -> DialogueState:
    """The state before the first reply; answers of the beginning are treated like replies."""
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
    """Hides one more turn from the speaker; the first and the last stay."""
    speaker = state.next_speaker
    hidden = state.hidden.get(speaker, 0) + 2
    # The last messages must stay: they are what the speaker replies to.
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
    """The state, ended if it has reached `max_turns`."""
    is_full = len(state.turns) // 2 >= rules.max_turns
    return replace(state, stop=StopReason.MAX_TURNS) if is_full else state
