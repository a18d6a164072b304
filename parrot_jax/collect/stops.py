"""Rules for texts that end a dialogue; each has its own setting and its own stop reason.

docs/collecting.md lists the false-positive rate of each rule on dialogues of real users.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from parrot_jax.collect.dialogue_state import StopReason
from parrot_jax.core.errors import UserError
from parrot_jax.dialogue.types import Turn, is_unicode

JUDGED_CHARS = 20_000
"""Longer than any real answer; a server may send megabytes."""
_OVERLAP = 512

TurnFilter = Callable[[Sequence[Turn], str], str | None]
"""A custom stop rule: takes the turns before a text, and the text; returns why it ends the
dialogue, or None. An answer follows an odd number of turns, a question an even one."""

SensitiveKind = Literal["e-mail", "phone", "card", "iban", "secret"]


@dataclass(frozen=True, kw_only=True)
class StopConfig:
    """Rules for texts that end a dialogue. The text that ends it is left out.

    Raises:
      UserError: A value is outside its range, or a pattern is invalid.
    """

    meaningless_answers: tuple[str, ...] = ()
    """Regular expressions. An answer that contains a match ends the dialogue and is left out with
    its question."""

    refusals: bool = True
    """End at an answer that begins with a refusal."""

    most_thanks: int | None = 0
    """Number of questions that may only thank or say good-bye; the next one ends the dialogue. Null
    = no limit."""

    repeated_question: float | None = 95.0
    """End at a question with at least this similarity to an earlier one of its dialogue, in (0,
    100]: 100 = the same words, below that by edit distance. Null = off."""

    fewest_question_letters: int = 2
    """End at a question with fewer letters and digits, >= 0."""

    asker_answers: bool = True
    """End at a question that begins like a chat model's answer: the asker has changed roles."""

    repeated_answer: float | None = 100.0
    """End at a question of 4 words or more with at least this similarity to an earlier answer,
    measured as for `repeated_question`: the asker has changed roles. Null = off."""

    most_counter_questions: int | None = 2
    """Number of answers in a row that may be short questions; the next one ends the dialogue. Null
    = no limit."""

    language_switch: float | None = 0.95
    """End at a question that is in another language than the first one with at least this
    probability, in (0, 1]. Texts with fewer than 20 letters are skipped. Null = off."""

    sensitive: tuple[SensitiveKind, ...] = ("e-mail", "phone", "card", "iban", "secret")
    """End at a question or an answer with one of these kinds of data, unless an earlier message of
    the dialogue has that kind too."""

    def __post_init__(self) -> None:
        for pattern in self.meaningless_answers:
            try:
                re.compile(pattern)
            except re.error as error:
                raise UserError(
                    f"meaningless_answers: {pattern!r} is not a valid regular expression: {error}."
                ) from None
        for name in ("most_thanks", "most_counter_questions", "fewest_question_letters"):
            value = getattr(self, name)
            if value is not None and value < 0:
                raise UserError(f"stops.{name} is {value}; it must be at least 0.")
        for name, most in _MOST.items():
            value = getattr(self, name)
            if value is not None and not 0 < value <= most:
                raise UserError(f"stops.{name} is {value}; it must be in (0, {most}], or null.")


def check_filters(filters: object) -> None:
    """Checks that custom filters are a list of functions.

    Raises:
      UserError: They are not a list of functions.
    """
    if not isinstance(filters, list | tuple) or not all(map(callable, filters)):
        raise UserError(f"filters is {filters!r}; give a list of functions.")


class StopJudge:
    """Decides whether a text ends its dialogue, and why."""

    def __init__(self, config: StopConfig, filters: Sequence[TurnFilter] = ()) -> None:
        """Compiles the patterns."""
        self._config, self._filters = config, filters
        self._meaningless = tuple(map(re.compile, config.meaningless_answers))
        self._language: Callable[[str], tuple[str, float] | None] | None = None
        if config.language_switch is not None:
            from parrot_jax.dialogue.language import language_of

            self._language = language_of()

    def __call__(self, turns: Sequence[Turn], text: str) -> str | None:
        """Returns the verdict: a `StopReason`, optionally with `: ` and a detail; or None.

        Args:
          turns: The dialogue before the text. After an answer, the text is a question.
          text: The reply, not empty. All of it is searched for sensitive data; the other rules read
            its first `JUDGED_CHARS` characters.
        """
        is_question = turns[-1].role == "assistant"
        opening = text[:JUDGED_CHARS]
        reason = (self._question if is_question else self._answer)(turns, opening)
        return reason or self._sensitive(turns, text) or self._own(turns, text)

    def in_transcript(self, turns: Sequence[Turn]) -> str | None:
        """Returns the verdict on the first bad turn of a writer's dialogue.

        Args:
          turns: The whole dialogue; the first question is not judged.

        Returns:
          As `__call__`, with `turn N` and a comma before the detail, N from 1; or None.
        """
        for place in range(1, len(turns)):
            if verdict := self(turns[:place], turns[place].text):
                reason, _, detail = verdict.partition(": ")
                return f"{reason}: turn {place + 1}" + (f", {detail}" if detail else "")
        return None

    def _own(self, turns: Sequence[Turn], text: str) -> str | None:
        for own in self._filters:
            name = getattr(own, "__name__", repr(own))
            try:
                why = own(turns, text)
            except Exception as error:
                raise UserError(
                    f"the filter {name} raised {type(error).__name__}: {error}; the text was "
                    f"{text[:80]!r}. Fix it and run the collection again to continue."
                ) from error
            if why is not None and not isinstance(why, str):
                raise UserError(f"the filter {name} returned {why!r}; return a reason, or None.")
            if why and not is_unicode(why):
                raise UserError(
                    f"the filter {name} returned {why[:80]!r}, which has half of a surrogate pair; "
                    "return valid Unicode."
                )
            if why:
                return f"{StopReason.FILTER}: {why}"
        return None

    def _question(self, turns: Sequence[Turn], text: str) -> str | None:
        from parrot_jax.dialogue.phrases import answers_like_an_assistant, only_thanks
        from parrot_jax.dialogue.repeats import comparable, most_similar

        config = self._config
        earlier, answers = ([turn.text for turn in turns[n::2]] for n in (0, 1))
        if sum(map(str.isalnum, text)) < config.fewest_question_letters:
            return StopReason.SHORT_QUESTION
        if config.most_thanks is not None and only_thanks(text):
            if sum(map(only_thanks, earlier[1:])) >= config.most_thanks:
                return StopReason.THANKS
            return None
        if config.asker_answers and answers_like_an_assistant(text):
            return StopReason.ASKER_ANSWERS
        # Shorter questions may repeat words of an answer to agree or to wonder: "Oria?"
        answers = answers if len(text.split()) >= _FEWEST_WORDS_OF_AN_ANSWER else []
        for said, threshold, reason in (
            (answers, config.repeated_answer, StopReason.ASKER_ANSWERS),
            (earlier, config.repeated_question, StopReason.REPEATED_QUESTION),
        ):
            if threshold is not None and (
                near := most_similar(comparable(text), list(map(comparable, said)), threshold)
            ):
                return f"{reason}: similarity {near:.0f}"
        return self._switched_language(earlier[0], text)

    def _answer(self, turns: Sequence[Turn], text: str) -> str | None:
        from parrot_jax.dialogue.phrases import asks_back, refuses

        config = self._config
        if any(pattern.search(text) for pattern in self._meaningless):
            return StopReason.MEANINGLESS_ANSWER
        if config.refusals and refuses(text):
            return StopReason.REFUSAL
        most = config.most_counter_questions
        if most is not None:
            last = [turn.text for turn in turns[1::2]][-most:] if most else []
            if len(last) == most and all(
                asks_back(answer, most_words=_MOST_WORDS_ASKED_BACK) for answer in (*last, text)
            ):
                return StopReason.ANSWERER_ASKS
        return None

    def _switched_language(self, first: str, text: str) -> str | None:
        from parrot_jax.dialogue.language import switched_language

        least = self._config.language_switch
        if self._language is None or least is None:
            return None
        first, text = first[:JUDGED_CHARS], text[:JUDGED_CHARS]
        switched = switched_language(self._language, first, text, least)
        return f"{StopReason.LANGUAGE_SWITCH}: {' to '.join(switched)}" if switched else None

    def _sensitive(self, turns: Sequence[Turn], text: str) -> str | None:
        from parrot_jax.dialogue.sensitive import SENSITIVE

        for kind in self._config.sensitive:
            find = SENSITIVE[kind]
            if any(map(find, _pieces(text))) and not any(
                find(piece) for turn in turns for piece in _pieces(turn.text)
            ):
                return f"{StopReason.SENSITIVE}: {kind}"
        return None


def _pieces(text: str) -> Iterator[str]:
    """Splits a text into overlapping pieces, at white space if possible."""
    start = 0
    while len(text) - start > JUDGED_CHARS:
        end = start + JUDGED_CHARS
        yield text[start:end]
        space = text.find(" ", end - _OVERLAP, end)
        start = space if space >= 0 else end - _OVERLAP
    yield text[start:]


_MOST_WORDS_ASKED_BACK = 40
_FEWEST_WORDS_OF_AN_ANSWER = 4
_MOST = {"repeated_question": 100, "repeated_answer": 100, "language_switch": 1}
