"""A classifier that tells two kinds of texts apart, by character n-grams.

It is told to separate an asker's questions from people's (naturalness), and people's answers from
their questions (role drift). Each dialogue is scored by a classifier that has not seen it.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64, Int64

from parrot_jax.intervals.bootstrap import RESAMPLES, interval_of

FOLDS = 5
MOST_CHARS = 2_000
"""Characters of a text that the classifier sees."""
_NGRAMS = (1, 4)
_MOST_NGRAMS = 50_000


def held_out_scores(
    texts: Sequence[str],
    is_positive: Bool[np.ndarray, " texts"],
    dialogues: Int64[np.ndarray, " texts"],
) -> Float64[np.ndarray, " texts"] | None:
    """Scores each text by a classifier that was trained on other dialogues.

    Logistic regression on TF-IDF of character n-grams of 1 to 4 letters within words, with classes
    of equal weight.

    Args:
      texts: The texts.
      is_positive: Their class.
      dialogues: Texts of the same dialogue are in the same of the `FOLDS` folds.

    Returns:
      Higher = more like the positive class, 0 = undecided; None with fewer than `FOLDS` dialogues,
      or if a training set has one class only.
    """
    from sklearn.model_selection import GroupKFold

    scores = np.zeros(len(texts))
    if len(np.unique(dialogues)) < FOLDS:
        return None
    cut = [text[:MOST_CHARS] for text in texts]
    for train, test in GroupKFold(FOLDS).split(cut, groups=dialogues):
        if len(np.unique(is_positive[train])) < 2:
            return None
        model = train_classifier([cut[n] for n in train], is_positive[train])
        scores[test] = model.decision_function([cut[n] for n in test])
    return scores


def train_classifier(texts: Sequence[str], is_positive: Bool[np.ndarray, " texts"]) -> Any:
    """Trains the classifier of `held_out_scores`.

    Returns:
      An object with `decision_function(texts)`.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    vectors = TfidfVectorizer(
        analyzer="char_wb", ngram_range=_NGRAMS, max_features=_MOST_NGRAMS, sublinear_tf=True
    )
    classes = LogisticRegression(C=10.0, class_weight="balanced", max_iter=1000)
    return make_pipeline(vectors, classes).fit(texts, is_positive)


def auc(
    scores: Float64[np.ndarray, " texts"], is_positive: Bool[np.ndarray, " texts"]
) -> float | None:
    """The probability that a positive text scores higher than a negative one; a tie counts half.

    >>> auc(np.array([3.0, 1.0, 2.0, 0.0]), np.array([True, True, False, False]))
    0.75

    Returns:
      In [0, 1]; None if a class is empty.
    """
    return _weighted_auc(scores, is_positive, np.ones(len(scores)))


def _weighted_auc(
    scores: Float64[np.ndarray, " texts"],
    is_positive: Bool[np.ndarray, " texts"],
    weights: Float64[np.ndarray, " texts"],
) -> float | None:
    _, place = np.unique(scores, return_inverse=True)
    positive = np.bincount(place, weights * is_positive)
    negative = np.bincount(place, weights * ~is_positive)
    pairs = positive.sum() * negative.sum()
    if not pairs:
        return None
    below = negative.cumsum() - negative
    return float((positive * (below + negative / 2)).sum() / pairs)


def auc_with_interval(
    scores: Float64[np.ndarray, " texts"],
    is_positive: Bool[np.ndarray, " texts"],
    dialogues: Int64[np.ndarray, " texts"],
    *,
    seed: int = 0,
) -> tuple[float, float | None, float | None] | None:
    """The AUC with its 95 % bootstrap interval over dialogues, for the trained classifiers.

    Returns:
      Value and ends; None if a class is empty.
    """
    value = auc(scores, is_positive)
    if value is None:
        return None
    _, owner = np.unique(dialogues, return_inverse=True)
    size = int(owner.max()) + 1
    random = np.random.default_rng(seed)
    resampled = np.full(RESAMPLES, np.nan)
    for number in range(RESAMPLES):
        counts = np.bincount(random.integers(size, size=size), minlength=size)
        found = _weighted_auc(scores, is_positive, counts[owner].astype(np.float64))
        resampled[number] = np.nan if found is None else found
    low, high = interval_of(resampled, size)
    return value, low, high
