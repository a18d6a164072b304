"""Windows are packed into rows of T tokens; the parts of a record travel together.

A row is one value of `row_dtype(T)`: tokens, loss weights, segment ids and positions side by side,
so no step on the way can drop or shift one of them. Segment 0 is padding; segments count from 1 and
never see each other; positions restart in each.
"""

import bisect
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from parrot_jax.data.windows import Window


def row_dtype(row_tokens: int) -> np.dtype:
    """The record of one row of `row_tokens` tokens, 16 bytes a token."""
    return np.dtype(
        [
            ("tokens", np.int32, (row_tokens,)),
            ("loss_weights", np.float32, (row_tokens,)),
            ("segment_ids", np.int32, (row_tokens,)),
            ("positions", np.int32, (row_tokens,)),
        ]
    )


def plan_rows(lengths: Sequence[int], row_tokens: int, *, packing: bool) -> list[list[int]]:
    """Chooses which windows share a row: best fit, longest first.

    Args:
      lengths: Tokens of each window, each in [1, row_tokens].
      row_tokens: T.
      packing: Off: a row a window, in order.

    Returns:
      For each row the indices of its windows; every index stands in exactly one row.

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
    """Lays windows side by side in one row.

    Args:
      windows: At most `row_tokens` tokens in all.
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
