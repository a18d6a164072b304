"""Why a negative is dropped: it is unusable, is no context error, or gives itself away.

A negative must be a plausible answer that misses its context. The checks run in the order of
`Drops.reason`; those of collections (`collect/stops.py`) are the same code.
"""

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

from parrot_jax.api.replies import Outcome, Reply
from parrot_jax.collect.stops import JUDGED_CHARS, StopConfig, StopJudge
from parrot_jax.dialogue.language import language_of, switched_language
from parrot_jax.dialogue.phrases import asks_back, refuses
from parrot_jax.dialogue.raw_rows import BrokenRowError
from parrot_jax.dialogue.types import Turn
from parrot_jax.dialogue.unread import refuse_media
from parrot_jax.evaluate.answering import read_answer
from parrot_jax.evaluate.extending import answer_similarity
from parrot_jax.negatives.negatives_config import NegativesConfig
from parrot_jax.negatives.strategies import Negative

ASKS_BACK = "asks back"
_MOST_WORDS_ASKED_BACK = 80
_OPENING_CHARS = 400
_ECHO = 80.0
"""Similarity to its prompt from which a negative is an echo; an edited text can have 60."""

_GIVE = r"(?:provide|clarify|specify|share|tell|give|paste|let me know)"
_ASKS_FOR_CONTEXT = re.compile(
    rf"""\b(?:
        (?:could|can|would)\ you\ (?:please\ |kindly\ )?{_GIVE} | please\ {_GIVE}
      | what\ (?:do\ you\ mean|are\ you\ referring)
      | (?:more|additional|enough|any)\ (?:context|information|details)
      | (?:do\ not|don't)\ have\ (?:access\ to\ )?(?:the|any|your)
        \ (?:previous|prior|earlier|context|conversation)
    )\b""",
    re.I | re.X,
)

_MENTIONS_TASK = re.compile(
    r"""\b(?:
        as\ (?:instructed|per\ (?:the|your)\ instructions) | irrelevant\ part
      | (?:my|just\ a|only\ a)\ guess
      | i(?:'m|'ll|\ am|\ will)?\ (?:just\ )?(?:guess|pretend)(?:ing)?
      | (?:deliberate|intentional)ly\ (?:mis\w+|wrong|irrelevant)
      | misunderst(?:and|ood|anding)\ (?:the|your)\ (?:message|question|conversation|context)
      | (?:have\ not|haven't|without\ having)\ seen\ (?:the|this|your)\ conversation
      | message\ between\ the\ lines
    )\b""",
    re.I | re.X,
)


class Read(NamedTuple):
    """A negative as it was read."""

    text: str
    """Without reasoning; may be empty if there is a reason."""
    reason: str
    """Why it is dropped; empty = it is not."""
    similarity: float | None
    """To the chosen answer, ROUGE-L times 100; None = it was not compared."""


class Drops:
    """Decides whether a negative is dropped."""

    def __init__(self, config: NegativesConfig) -> None:
        """Loads the language classifier, if it is used."""
        self._config = config
        # The language is compared with the chosen answer below, not with the first question.
        rules = StopConfig(most_counter_questions=None, refusals=False, language_switch=None)
        self._stops = StopJudge(rules)
        self._language: Callable[[str], tuple[str, float] | None] | None = None
        if config.language_switch is not None:
            self._language = language_of()

    def read(self, negative: Negative, replies: Sequence[Reply]) -> Read:
        """Reads the reply to a negative's request.

        Args:
          negative: The negative.
          replies: Its only reply.
        """
        (reply,) = replies
        text, why = read_answer(reply)
        if text is None:
            return Read("", why.replace("_", " "), None)
        if reply.outcome is Outcome.CUT:
            return Read(text, "cut at the token limit", None)
        similarity = answer_similarity(negative.question.answer, text)
        return Read(text, self._reason(negative, text, similarity), similarity)

    def _reason(self, negative: Negative, text: str, similarity: float) -> str:
        question, opening = negative.question, text[:JUDGED_CHARS].replace("’", "'")
        if text.strip() == question.answer.strip():
            return "equal to the chosen answer"
        if similarity >= self._config.similarity:
            return "too close to the chosen answer"
        if not any(map(str.isalnum, opening)):
            return "no words"
        try:
            refuse_media([Turn("assistant", text)])
        except BrokenRowError:
            return "mark of an image or the like"
        (messages,) = negative.requests()
        if answer_similarity(messages[-1]["content"], text) >= _ECHO:
            return "repeats its prompt"
        if _MENTIONS_TASK.search(opening):
            return "mentions its task"
        asks = _asks(opening)
        # Without its dialogue, a model often asks what is meant. That is a context error too.
        if asks and negative.kind != "neglect":
            return ASKS_BACK
        if refuses(opening) and not asks:
            return "refusal"
        if stop := self._stops(question.dialogue.turns[: 2 * question.turn - 1], text):
            return stop
        least = self._config.language_switch
        if self._language is not None and least is not None:
            chosen = question.answer[:JUDGED_CHARS]
            if switched_language(self._language, chosen, opening, least):
                return "another language"
        return ""


def _asks(text: str) -> bool:
    """Whether an answer asks what is meant, and does little else."""
    if asks_back(text, most_words=_MOST_WORDS_ASKED_BACK):
        return True
    is_short = len(text.split()) <= _MOST_WORDS_ASKED_BACK
    return is_short and _ASKS_FOR_CONTEXT.search(text[:_OPENING_CHARS]) is not None
