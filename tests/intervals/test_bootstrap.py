"""The bootstrap resamples whole sessions, and gives no interval for a single session."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from parrot_jax.intervals.bootstrap import ratio_intervals


def test_an_interval_draws_sessions_and_not_questions() -> None:
    # Two sessions, one of 100 thanks and one of 100 others: drawing one twice gives all or none.
    ((low, high),) = ratio_intervals(np.array([[100.0], [0.0]]), np.array([[100.0], [100.0]]))
    assert (low, high) == (0.0, 1.0)


def test_one_session_has_no_interval() -> None:
    assert np.isnan(ratio_intervals(np.array([[3.0]]), np.array([[1.0]]))).all()
    assert np.isnan(ratio_intervals(np.array([[3.0], [0.0]]), np.array([[1.0], [0.0]]))).all()


@given(
    st.lists(
        st.tuples(st.integers(0, 9), st.integers(1, 9)).map(lambda two: (min(two), two[1])),
        min_size=2, max_size=20,
    )
)  # fmt: skip
def test_intervals_of_shares_lie_in_the_range_of_the_sessions(parts: list[tuple[int, int]]) -> None:
    numerators, denominators = (np.array(column, float)[:, None] for column in zip(*parts))  # noqa: B905
    ((low, high),) = ratio_intervals(numerators, denominators)
    shares = numerators / denominators
    assert shares.min() - 1e-9 <= low <= high <= shares.max() + 1e-9
