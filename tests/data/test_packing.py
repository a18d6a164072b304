"""Packing: every window is in exactly one row, complete and unmixed."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from parrot_jax.data.packing import fill_row, plan_rows
from parrot_jax.data.windows import LiveSpan, Window


def window(tokens: list[int], live_from: int) -> Window:
    weights = [0.0] * live_from + [1.0] * (len(tokens) - live_from)
    spans = [LiveSpan(0, "user", live_from, len(tokens))]
    return Window(np.array(tokens, np.int32), np.array(weights, np.float32), spans)


def test_golden_row_of_two_windows() -> None:
    row = fill_row([window([1, 5, 6], 1), window([1, 8, 9, 2], 2)], 9)
    assert row["tokens"].tolist() == [1, 5, 6, 1, 8, 9, 2, 0, 0]
    assert row["loss_weights"].tolist() == [0, 1, 1, 0, 0, 1, 1, 0, 0]
    assert row["segment_ids"].tolist() == [1, 1, 1, 2, 2, 2, 2, 0, 0]
    assert row["positions"].tolist() == [0, 1, 2, 0, 1, 2, 3, 0, 0]


def test_without_packing_each_window_has_its_row() -> None:
    assert plan_rows([3, 1, 2], 10, packing=False) == [[0], [1], [2]]


@given(lengths=st.lists(st.integers(1, 50), max_size=60))
def test_rows_hold_every_window_once_and_are_well_filled(lengths: list[int]) -> None:
    rows = plan_rows(lengths, 50, packing=True)
    assert sorted(i for row in rows for i in row) == list(range(len(lengths)))
    filled = [sum(lengths[i] for i in row) for row in rows]
    assert all(total <= 50 for total in filled)
    # No two rows would fit into one.
    assert all(a + b > 50 for n, a in enumerate(filled) for b in filled[n + 1 :])
