"""Packs windows into rows of T tokens.

A row is one record of `row_dtype(T)` with tokens, loss weights, segment ids and positions, so that
they always stay together. Segment 0 is padding; segments are numbered from 1; attention never
crosses segments, and positions restart in each.
"""

import bisect
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from parrot_jax.data.windows import Window


def row_dtype(row_tokens: int) -> np.dtype:
    """The record type of a row of `row_tokens` tokens, 16 bytes per token."""
    return np.dtype(
        [
            ("tokens", np.int32, (row_tokens,)),
            ("loss_weights", np.float32, (row_tokens,)),
            ("segment_ids", np.int32, (row_tokens,)),
            ("positions", np.int32, (row_tokens,)),
        ]
    )


def plan_rows(lengths: Sequence[int], row_tokens: int, *, packing: bool) -> list[list[int]]:
    """Chooses which windows share a row: best-fit decreasing.

    Args:
      lengths: Number of tokens of each window, in [1, row_tokens].
      row_tokens: T.
      packing: If false, one row per window, in order.

    Returns:
      For each row the indices of its windows; every index is in exactly one row.

    >>> plan_rows([5, 3, 6, 2], 8, packing=True)
    [[2, 3], [0, 1]]
    """
    if not packing:
        return [[index] for index in range(len(lengths))]
    rows: list[list[int]] = []
    # (room, row) sorted: the first entry with enough room is the tightest fit.
    open_rows: list[tuple[int, int]] = []
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        place = bisect.bisect_left(open_rows, (lengths[index], -1))
        if place < len(open_rows):
            room, row = open_rows.pop(place)
        else:
            room, row = row_tokens, len(rows)
            rows.append([])
        rows[row].append(index)
        if room > lengths[index]:
            bisect.insort(open_rows, (room - lengths[index], row))
    return rows


def fill_row(windows: Sequence[Window], row_tokens: int) -> NDArray[Any]:
    """Places windows side by side in one row.

    Args:
      windows: At most `row_tokens` tokens in total.
      row_tokens: T.

    Returns:
      One record of `row_dtype(row_tokens)`, shape [].
    """
    row = np.zeros((), row_dtype(row_tokens))
    start = 0
    for segment, window in enumerate(windows, 1):
        stop = start + len(window.tokens)
        row["tokens"][start:stop] = window.tokens
        row["loss_weights"][start:stop] = window.loss_weights
        row["segment_ids"][start:stop] = segment
        row["positions"][start:stop] = np.arange(stop - start)
        start = stop
    return row
