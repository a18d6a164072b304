"""Similarity of a question to earlier ones of its dialogue."""

from collections.abc import Sequence

from parrot_jax.dialogue.words import words_and_signs

MOST_CHARS = 20_000
"""Limit for a comparison, whose time is the product of both lengths. Of a longer text, the first
and the last half of this many characters are compared."""


def comparable(text: str) -> str:
    """A text without case and punctuation; a text of punctuation only is unchanged.

    >>> comparable("Make it SHORT!"), comparable("In C++, 3-4?"), comparable("?!")
    ('make it short', 'in c + + 3 - 4', '?!')
    """
    if len(text) > MOST_CHARS:
        text = f"{text[: MOST_CHARS // 2]} {text[-MOST_CHARS // 2 :]}"
    return " ".join(words_and_signs(text)) or text


def most_similar(text: str, earlier: Sequence[str], threshold: float) -> float:
    """The highest similarity to an earlier text if it reaches the threshold; else 0.

    It is 100 times the share of characters kept when one text is edited into the other. Texts with
    different numbers or symbols are not similar, e.g. C and C++.

    >>> most_similar("make it short", ["hello", "make it short"], 95.0)
    100.0

    Args:
      text: From `comparable`.
      earlier: From `comparable`.
      threshold: In (0, 100].
    """
    from rapidfuzz import fuzz, process

    exact = _numbers_and_signs(text)
    alike = [other for other in earlier if _numbers_and_signs(other) == exact]
    found = process.extractOne(text, alike, scorer=fuzz.ratio, score_cutoff=threshold)
    return found[1] if found is not None else 0.0


def _numbers_and_signs(text: str) -> list[str]:
    words = text.split()
    return [w for w in words if any(map(str.isdigit, w)) or not any(map(str.isalpha, w))]
