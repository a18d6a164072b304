"""Diversity of the questions at one turn of different dialogues."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float64

from parrot_jax.askers.texts import MOST_CHARS
from parrot_jax.dialogue.words import words_and_signs
from parrot_jax.intervals.bootstrap import RESAMPLES, interval_of

MOST_QUESTIONS = 2000
"""Questions that are compared with each other."""


def similarities(texts: Sequence[str]) -> Float64[np.ndarray, "texts texts"]:
    """The Jaccard similarity of the words of each pair of texts.

    It is the number of common words by the number of different words of both; two texts without
    words are equal.

    >>> similarities(["a b", "b c", "a b"])[0].round(4).tolist()
    [1.0, 0.3333, 1.0]
    """
    from scipy.sparse import csr_array

    words: dict[str, int] = {}
    sets = [{words.setdefault(word, len(words)) for word in _words(text)} for text in texts]
    rows = np.repeat(np.arange(len(texts)), [len(one) for one in sets])
    columns = np.array([word for one in sets for word in one], dtype=np.int64)
    shape = (len(texts), max(len(words), 1))
    has = csr_array((np.ones(len(columns)), (rows, columns)), shape=shape)
    common = (has @ has.T).toarray()
    sizes = np.array([len(one) for one in sets], dtype=np.float64)
    different = sizes[:, None] + sizes[None, :] - common
    return np.divide(common, different, out=np.ones_like(common), where=different > 0)


def _words(text: str) -> list[str]:
    return words_and_signs(text[:MOST_CHARS])


def diversity(
    texts: Sequence[str], *, seed: int = 0
) -> tuple[float, float | None, float | None] | None:
    """1 minus the mean similarity of pairs of questions, with its 95 % interval.

    >>> diversity(["a b", "b c", "c d"])[0]  # two pairs share one word of three, one pair none
    0.7777777777777778

    Args:
      texts: One question of each dialogue; the first `MOST_QUESTIONS` are compared.
      seed: Of the bootstrap over dialogues.

    Returns:
      The value in [0, 1] and the ends of the interval; None for fewer than two texts.

    Source: first-turn diversity in T. Naous et al., Flipping the dialogue: training and evaluating
      user language models, 2025.
    """
    if len(texts) < 2:
        return None
    alike = similarities(texts[:MOST_QUESTIONS])
    size = len(alike)
    np.fill_diagonal(alike, 0.0)

    def value(counts: Float64[np.ndarray, " texts"]) -> float:
        # Pairs of a question with its own copy in a resample are no pairs.
        pairs = counts.sum() ** 2 - (counts**2).sum()
        return float(1 - counts @ alike @ counts / pairs) if pairs else float("nan")

    random = np.random.default_rng(seed)
    resampled = np.array([
        value(np.bincount(random.integers(size, size=size), minlength=size).astype(np.float64))
        for _ in range(RESAMPLES)
    ])  # fmt: skip
    low, high = interval_of(resampled, size)
    return value(np.ones(size)), low, high
