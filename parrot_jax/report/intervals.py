"""How far a share that was counted may be from the true one."""


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
    # Newer versions of scipy answer with NaN.
    if not 0 <= successes <= trials or trials < 1:
        raise ValueError(f"{successes} of {trials} successes; from 0 to all, of at least 1 trial")
    # Here, because it takes most of a second to load.
    from scipy.stats import binomtest

    interval = binomtest(successes, trials).proportion_ci(0.95, method="wilson")
    return float(interval.low), float(interval.high)
