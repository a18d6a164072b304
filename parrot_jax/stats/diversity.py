"""Similarity of a session's questions (Self-ROUGE), and lexical diversity: MTLD, MATTR, HD-D."""

import itertools
from collections import Counter
from collections.abc import Iterable, Sequence

from scipy.stats import hypergeom

from parrot_jax.dialogue.repeats import rouge_l

MTLD_THRESHOLD = 0.72
"""The type-token ratio at which a factor ends, from the authors."""

MATTR_WINDOW = 50
"""Words of a window."""

HDD_DRAWS = 42
"""Words of a random draw, from the authors; 35 to 50 are usual."""


def self_rouge(questions: Sequence[Sequence[str]]) -> float | None:
    """Returns the mean ROUGE-L of each question with the other questions of its session.

    ROUGE-L is the F measure (beta 1) of the longest common subsequence of words. It is symmetric,
    so the mean over questions of the mean over the others is the mean over pairs.

    >>> self_rouge([["make", "it", "short"], ["make", "it", "blue"], ["why"]])
    0.2222222222222222

    Args:
      questions: The words of each, from `normal_words`.

    Returns:
      In [0, 1]; None for fewer than two questions. The papers print it times 100.

    Source: C.-Y. Lin, ROUGE: a package for automatic evaluation of summaries, 2004. The papers do
    not define it for a session; this definition is ours.
    """
    if len(questions) < 2:
        return None
    scores = [rouge_l(one, other) for one, other in itertools.combinations(questions, 2)]
    return sum(scores) / len(scores)


def mtld(words: Sequence[str]) -> float | None:
    """Returns the measure of textual lexical diversity: mean length of runs of varied words.

    A factor ends with the word at which the share of distinct words falls below the threshold; the
    rest counts as a partial factor: (1 - share) / (1 - threshold). The number of words per factor
    is averaged over both directions. A text without repeated words has no factor and scores its
    length, so for short questions MTLD mostly measures length.

    >>> mtld("a b c a b c".split())  # both ways: 1 factor after 5 words; the rest "c" adds 0
    6.0

    Returns:
      At least 1; None for a text without words.

    Source: P. M. McCarthy and S. Jarvis, MTLD, vocd-D, and HD-D, Behavior Research Methods 42
      (2010).
    """
    if not words:
        return None
    return (_one_way(words) + _one_way(reversed(words))) / 2


def _one_way(words: Iterable[str]) -> float:
    factors, length, total, seen = 0.0, 0, 0, set[str]()
    for word in words:
        seen.add(word)
        length += 1
        total += 1
        if len(seen) / length < MTLD_THRESHOLD:
            factors, length = factors + 1, 0
            seen.clear()
    if length:
        factors += (1 - len(seen) / length) / (1 - MTLD_THRESHOLD)
    return total / factors if factors else float(total)


def mattr(words: Sequence[str], window: int = MATTR_WINDOW) -> float | None:
    """Returns the moving-average type-token ratio: the mean share of distinct words in a window.

    Unlike the plain ratio it does not depend on the length of the text.

    >>> mattr("a b a a".split(), window=2)  # windows: a b, b a, a a
    0.8333333333333334

    Args:
      words: The words of a text.
      window: Words of a window, >= 1.

    Returns:
      In (0, 1]; None for a text shorter than a window.

    Source: M. A. Covington and J. D. McFall, Cutting the Gordian knot: the moving-average
      type-token ratio, Journal of Quantitative Linguistics 17 (2010).
    """
    if len(words) < window:
        return None
    counts = Counter(words[:window])
    total = len(counts)
    for leaving, coming in zip(words, words[window:], strict=False):
        counts[coming] += 1
        counts[leaving] -= 1
        if not counts[leaving]:
            del counts[leaving]
        total += len(counts)
    return total / ((len(words) - window + 1) * window)


def hdd(words: Sequence[str], draws: int = HDD_DRAWS) -> float | None:
    """Returns HD-D: the expected share of distinct words in a random draw without replacement.

    >>> hdd("a b".split(), draws=1), hdd("a a b".split(), draws=2)
    (1.0, 0.8333333333333334)

    Args:
      words: The words of a text.
      draws: Words of a draw, >= 1.

    Returns:
      In (0, 1]; None for a text with fewer words than a draw.

    Source: P. M. McCarthy and S. Jarvis, MTLD, vocd-D, and HD-D, Behavior Research Methods 42
      (2010).
    """
    if len(words) < draws:
        return None
    # The probability that a word is in the draw, summed over words.
    missing = hypergeom.pmf(0, len(words), [*Counter(words).values()], draws)
    return float((1 - missing).sum()) / draws
