"""Measures a dialogue's questions: for each measure, a sum and a count, as in `stats/measures.py`.

The questions of an asker are measured exactly as people's at the same places.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

from parrot_jax.askers.reference import Reference, Said
from parrot_jax.askers.texts import overlap_with, repeats, shifts_topic
from parrot_jax.dialogue.phrases import answers_like_an_assistant, says_thanks
from parrot_jax.dialogue.words import normal_words
from parrot_jax.negatives.rules import LANGUAGE, rule_of
from parrot_jax.stats.context_marks import has_pronoun, is_elliptical
from parrot_jax.stats.diversity import HDD_DRAWS, MATTR_WINDOW, hdd, mattr, self_rouge
from parrot_jax.stats.measures import MEASURES as SESSIONS
from parrot_jax.stats.measures import Amount, Measure

_FEWEST_COPIED_WORDS = 4
"""Shorter questions take up words of an answer to agree or to wonder: "Oria?"."""

MEASURES: Mapping[str, Measure] = MappingProxyType(
    {
        "words": Measure(
            name="words of a question", unit="number", of="questions",
            definition="split at white space",
        ),
        "pronouns": replace(SESSIONS["pronouns"], of="questions of English dialogues"),
        "ellipsis": replace(SESSIONS["ellipsis"], of="questions of English dialogues"),
        "context_dependent": Measure(
            name="context-dependent questions", unit="number", of="English dialogues",
            definition="questions that refer to the dialogue by the rules of `parrot negatives "
            "select`, where people asked one; per dialogue of 2 questions or more of people",
        ),
        "thanks": replace(SESSIONS["thanks"], of="questions"),
        "repeats": Measure(
            name="repeats", unit="share", of="questions",
            definition="95 % or more of the characters as in an earlier question of the dialogue",
        ),
        "answer_like": Measure(
            name="begins like an answer", unit="share", of="questions",
            definition="begins as chat models answer (Certainly! ..), or repeats an answer of the "
            "dialogue; the certain part of role drift (English)",
        ),
        "topic_shifts": Measure(
            name="topic shifts", unit="share", of="questions with content words",
            definition="needs no context and shares no content word with any earlier turn",
        ),
        "intent_overlap": Measure(
            name="overlap with the intent", unit="share", of="questions with content words",
            definition="mean share of a question's content words that the intent has: the key "
            "`intent` of the dialogue, else its first question",
        ),
        "self_rouge": replace(SESSIONS["self_rouge"], of="dialogues of 2 questions or more"),
        "mattr": Measure(
            name="MATTR", unit="number", of=f"dialogues of {MATTR_WINDOW} words or more",
            definition=f"mean share of distinct words in windows of {MATTR_WINDOW} words of a "
            "dialogue's questions",
        ),
        "hdd": Measure(
            name="HD-D", unit="number", of=f"dialogues of {HDD_DRAWS} words or more",
            definition="expected share of distinct words in a random draw of "
            f"{HDD_DRAWS} words of a dialogue's questions",
        ),
    }
)  # fmt: skip
"""By key in `card.json`, in table order."""


@dataclass(frozen=True)
class _Asked:
    """A question in its dialogue."""

    text: str
    questions: Sequence[str]
    """The earlier ones."""
    answers: Sequence[str]
    intent: str
    is_english: bool
    is_beside: bool
    """Whether the person asked a question there, too."""

    @functools.cached_property
    def words(self) -> list[str]:
        """As `normal_words`."""
        return normal_words(self.text)

    @functools.cached_property
    def rule(self) -> str | None:
        """Why it needs its dialogue; None = no rule says so, or it is not English."""
        return rule_of(self.text) if self.is_english else None


def measure_questions(reference: Reference, said: Sequence[Said]) -> list[dict[str, Amount]]:
    """Measures what somebody said, dialogue by dialogue.

    Args:
      reference: The dialogues.
      said: At the places of the reference; the first question of a dialogue is not measured, since
        nothing comes before it.

    Returns:
      For each dialogue, its part of each measure.
    """
    by_dialogue: list[list[_Asked]] = [[] for _ in reference.dialogues]
    # Whether there is a question or an end at each place where the person asked.
    known: list[list[bool]] = [[] for _ in reference.dialogues]
    for one in said:
        number, turn = one.place
        if turn == 1:
            continue
        is_beside = reference.question(one.place) is not None
        if is_beside:
            known[number].append(one.text is not None or one.ended)
        if one.text is None:
            continue
        before = [t.text for t in reference.dialogues[number].turns[: 2 * turn - 2]]
        is_english = reference.languages[number] == LANGUAGE
        by_dialogue[number].append(
            _Asked(
                one.text, before[::2], before[1::2], reference.intent(number), is_english, is_beside
            )
        )
    return [
        # A sum over a dialogue with a missing place would count it as a question that is not one.
        _measure(asked) | {"context_dependent": _dependent(asked, is_english and is_whole)}
        for asked, is_english, is_whole in zip(
            by_dialogue,
            (language == LANGUAGE for language in reference.languages),
            (bool(places) and all(places) for places in known),
            strict=True,
        )
    ]


def _dependent(asked: Sequence[_Asked], is_counted: bool) -> Amount:
    number = sum(one.is_beside and one.rule is not None for one in asked)
    return Amount(number if is_counted else 0, is_counted)


def _measure(asked: Sequence[_Asked]) -> dict[str, Amount]:
    texts = [one.text for one in asked]
    words = [one.words for one in asked]
    english = [one for one in asked if one.is_english]
    all_words = [word for some in words for word in some]
    rouge = self_rouge(words)

    def whole(value: float | None) -> Amount:
        return Amount(value or 0.0, value is not None)

    return {
        "words": Amount(sum(len(text.split()) for text in texts), len(texts)),
        "pronouns": _share(english, lambda one: has_pronoun(one.words)),
        "ellipsis": _share(english, lambda one: is_elliptical(one.words)),
        "thanks": Amount(sum(map(says_thanks, texts)), len(texts)),
        "repeats": _share(asked, lambda one: repeats(one.text, one.questions)),
        "answer_like": _share(asked, _is_like_an_answer),
        "topic_shifts": _share(asked, _shifts),
        "intent_overlap": _share(asked, lambda one: overlap_with(one.intent, one.text)),
        "self_rouge": whole(rouge),
        "mattr": whole(mattr(all_words)),
        "hdd": whole(hdd(all_words)),
    }


def _share(asked: Sequence[_Asked], value_of: Callable[[_Asked], float | None]) -> Amount:
    values = [value for one in asked if (value := value_of(one)) is not None]
    return Amount(sum(values), len(values))


def _is_like_an_answer(one: _Asked) -> bool:
    copied = one.answers if len(one.text.split()) >= _FEWEST_COPIED_WORDS else ()
    return answers_like_an_assistant(one.text) or repeats(one.text, copied)


def _shifts(one: _Asked) -> bool | None:
    return shifts_topic(
        one.text, [*one.questions, *one.answers], needs_context=one.rule is not None
    )
