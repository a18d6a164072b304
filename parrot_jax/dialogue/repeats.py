"""Similarity of a question to earlier ones of its dialogue, and of two answers."""

from collections.abc import Sequence

from parrot_jax.dialogue.words import words_and_signs

MOST_CHARS = 20_000
"""Limit for a comparison, whose time is the product of both lengths. Of a longer text, the first
and the last half of this many characters are compared."""

MOST_WORDS = 10_000
"""Limit on the words of a text for ROUGE-L, for the same reason: people paste whole books."""


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


def rouge_l(one: Sequence[str], other: Sequence[str]) -> float:
    """The F measure (beta 1) of the longest common subsequence of two lists of words.

    >>> rouge_l(["make", "it", "short"], ["make", "it", "blue"])
    0.6666666666666666

    Args:
      one: Words, from `normal_words`; only the first `MOST_WORDS` are used.
      other: The same.

    Returns:
      In [0, 1]; 0 if a text has no words.

    Source: C.-Y. Lin, ROUGE: a package for automatic evaluation of summaries, 2004.
    """
    from rapidfuzz.distance import LCSseq

    # Ids, since rapidfuzz compares words by hash, which can collide.
    ids: dict[str, int] = {}
    first, second = (
        [ids.setdefault(word, len(ids)) for word in words[:MOST_WORDS]] for words in (one, other)
    )
    if not first or not second:
        return 0.0
    return 2 * LCSseq.similarity(first, second) / (len(first) + len(second))


def _numbers_and_signs(text: str) -> list[str]:
    words = text.split()
    return [w for w in words if any(map(str.isdigit, w)) or not any(map(str.isalpha, w))]
