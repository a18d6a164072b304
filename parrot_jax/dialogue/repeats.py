"""Whether a question was asked before in its dialogue."""

from collections.abc import Sequence

from parrot_jax.dialogue.words import words_and_signs

MOST_CHARS = 20_000
"""Of a longer text, the first and the last half of so many characters are compared: the time of a
comparison is that of the product of both lengths."""


def comparable(text: str) -> str:
    """A text without case and the punctuation of prose; one that has nothing else stays as it is.

    >>> comparable("Make it SHORT!"), comparable("In C++, 3-4?"), comparable("?!")
    ('make it short', 'in c + + 3 - 4', '?!')
    """
    if len(text) > MOST_CHARS:
        text = f"{text[: MOST_CHARS // 2]} {text[-MOST_CHARS // 2 :]}"
    return " ".join(words_and_signs(text)) or text


def most_similar(text: str, earlier: Sequence[str], threshold: float) -> float:
    """The similarity to the most similar of the earlier texts, from the threshold on; else 0.

    It is 100 times the share of characters that stay if one text is turned into the other. Texts
    with other numbers or signs are not similar: one of them is in C and the other in C++.

    >>> most_similar("make it short", ["hello", "make it short"], 95.0)
    100.0

    Args:
      text: From `comparable`.
      earlier: As well.
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
