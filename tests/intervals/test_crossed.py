"""Means of crossed judgments against values worked out by hand and against analysis of variance."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from parrot_jax.intervals.crossed import Observations, crossed_difference, crossed_mean


def table(rows: list[list[float | None]]) -> Observations:
    """Rows are clusters, columns are raters."""
    cells = [
        (row, column, value)
        for row, values in enumerate(rows)
        for column, value in enumerate(values)
        if value is not None
    ]
    clusters, raters, values = zip(*cells, strict=True)
    return Observations(
        np.array(clusters, np.int64), np.array(raters, np.int64), np.array(values, np.float64)
    )


def test_one_rater_gives_the_t_interval_of_a_mean() -> None:
    found = crossed_mean(table([[1], [2], [3], [6]]))
    # Mean 3; squares 4 + 1 + 0 + 9 = 14; variance of the mean 14 / 3 / 4.
    assert (found.mean, found.freedom) == (3, 3)
    assert found.variance == pytest.approx(14 / 12)
    low, high = found.interval()
    assert (low, high) == pytest.approx((3 - 3.18245 * 1.0801, 3 + 3.18245 * 1.0801), abs=1e-3)


def test_a_full_table_gives_the_variance_of_the_analysis_of_variance() -> None:
    rows = [[3.0, 5], [4, 7], [8, 9]]
    found = crossed_mean(table(rows))
    # Means: rows 4, 5.5, 8.5; columns 5, 7; all 6. Mean squares: rows 2 (4 + 1/4 + 25/4) / 2 =
    # 10.5; columns 3 (1 + 1) / 1 = 6; the rest: (0 + 0.25 + 0.25) x 2 / 2 = 0.5.
    variance = (10.5 + 6 - 0.5) / 6
    assert found.mean == 6
    assert found.variance == pytest.approx(variance)
    freedom = 16**2 / (10.5**2 / 2 + 6**2 / 1 + 0.5**2 / 2)
    assert found.freedom == pytest.approx(freedom)


def test_raters_who_agree_add_nothing() -> None:
    rows = [[0.0], [1], [1], [0], [1]]
    twice = crossed_mean(table([[value, value] for (value,) in rows]))
    once = crossed_mean(table(rows))
    assert twice[:3] == pytest.approx(once[:3])


def test_a_strict_rater_moves_means_and_not_their_difference() -> None:
    first = [[5.0, 3], [6, 4], [4, 2]]
    second = [[7.0, 5], [9, 7], [8, 6], [8, 6]]
    found = crossed_difference(table(first), table(second))
    one = crossed_difference(
        table([[row[0]] for row in first]), table([[row[0]] for row in second])
    )
    assert (found.mean, one.mean) == (3, 3)
    assert found.variance == pytest.approx(one.variance)
    assert crossed_mean(table(first)).variance > 1  # the strict rater


def test_a_share_of_equal_verdicts_has_an_interval_with_a_width() -> None:
    # Wilson's score interval of 10 of 10, with t of 9 degrees of freedom.
    low, high = crossed_mean(table([[1.0, 1]] * 10)).share_interval()
    square = 2.262157**2
    assert (low, high) == pytest.approx((10 / (10 + square), 1))


def test_equal_differences_have_no_interval() -> None:
    assert all(map(math.isnan, crossed_mean(table([[2.0, 2], [2, 2]])).interval()))


def test_one_cluster_has_no_interval() -> None:
    found = crossed_mean(table([[1.0, 0]]))
    assert found.mean == 0.5
    assert all(map(math.isnan, (*found.interval(), *found.share_interval())))


@given(
    st.lists(
        st.lists(st.sampled_from([None, 0.0, 1.0]), min_size=3, max_size=3), min_size=2, max_size=12
    ).filter(lambda rows: sum(any(v is not None for v in row) for row in rows) > 1)
)
def test_any_pattern_of_missing_verdicts_gives_an_interval_around_the_share(
    rows: list[list[float | None]],
) -> None:
    found = crossed_mean(table(rows))
    low, high = found.share_interval()
    assert 0 <= low <= found.mean <= high <= 1
    assert low < high
    assert found.freedom >= 1
