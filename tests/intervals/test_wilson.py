"""Wilson's interval against published numbers."""

import pytest

from parrot_jax.intervals.wilson import share_interval


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [
        # Newcombe, Statistics in Medicine 17 (1998), table I, method 3.
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_intervals_are_the_published_ones(
    successes: int, trials: int, low: float, high: float
) -> None:
    assert share_interval(successes, trials) == pytest.approx((low, high), abs=5e-5)
    # The share of failures has the mirrored interval.
    assert share_interval(trials - successes, trials) == pytest.approx(
        (1 - high, 1 - low), abs=5e-5
    )


@pytest.mark.parametrize(("successes", "trials"), [(3, 2), (-1, 2), (0, 0)])
def test_counts_that_cannot_be_are_refused(successes: int, trials: int) -> None:
    with pytest.raises(ValueError, match=f"{successes} of {trials} is invalid"):
        share_interval(successes, trials)
