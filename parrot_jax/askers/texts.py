"""Measures of one question in its dialogue. English word lists where it says so."""

import functools
from collections.abc import Collection, Sequence

from parrot_jax.dialogue.repeats import comparable, most_similar
from parrot_jax.dialogue.words import normal_words
from parrot_jax.stats.measures import NEAR_REPEAT

MOST_CHARS = 8_000
"""Characters of a question that are measured; people paste whole books."""


def content_words(text: str) -> set[str]:
    """The words of a text without English stop words.

    >>> sorted(content_words("What is the capital of Oria?"))
    ['capital', 'oria']
    """
    return set(normal_words(text[:MOST_CHARS])) - _stop_words()


@functools.cache
def _stop_words() -> frozenset[str]:
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

    return ENGLISH_STOP_WORDS


def overlap_with(intent: str, text: str) -> float | None:
    """The share of a question's content words that are also in the intent.

    A user who repeats the task in every question has a high share; people reveal what they want
    bit by bit, and take up words of the answers.

    >>> overlap_with("Where is Oria?", "And how long is the river of Oria?")
    0.3333333333333333

    Returns:
      In [0, 1]; None for a question without content words.

    Source: intent decomposition in T. Naous et al., Flipping the dialogue: training and evaluating
      user language models, 2025.
    """
    words = content_words(text)
    return len(words & content_words(intent)) / len(words) if words else None


def shifts_topic(text: str, earlier: Sequence[str], *, needs_context: bool) -> bool | None:
    """Whether a question begins a new topic: it has no content word of any earlier turn.

    Args:
      text: The question.
      earlier: All earlier turns of the dialogue.
      needs_context: Whether the question refers to the dialogue, which is no new topic.

    Returns:
      None for a question without content words that does not need its context.

    >>> turns = ["Where is Oria?", "In the north."]
    >>> shifts_topic("How do I bake bread?", turns, needs_context=False)
    True
    >>> shifts_topic("Is the north cold?", turns, needs_context=False)
    False
    """
    if needs_context:
        return False
    words = content_words(text)
    if not words:
        return None
    return all(words.isdisjoint(content_words(turn)) for turn in earlier)


def repeats(text: str, earlier: Collection[str]) -> bool:
    """Whether a question repeats an earlier turn, exactly or nearly.

    >>> repeats("Where is ORIA?", ["Where is Oria"]), repeats("Where is Oria?", ["In the north."])
    (True, False)
    """
    return most_similar(comparable(text), [*map(comparable, earlier)], NEAR_REPEAT) > 0
