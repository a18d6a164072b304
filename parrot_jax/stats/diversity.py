"""How much the questions of a session repeat each other, and how rich their words are."""

import itertools
from collections.abc import Iterable, Sequence

MOST_WORDS = 10_000
"""So many words of a question are compared with others: the time is that of the product of both
lengths, and people paste whole books."""

MTLD_THRESHOLD = 0.72
"""The ratio of different words to words at which a factor ends; the authors' own choice."""


def self_rouge(questions: Sequence[Sequence[str]]) -> float | None:
    """The mean ROUGE-L of each question to the other questions of its session.

    ROUGE-L is the F measure (beta 1) of the longest common subsequence of words. As it is
    symmetric, the mean over questions of the mean over the others is the mean over pairs.

    >>> self_rouge([["make", "it", "short"], ["make", "it", "blue"], ["why"]])
    0.2222222222222222

    Args:
      questions: The words of each, from `normal_words`; the first `MOST_WORDS` count.

    Returns:
      In [0, 1]; None for fewer than two questions. The papers print 100 times as much.

    Source: C.-Y. Lin, ROUGE: a package for automatic evaluation of summaries, 2004. The papers do
      not say how they apply it to a session: the form is ours.
    """
    from rapidfuzz.distance import LCSseq

    if len(questions) < 2:
        return None
    # Numbers compare without the chance that two words have one hash.
    ids: dict[str, int] = {}
    coded = [[ids.setdefault(word, len(ids)) for word in words[:MOST_WORDS]] for words in questions]
    scores = [
        2 * LCSseq.similarity(one, other) / (len(one) + len(other)) if one and other else 0.0
        for one, other in itertools.combinations(coded, 2)
    ]
    return sum(scores) / len(scores)


def mtld(words: Sequence[str]) -> float | None:
    """The measure of textual lexical diversity: the mean length of runs that stay rich in words.

    A factor ends with the word at which the share of different words falls below the threshold;
    what is left at the end counts in part: (1 - share) / (1 - threshold). The words divided by the
    factors are averaged over both directions. A text without any repeated word has no factor, and
    counts as one of its own length: so questions of a few words mostly measure their length.

    >>> mtld("a b c a b c".split())  # both ways: 1 factor after 5 words; "c" left counts nothing
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
