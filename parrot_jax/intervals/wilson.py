"""How far a share that was counted may be from the true one."""

import math

_Z = 1.959963984540054
"""The standard normal quantile at 0.975."""


def share_interval(successes: int, trials: int) -> tuple[float, float]:
    """The 95 % Wilson score interval of a share.

    Unlike the plain normal interval it stays inside [0, 1], and it keeps its width where all or
    none succeed. The trials must be independent: answers of one dialogue are not.

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
    # By rounding alone the ends would be a hair inside of 0 and 1.
    return (
        centre - half if successes else 0.0,
        centre + half if successes < trials else 1.0,
    )
