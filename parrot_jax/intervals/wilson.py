"""Confidence intervals of shares."""

import math

_Z = 1.959963984540054
"""The standard normal quantile at 0.975."""


def share_interval(successes: int, trials: int) -> tuple[float, float]:
    """Returns the 95 % Wilson score interval of a share.

    Unlike the normal approximation, it stays within [0, 1] and has a width above 0 even if all or
    no trials succeed. The trials must be independent; answers of one dialogue are not.

    >>> low, high = share_interval(8, 10)
    >>> round(low, 4), round(high, 4)
    (0.4902, 0.9433)

    Args:
      successes: From 0 to `trials`.
      trials: At least 1.

    Raises:
      ValueError: A count is out of its range.

    Source: E. B. Wilson, Probable inference, the law of succession, and statistical inference,
      JASA 22 (1927); recommended by Brown, Cai and DasGupta, Statistical Science 16 (2001).
    """
    if not 0 <= successes <= trials or trials < 1:
        raise ValueError(f"{successes} of {trials} is invalid; give 0 <= successes <= trials.")
    share, spread = successes / trials, _Z**2 / trials
    centre = (share + spread / 2) / (1 + spread)
    half = math.sqrt(spread * (share * (1 - share) + spread / 4)) / (1 + spread)
    # Rounding would move these ends slightly inside 0 and 1.
    return (
        centre - half if successes else 0.0,
        centre + half if successes < trials else 1.0,
    )
