"""Whether a question was asked before in its dialogue."""

from collections.abc import Sequence

from parrot_jax.dialogue.words import normal_words


def most_similar(text: str, earlier: Sequence[str], threshold: float) -> float:
    """The similarity to the most similar of the earlier texts, from the threshold on; else 0.

    It is 100 times the share of characters that stay if one text is turned into the other, after
    case and punctuation are gone.

    >>> most_similar("Make it short!", ["Hello", "make it short"], 95.0)
    100.0
    """
    from rapidfuzz import fuzz, process

    words = " ".join(normal_words(text)) or text
    others = [" ".join(normal_words(other)) or other for other in earlier]
    found = process.extractOne(words, others, scorer=fuzz.ratio, score_cutoff=threshold)
    return found[1] if found is not None else 0.0
