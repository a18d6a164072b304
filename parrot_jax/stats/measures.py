"""What is measured of a session: for each measure, what it adds to a sum and to a count.

A figure of a file is the sum over its sessions divided by the count: a mean over sessions where
each counts 1, a share or mean of questions where each counts as many questions as it has.
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
"""Similarity from which a question counts as a near repeat, as collections do by default."""

LANGUAGE_CHARS = 400
"""So many characters of a session's questions tell its language."""


class Part(NamedTuple):
    """What a session adds to a measure."""

    amount: float
    num: float
    """Of how many sessions or questions: 1 for a session."""


@dataclass(frozen=True, kw_only=True)
class Measure:
    """A row of the table."""

    name: str
    unit: Literal["number", "share", "percent of 1"]
    """`number` as it is, `share` in per cent, `percent of 1` times 100 as the papers print it."""
    of: str
    """What it is a mean or a share of."""
    definition: str


MEASURES: Mapping[str, Measure] = MappingProxyType(
    {
        "turns": Measure(
            name="turns", unit="number", of="sessions",
            definition="questions of a session, an unanswered last one included",
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
            definition="100 times the mean ROUGE-L F of each question to the others of its "
            "session; the papers name the measure and not its form, which is ours",
        ),
        "mtld": Measure(
            name="MTLD", unit="number", of="questions with a word",
            definition="mean length of runs of words in which the share of different ones stays "
            "at 0.72 or above, both ways; a question without a repeated word counts its length",
        ),
        "thanks": Measure(
            name="thanks", unit="share", of="later questions",
            definition="a word of thanks in it, or in the opening of a long one (English)",
        ),
        "verbatim_repeats": Measure(
            name="verbatim repeats", unit="share", of="later questions",
            definition="the same words as an earlier question of the session",
        ),
        "near_repeats": Measure(
            name="near repeats", unit="share", of="later questions",
            definition=f"{NEAR_REPEAT:g} % of the characters as in an earlier question, or more; "
            "verbatim repeats are among them",
        ),
        "pronouns": Measure(
            name="pronouns", unit="share", of="later questions",
            definition="it, they, he, she and their forms, this, that, these or those in it, "
            "whatever they refer to (English)",
        ),
        "ellipsis": Measure(
            name="ellipsis", unit="share", of="later questions of English sessions",
            definition="7 words or fewer that begin as going on (and, what about, more) or have "
            "no word of a list of verbs",
        ),
        "question_marks": Measure(
            name="question marks", unit="share", of="later questions",
            definition="a question mark in it",
        ),
    }
)  # fmt: skip
"""By their keys in `stats.json`, in the order of the table."""


class SessionMeasures(NamedTuple):
    """All that is kept of a session."""

    turns: int
    parts: dict[str, Part]
    """By measure; tokens are counted elsewhere, for many sessions at once."""
    later_lengths: list[int]
    """Words of each later question."""
    language: str | None
    """ISO 639-1; None = too few letters to tell."""


def measure_session(dialogue: Dialogue, language: str | None) -> SessionMeasures:
    """Measures a session.

    Args:
      dialogue: The session.
      language: Of its questions, see `SessionMeasures`.
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
        "turns": Part(len(questions), 1),
        "words": Part(sum(len(turn.text.split()) for turn in dialogue.turns), 1),
        "first_question_words": Part(lengths[0], 1),
        "later_question_words": Part(sum(lengths[1:]), later),
        "self_rouge": Part(rouge or 0.0, rouge is not None),
        "mtld": Part(sum(diversities), len(diversities)),
        "thanks": Part(sum(map(says_thanks, questions[1:])), later),
        "verbatim_repeats": Part(sum(near == 100 for near in repeats), later),
        "near_repeats": Part(sum(near > 0 for near in repeats), later),
        "pronouns": Part(sum(map(has_pronoun, words[1:])), later),
        "ellipsis": Part(sum(map(is_elliptical, words[1:])) * is_english, later * is_english),
        "question_marks": Part(sum("?" in text or "？" in text for text in questions[1:]), later),
    }
    return SessionMeasures(len(questions), parts, lengths[1:], language)
