"""How far means over sessions may be from the true ones, by drawing the sessions again."""

import numpy as np
from jaxtyping import Float64

RESAMPLES = 1000


def ratio_intervals(
    numerators: Float64[np.ndarray, "sessions measures"],
    denominators: Float64[np.ndarray, "sessions measures"],
    *,
    seed: int = 0,
) -> Float64[np.ndarray, "measures 2"]:
    """The 95 % percentile bootstrap intervals of sums divided by sums, one a column.

    Whole sessions are drawn with replacement, so that the questions of one stay together: they
    are more alike than those of different sessions. A mean over sessions has 1 as denominator, a
    share of questions has the number of questions.

    Args:
      numerators: What each session adds to the sum.
      denominators: What it adds to the count, >= 0.
      seed: Equal seeds give equal intervals.

    Returns:
      Lower and upper ends; NaN where there are fewer than two sessions that count at all.

    Source: B. Efron, Bootstrap methods: another look at the jackknife, 1979; the cluster bootstrap
      of A. C. Davison and D. V. Hinkley, Bootstrap methods and their application, section 3.8.
    """
    num_sessions, num_measures = numerators.shape
    ends = np.full((num_measures, 2), np.nan)
    counted = np.count_nonzero(denominators, axis=0) > 1
    if not counted.any():
        return ends
    random = np.random.default_rng(seed)
    both = np.concatenate([numerators[:, counted], denominators[:, counted]], axis=1)
    sums = np.empty((RESAMPLES, both.shape[1]))
    for row in range(RESAMPLES):
        drawn = np.bincount(
            random.integers(num_sessions, size=num_sessions), minlength=num_sessions
        )
        sums[row] = drawn @ both
    above, below = np.split(sums, 2, axis=1)
    # Where few sessions count, a drawing may hold none of them: it says nothing.
    ratios = np.divide(above, below, out=np.full_like(above, np.nan), where=below > 0)
    ends[counted] = np.nanquantile(ratios, [0.025, 0.975], axis=0).T
    return ends
