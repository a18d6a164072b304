"""Measures a session: for each measure, its summand and its count.

A file's value is the sum over its sessions divided by the total count: a mean over sessions if each
counts 1, or a mean or share of questions if each counts its questions.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, NamedTuple

from parrot_jax.dialogue.phrases import says_thanks
from parrot_jax.dialogue.repeats import comparable, most_similar
from parrot_jax.dialogue.types import Dialogue
from parrot_jax.dialogue.words import normal_words
from parrot_jax.stats.context_marks import has_pronoun, is_elliptical
from parrot_jax.stats.diversity import mtld, self_rouge

NEAR_REPEAT = 95.0
"""Similarity from which a question is a near repeat; also the default of collections."""

LANGUAGE_CHARS = 400
"""Characters of a session's questions used to detect its language."""


Unit = Literal["number", "share", "percent of 1"]
"""`number` as it is, `share` in per cent, `percent of 1` times 100, as in the papers."""


class Amount(NamedTuple):
    """A session's contribution to a measure."""

    amount: float
    num: float
    """The count: 1 for a session, or the number of questions."""


@dataclass(frozen=True, kw_only=True)
class Measure:
    """A row of the table."""

    name: str
    unit: Unit
    of: str
    """The population of the mean or share."""
    definition: str


MEASURES: Mapping[str, Measure] = MappingProxyType(
    {
        "turns": Measure(
            name="turns", unit="number", of="sessions",
            definition="questions of a session, including an unanswered last one",
        ),
        "tokens": Measure(
            name="tokens", unit="number", of="sessions",
            definition="tokens of all questions and answers, without any template",
        ),
        "words": Measure(
            name="words", unit="number", of="sessions",
            definition="words of all questions and answers, split at white space",
        ),
        "first_question_words": Measure(
            name="words of a first question", unit="number", of="sessions",
            definition="split at white space",
        ),
        "later_question_words": Measure(
            name="words of a later question", unit="number", of="later questions",
            definition="split at white space; all questions but the first are later ones",
        ),
        "self_rouge": Measure(
            name="Self-ROUGE", unit="percent of 1", of="sessions of 2 questions or more",
            definition="100 times the mean ROUGE-L F of each question with the others of its "
            "session; our definition, since the papers give none",
        ),
        "mtld": Measure(
            name="MTLD", unit="number", of="questions with a word",
            definition="mean length of runs of words in which the share of distinct words stays "
            "at 0.72 or above, in both directions; without repeated words, the length",
        ),
        "thanks": Measure(
            name="thanks", unit="share", of="later questions",
            definition="contains a word of thanks; for long questions, in the opening (English)",
        ),
        "verbatim_repeats": Measure(
            name="verbatim repeats", unit="share", of="later questions",
            definition="the same words as an earlier question of the session",
        ),
        "near_repeats": Measure(
            name="near repeats", unit="share", of="later questions",
            definition=f"{NEAR_REPEAT:g} % or more of the characters as in an earlier question; "
            "includes verbatim repeats",
        ),
        "pronouns": Measure(
            name="pronouns", unit="share", of="later questions",
            definition="contains it, they, he, she or their forms, this, that, these or those, "
            "with any referent (English)",
        ),
        "ellipsis": Measure(
            name="ellipsis", unit="share", of="later questions of English sessions",
            definition="at most 7 words, with a continuing opening (and, what about, more) or "
            "without a word from a list of verbs",
        ),
        "question_marks": Measure(
            name="question marks", unit="share", of="later questions",
            definition="contains a question mark",
        ),
    }
)  # fmt: skip
"""By key in `stats.json`, in table order."""


class SessionMeasures(NamedTuple):
    """The measures of a session."""

    turns: int
    parts: dict[str, Amount]
    """By measure; tokens are counted separately, for many sessions at once."""
    later_lengths: list[int]
    """Words of each later question."""
    language: str | None
    """ISO 639-1 code; None = too few letters to detect."""


def measure_session(dialogue: Dialogue, language: str | None) -> SessionMeasures:
    """Measures a session.

    Args:
      dialogue: The session.
      language: The language of its questions; see `SessionMeasures`.
    """
    questions = dialogue.questions()
    words = [normal_words(question) for question in questions]
    lengths = [len(question.split()) for question in questions]
    diversities = [value for value in map(mtld, words) if value is not None]
    later = len(questions) - 1
    rouge = self_rouge(words)
    plain = list(map(comparable, questions))
    repeats = [
        most_similar(text, plain[:place], NEAR_REPEAT) for place, text in enumerate(plain) if place
    ]
    is_english = language == "en"
    parts = {
        "turns": Amount(len(questions), 1),
        "words": Amount(sum(len(turn.text.split()) for turn in dialogue.turns), 1),
        "first_question_words": Amount(lengths[0], 1),
        "later_question_words": Amount(sum(lengths[1:]), later),
        "self_rouge": Amount(rouge or 0.0, rouge is not None),
        "mtld": Amount(sum(diversities), len(diversities)),
        "thanks": Amount(sum(map(says_thanks, questions[1:])), later),
        "verbatim_repeats": Amount(sum(near == 100 for near in repeats), later),
        "near_repeats": Amount(sum(near > 0 for near in repeats), later),
        "pronouns": Amount(sum(map(has_pronoun, words[1:])), later),
        "ellipsis": Amount(sum(map(is_elliptical, words[1:])) * is_english, later * is_english),
        "question_marks": Amount(sum("?" in text or "？" in text for text in questions[1:]), later),
    }
    return SessionMeasures(len(questions), parts, lengths[1:], language)
