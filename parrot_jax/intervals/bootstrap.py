"""Bootstrap confidence intervals of ratios of sums over sessions."""

import numpy as np
from jaxtyping import Float64

RESAMPLES = 1000


def ratio_intervals(
    numerators: Float64[np.ndarray, "sessions measures"],
    denominators: Float64[np.ndarray, "sessions measures"],
    *,
    seed: int = 0,
) -> Float64[np.ndarray, "measures 2"]:
    """Returns the 95 % percentile bootstrap intervals of ratios of sums, one per column.

    Whole sessions are resampled (cluster bootstrap), because questions of one session are more
    alike than those of different ones. For a mean over sessions, the denominators are 1; for a
    share of questions, they are the numbers of questions.

    Args:
      numerators: The sum of each session.
      denominators: The count of each session, >= 0.
      seed: Equal seeds give equal intervals.

    Returns:
      Lower and upper ends; NaN if fewer than two sessions have a count above 0.

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
    # If few sessions have a count, a resample may contain none of them; it is ignored.
    ratios = np.divide(above, below, out=np.full_like(above, np.nan), where=below > 0)
    ends[counted] = np.nanquantile(ratios, [0.025, 0.975], axis=0).T
    return ends
