"""One dialogue of a built benchmark as a coroutine: which request is next, given the replies.

It uses no clock, network or journal: the same replies give the same dialogue, also after a kill.

    given questions   answer, if there is no reference; once more alone, if a person edited it
    each new turn     proposal, filters, answer, answer alone, too similar?  up to `attempts`
"""

import json
from collections.abc import Container, Generator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from parrot_jax.api.prompts import Prompt
from parrot_jax.api.replies import Outcome, Reply
from parrot_jax.dialogue.repeats import rouge_l
from parrot_jax.dialogue.words import normal_words
from parrot_jax.evaluate.answering import read_answer
from parrot_jax.evaluate.build_config import MOST_ATTEMPTS, BuildConfig
from parrot_jax.evaluate.built import BuiltDialogue, BuiltTurn, Note
from parrot_jax.evaluate.question_filters import QuestionFilters

ASKER, ANSWERER = "asker", "answerer"
_PROPOSAL, _ANSWER, _ALONE = range(3)
_SHOWN_CHARS = 500
_NO_CONTEXT_NEEDED = "does not need its context"


class Ask(NamedTuple):
    """A request that is needed next."""

    turn: int
    """From 0."""
    attempt: int
    kind: int
    messages: list[dict[str, str]]

    @property
    def step(self) -> int:
        """Its step in the journal, the same in every run, whatever `turns` and `attempts` are."""
        return (self.turn * MOST_ATTEMPTS + self.attempt) * 3 + self.kind

    @property
    def speaker(self) -> str:
        """Who is asked."""
        return ASKER if self.kind == _PROPOSAL else ANSWERER


@dataclass(frozen=True, kw_only=True)
class Base:
    """A dialogue as it was given to the asker."""

    dialogue: BuiltDialogue
    """With the given turns only."""
    turns: int
    """Questions wanted in the end."""

    def input(self) -> str:
        """The dialogue in the journal: after an edit or a rejection it is another one."""
        one = self.dialogue
        content: dict[str, Any] = {
            "question": one.id,
            "turns": [turn.text for turn in one.turns],
            # References that a run made are not a part: they follow from the rest.
            "references": [
                None if turn.is_made else turn.reference for turn in one.turns[: one.seed_turns]
            ],
        }
        if one.system:
            content["system"] = one.system
        if one.rejected:
            content["rejected"] = [note.text for note in one.rejected]
        return json.dumps(content, ensure_ascii=False)


class Extension:
    """Extends a dialogue.

    Attributes:
      turns: The turns so far.
      dropped: The proposals that were dropped.
      short: Why the dialogue cannot be continued; empty = it can, or it is complete.
    """

    def __init__(
        self, base: Base, config: BuildConfig, filters: QuestionFilters, prompt: Prompt | None
    ) -> None:
        """Starts with the given turns."""
        self._base, self._config, self._filters, self._prompt = base, config, filters, prompt
        self.turns: list[BuiltTurn] = list(base.dialogue.turns)
        self.dropped: list[Note] = []
        self.short = ""

    def requests(self, known: Container[int]) -> Generator[Ask, Reply, None]:
        """Yields the requests one by one; send it the reply of each.

        Args:
          known: The steps with replies. They count even beyond `attempts`, so that a lower value
            changes nothing that exists.
        """
        for place in range(len(self.turns)):
            if not (yield from self._fill(place)):
                return
        for place in range(len(self.turns), self._base.turns):
            if not (yield from self._extend(place, known)):
                self.short = self.short or "all proposals were dropped"
                return

    def _fill(self, place: int) -> Generator[Ask, Reply, bool]:
        """Answers a given question if it has no reference; returns whether it has one now."""
        turn = self.turns[place]
        if turn.reference is None:
            reply = yield Ask(place, 0, _ANSWER, self._context(self.turns[:place], turn.text))
            answer, why = read_answer(reply)
            if answer is None:
                self.short = f"no answer: {why}"
                return False
            turn = self._answered(turn, answer, reply)
        if place >= self._base.dialogue.seed_turns and turn.context_similarity is None:
            reply = yield Ask(place, 0, _ALONE, self._context([], turn.text))
            turn = replace(turn, context_similarity=_similarity(turn.reference, reply))
        self.turns[place] = turn
        return True

    def _extend(self, place: int, known: Container[int]) -> Generator[Ask, Reply, bool]:
        """Adds a question; returns whether a proposal was accepted by the filters."""
        dropped: list[str] = []
        for attempt in range(MOST_ATTEMPTS):
            ask = Ask(place, attempt, _PROPOSAL, self._to_asker(place, dropped))
            if attempt >= self._config.attempts and ask.step not in known:
                return False
            reply = yield ask
            text, reason = read_proposal(reply)
            if not reason:
                reason = self._filters.reason(
                    text,
                    [turn.text for turn in self.turns],
                    rejected=[note.text for note in self._base.dialogue.rejected],
                    dropped=dropped,
                )
            if not reason:
                turn = BuiltTurn(text=text, written_by=self._config.asker.model)
                reply = yield Ask(place, attempt, _ANSWER, self._context(self.turns, text))
                answer, why = read_answer(reply)
                if answer is not None:
                    turn = self._answered(turn, answer, reply)
                    reply = yield Ask(place, attempt, _ALONE, self._context([], text))
                    turn = replace(turn, context_similarity=_similarity(answer, reply))
                    reason = self._needs_no_context(turn)
                elif reply.outcome is Outcome.FILTERED:
                    reason = "its answer was filtered"  # more likely the question's fault
                else:
                    self.short = f"no answer: {why}"
                    return False
                if not reason:
                    self.turns.append(turn)
                    return True
            model = self._config.asker.model
            self.dropped.append(Note(turn=place + 1, text=text, written_by=model, why=reason))
            if text:
                dropped.append(text)
        return False

    def _needs_no_context(self, turn: BuiltTurn) -> str:
        if not self._config.require_context:
            return ""
        if turn.context_similarity is None:
            return "its need of context could not be measured"
        is_alike = turn.context_similarity >= self._config.context_similarity
        return _NO_CONTEXT_NEEDED if is_alike else ""

    def _answered(self, turn: BuiltTurn, answer: str, reply: Reply) -> BuiltTurn:
        return replace(
            turn,
            reference=answer,
            reference_written_by=self._config.answerer.model,
            is_made=True,
            is_cut=reply.outcome is Outcome.CUT,
        )

    def _context(self, turns: Sequence[BuiltTurn], text: str) -> list[dict[str, str]]:
        system = self._base.dialogue.system
        messages = [{"role": "system", "content": system}] if system else []
        for turn in turns:
            assert turn.reference is not None, "each question is answered before the next"
            messages.append({"role": "user", "content": turn.text})
            messages.append({"role": "assistant", "content": turn.reference})
        return [*messages, {"role": "user", "content": text}]

    def _to_asker(self, place: int, dropped: Sequence[str]) -> list[dict[str, str]]:
        if self._prompt is None:
            return self._context(self.turns, "")[:-1]
        rejected = [note.text for note in self._base.dialogue.rejected if note.turn == place + 1]
        avoid = [text[:_SHOWN_CHARS] for text in (*rejected, *dropped)]
        text = self._prompt.render(turn=place + 1, turns=self._base.turns, avoid=avoid)
        return self._context(self.turns, text)


def read_proposal(reply: Reply) -> tuple[str, str]:
    """The text of a proposal without reasoning, and why it is unusable.

    >>> read_proposal(Reply(Outcome.COMPLETE, "<think>Hm.</think>And why?"))
    ('And why?', '')
    >>> read_proposal(Reply(Outcome.CUT, "And why is"))
    ('And why is', 'cut at the token limit')
    """
    text, why = read_answer(reply)
    if reply.outcome is Outcome.CUT:
        return text or "", "cut at the token limit"
    return text or "", why


def answer_similarity(one: str, other: str) -> float:
    """The similarity of two answers: ROUGE-L times 100, in [0, 100].

    >>> answer_similarity("Make it short.", "Make it blue!")
    66.7
    """
    return round(100 * rouge_l(normal_words(one), normal_words(other)), 1)


def _similarity(answer: str | None, alone: Reply) -> float | None:
    """The similarity of the answers with and without the dialogue; None = one is missing."""
    text, _ = read_answer(alone)
    return None if text is None or answer is None else answer_similarity(answer, text)
