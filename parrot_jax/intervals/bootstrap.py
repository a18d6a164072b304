"""Bootstrap confidence intervals of ratios of sums over sessions."""

import numpy as np
from jaxtyping import Float64
from scipy import stats

RESAMPLES = 1000


def ratio_intervals(
    numerators: Float64[np.ndarray, "sessions measures"],
    denominators: Float64[np.ndarray, "sessions measures"],
    *,
    level: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Float64[np.ndarray, "measures 2"]:
    """Returns the bootstrap intervals of ratios of sums, one per column.

    Whole sessions are resampled (cluster bootstrap), because questions of one session are more
    alike than those of different ones. For a mean over sessions, the denominators are 1; for a
    share of questions, they are the numbers of questions.

    The percentiles are moved outwards by as much as Student's t is wider than the normal
    distribution (the expanded percentile interval), because plain percentiles cover too rarely with
    few sessions. See docs/benchmarks/intervals.md for the coverage.

    Args:
      numerators: The sum of each session.
      denominators: The count of each session, >= 0.
      level: The probability that an interval covers the true ratio, in (0, 1).
      resamples: Number of resamples, >= 1; with a level above 0.99 use 10,000.
      seed: Equal seeds give equal intervals.

    Returns:
      Lower and upper ends; NaN if fewer than two sessions have a count above 0.

    Source: B. Efron, Bootstrap methods: another look at the jackknife, 1979; the cluster bootstrap
      of A. C. Davison and D. V. Hinkley, Bootstrap methods and their application, section 3.8;
      T. C. Hesterberg, What teachers should know about the bootstrap, 2015, section 5.3.
    """
    num_sessions, num_measures = numerators.shape
    ends = np.full((num_measures, 2), np.nan)
    sizes = np.count_nonzero(denominators, axis=0)
    counted = sizes > 1
    if not counted.any():
        return ends
    random = np.random.default_rng(seed)
    both = np.concatenate([numerators[:, counted], denominators[:, counted]], axis=1)
    sums = np.empty((resamples, both.shape[1]))
    for row in range(resamples):
        drawn = np.bincount(
            random.integers(num_sessions, size=num_sessions), minlength=num_sessions
        )
        sums[row] = drawn @ both
    above, below = np.split(sums, 2, axis=1)
    # If few sessions have a count, a resample may contain none of them; it is ignored.
    ratios = np.divide(above, below, out=np.full_like(above, np.nan), where=below > 0)
    for place, size, column in zip(np.flatnonzero(counted), sizes[counted], ratios.T, strict=True):
        tail = _expanded_tail((1 - level) / 2, int(size))
        ends[place] = np.nanquantile(column, [tail, 1 - tail])
    return ends


def interval_of(
    resampled: Float64[np.ndarray, " resamples"], size: int, *, level: float = 0.95
) -> tuple[float, float] | tuple[None, None]:
    """Returns the interval of a statistic whose values on resamples are known.

    Args:
      resampled: One value per resample; NaN = the resample has none.
      size: Number of sessions that were resampled.
      level: The probability that the interval covers the true value, in (0, 1).

    Returns:
      Lower and upper end, as in `ratio_intervals`; None if all resamples are equal or there are
      fewer than two sessions: no variation was seen, which says nothing.
    """
    found = resampled[~np.isnan(resampled)]
    if size < 2 or not len(found) or found.min() == found.max():
        return None, None
    tail = _expanded_tail((1 - level) / 2, size)
    low, high = np.quantile(found, [tail, 1 - tail])
    return float(low), float(high)


def _expanded_tail(tail: float, size: int) -> float:
    """Returns the percentile to use instead of `tail`, for a sample of this size."""
    quantile = stats.t.ppf(tail, size - 1) * np.sqrt(size / (size - 1))
    return float(stats.norm.cdf(quantile))
