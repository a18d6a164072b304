"""Intervals of means whose observations share a cluster and a rater: judgments of dialogues.

Two people who judge the same dialogue agree more than chance, and so do two judgments of one
person. Both are samples: the interval is for other dialogues judged by other people.
"""

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64, Int64
from scipy import stats


class CrossedMean(NamedTuple):
    """A mean, or a difference of means, and its uncertainty."""

    mean: float
    variance: float
    """The square of the standard error; NaN with fewer than two clusters."""
    freedom: float
    """Degrees of freedom of the variance, >= 1; NaN with fewer than two clusters."""
    clusters: int
    raters: int

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """The t interval.

        Both ends are NaN with fewer than two clusters, and if all clusters and raters have the same
        mean: that does not tell how much others would differ.
        """
        if self.variance == 0:
            return math.nan, math.nan
        half = self._quantile(level) * math.sqrt(self.variance)
        return self.mean - half, self.mean + half

    def share_interval(self, level: float = 0.95) -> tuple[float, float]:
        """The interval of a share; unlike the t interval, it stays within [0, 1].

        It is Wilson's score interval with Student's t, for as many independent trials as would have
        the same variance. If all observations are equal, each cluster counts as one trial.

        Source: E. L. Korn and B. I. Graubard, Confidence intervals for proportions with small
          expected number of positive counts estimated from survey data, 1998 (the number of
          trials); N. Dean and M. Pagano, Evaluating confidence interval methods for binomial
          proportions in clustered surveys, 2015 (Wilson's interval with that number).
        """
        share = self.mean
        if math.isnan(self.variance):
            return math.nan, math.nan
        trials = share * (1 - share) / self.variance if self.variance > 0 else float(self.clusters)
        spread = self._quantile(level) ** 2 / trials
        centre = (share + spread / 2) / (1 + spread)
        half = math.sqrt(spread * (share * (1 - share) + spread / 4)) / (1 + spread)
        # Rounding would move the ends slightly outside.
        return max(centre - half, 0.0), min(centre + half, 1.0)

    def _quantile(self, level: float) -> float:
        return float(stats.t.ppf((1 + level) / 2, self.freedom))


class Observations(NamedTuple):
    """Values with the cluster and the rater of each."""

    clusters: Int64[np.ndarray, "n"]
    """Any numbers; equal ones are the same cluster."""
    raters: Int64[np.ndarray, "n"]
    values: Float64[np.ndarray, "n"]


class _Parts(NamedTuple):
    """The parts of the variance of one mean."""

    mean: float
    by_cluster: Float64[np.ndarray, "clusters"]
    """The sum of the deviations from the mean, over the number of observations."""
    by_rater: dict[int, float]
    interaction: float
    """The variance that `by_cluster` and `by_rater` both contain."""
    interaction_freedom: int


def crossed_mean(observed: Observations) -> CrossedMean:
    """The mean over at least one observation, for random clusters and random raters.

    The variance is V(clusters) + V(raters) - V(interaction), each from sums of deviations, where
    the interaction is what remains after the effects of clusters and raters; it is in both other
    terms. The degrees of freedom are Satterthwaite's. With one rater, only clusters are random.

    Source: A. C. Cameron, J. B. Gelbach and D. L. Miller, Robust inference with multiway
      clustering, 2011 (sums over two ways); S. L. Hillis, A comparison of denominator degrees of
      freedom methods for multiple observer ROC analysis, 2007 (few observers, never less than the
      variance over clusters). docs/benchmarks/annotation.md has the coverage.
    """
    parts = _parts(observed)
    return _combined(parts.mean, [parts], parts.by_rater)


def crossed_difference(first: Observations, second: Observations) -> CrossedMean:
    """The mean of `second` minus that of `first`: different clusters, judged by the same raters.

    A rater who is strict with both moves both means, and hardly their difference.
    """
    one, other = _parts(first), _parts(second)
    raters = {
        rater: other.by_rater.get(rater, 0.0) - one.by_rater.get(rater, 0.0)
        for rater in {**one.by_rater, **other.by_rater}
    }
    return _combined(other.mean - one.mean, [one, other], raters)


def uniform_difference_interval(first: CrossedMean, second: CrossedMean) -> tuple[float, float]:
    """The 95 % interval of `second` minus `first`, for shares whose observations are all equal.

    Their variance is 0, so `CrossedMean.interval` has no width to go by; the score interval of each
    share has one.

    Source: R. G. Newcombe, Interval estimation for the difference between independent proportions,
      1998, method 10.
    """
    (low, high), (other_low, other_high) = first.share_interval(), second.share_interval()
    difference = second.mean - first.mean
    below = math.hypot(second.mean - other_low, high - first.mean)
    above = math.hypot(other_high - second.mean, first.mean - low)
    return difference - below, difference + above


def _parts(observed: Observations) -> _Parts:
    _, rows = np.unique(observed.clusters, return_inverse=True)
    names, columns = np.unique(observed.raters, return_inverse=True)
    shape = rows.max() + 1, len(names)
    mean = float(observed.values.mean())
    sums, counts = np.zeros(shape), np.zeros(shape)
    np.add.at(sums, (rows, columns), observed.values - mean)
    np.add.at(counts, (rows, columns), 1.0)
    num = len(rows)
    rest, freedom = _interaction(sums, counts)
    interaction = 0.0
    if freedom > 0:
        interaction = float((rest**2).sum()) / num**2 * np.count_nonzero(counts) / freedom
    by_rater = (sums.sum(axis=0) / num).tolist()
    return _Parts(
        mean=mean,
        by_cluster=sums.sum(axis=1) / num,
        by_rater=dict(zip(names.tolist(), by_rater, strict=True)),
        interaction=interaction,
        interaction_freedom=freedom,
    )


def _interaction(
    sums: Float64[np.ndarray, "clusters raters"], counts: Float64[np.ndarray, "clusters raters"]
) -> tuple[Float64[np.ndarray, "clusters raters"], int]:
    """What remains of the sums after fitting effects of clusters and raters, and its freedom."""
    per_row = counts.sum(axis=1, keepdims=True)
    shares = counts / per_row
    normal = np.diag(counts.sum(axis=0)) - counts.T @ shares
    effects = np.linalg.pinv(normal, hermitian=True) @ (
        sums.sum(axis=0) - shares.T @ sums.sum(axis=1)
    )
    rows = (sums.sum(axis=1, keepdims=True) - counts @ effects[:, None]) / per_row
    rest = sums - counts * (rows + effects)
    rank = np.linalg.matrix_rank(normal, hermitian=True)
    return rest, int(np.count_nonzero(counts) - len(counts) - rank)


def _combined(mean: float, parts: list[_Parts], by_rater: dict[int, float]) -> CrossedMean:
    clusters, raters = sum(len(part.by_cluster) for part in parts), len(by_rater)
    if min(len(part.by_cluster) for part in parts) < 2:
        return CrossedMean(mean, math.nan, math.nan, clusters, raters)
    terms = [_of_sums(part.by_cluster) for part in parts]
    variance = of_clusters = sum(term for term, _ in terms)
    if raters > 1:
        of_raters = _of_sums(np.array([*by_rater.values()]))
        # Without a second judgment of anything, noise cannot be told from differences.
        shared = [
            (part.interaction, part.interaction_freedom)
            for part in parts
            if part.interaction_freedom > 0
        ]
        both = of_clusters + of_raters[0] - sum(term for term, _ in shared)
        # Raters who differ no more than noise does add nothing.
        if both > of_clusters:
            variance = max(both, of_raters[0])
            terms += [of_raters, *shared]
    # Satterthwaite's degrees of freedom.
    below = sum(term**2 / freedom for term, freedom in terms)
    least = float(min(freedom for _, freedom in terms))
    freedom = max(variance**2 / below, least) if below > 0 else least
    return CrossedMean(mean, variance, freedom, clusters, raters)


def _of_sums(sums: Float64[np.ndarray, "groups"]) -> tuple[float, int]:
    """The variance of the total of independent sums, and its degrees of freedom."""
    num = len(sums)
    return float((sums**2).sum()) * num / (num - 1), num - 1
