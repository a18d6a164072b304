"""Packs windows into rows of T tokens.

A row is one record of `row_dtype(T)` with tokens, loss weights, segment ids and positions, so that
they always stay together. Segment 0 is padding; segments are numbered from 1; attention never
crosses segments, and positions restart in each.

The segments of a preference pair stay together too: segment 2p + 1 is the chosen side of pair p of
its row, segment 2p + 2 the rejected one.
"""

import bisect
import zlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from parrot_jax.data.windows import Window


def row_dtype(row_tokens: int, num_pairs: int = 0) -> np.dtype:
    """The record type of a row.

    Args:
      row_tokens: T; a token has 16 bytes.
      num_pairs: P, the most preference pairs of a row. `kinds` and `turns` hold the kind of each
        pair (`kind_code`) and its turn, from 1; 0 = no such pair.
    """
    fields: list[Any] = [
        ("tokens", np.int32, (row_tokens,)),
        ("loss_weights", np.float32, (row_tokens,)),
        ("segment_ids", np.int32, (row_tokens,)),
        ("positions", np.int32, (row_tokens,)),
    ]
    if num_pairs:
        fields += [("kinds", np.int32, (num_pairs,)), ("turns", np.int32, (num_pairs,))]
    return np.dtype(fields)


def most_pairs(row_tokens: int) -> int:
    """P, the most preference pairs of a row of T tokens: one per 32 tokens."""
    return max(row_tokens // 32, 1)


def kind_code(kind: str) -> int:
    """A number for the name of a kind, in [0, 2^31); the same in every file."""
    return zlib.crc32(kind.encode("utf-8")) & 0x7FFFFFFF


def plan_rows(
    lengths: Sequence[int], row_tokens: int, *, packing: bool, most: int | None = None
) -> list[list[int]]:
    """Chooses which windows, or pairs of windows, share a row: best-fit decreasing.

    Args:
      lengths: Number of tokens of each window or pair, in [1, row_tokens].
      row_tokens: T.
      packing: If false, one row each, in order.
      most: Most of them in a row; None = no limit.

    Returns:
      For each row the indices of its windows or pairs; every index is in exactly one row.

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
        if room > lengths[index] and len(rows[row]) != most:
            bisect.insort(open_rows, (room - lengths[index], row))
    return rows


class PairLabel(NamedTuple):
    """What is known of a preference pair besides its texts."""

    kind: str
    """The kind of the rejected answer; empty = unknown."""
    turn: int
    """The turn of the answers, from 1."""


def fill_row(
    windows: Sequence[Window], row_tokens: int, *, pairs: Sequence[PairLabel] | None = None
) -> NDArray[Any]:
    """Places windows side by side in one row.

    Args:
      windows: At most `row_tokens` tokens in total.
      row_tokens: T.
      pairs: If the windows are the sides of preference pairs, chosen and rejected in turn: the
        labels of the pairs.

    Returns:
      One record of `row_dtype`, shape [].
    """
    row = np.zeros((), row_dtype(row_tokens, 0 if pairs is None else most_pairs(row_tokens)))
    start = 0
    for segment, window in enumerate(windows, 1):
        stop = start + len(window.tokens)
        row["tokens"][start:stop] = window.tokens
        row["loss_weights"][start:stop] = window.loss_weights
        row["segment_ids"][start:stop] = segment
        row["positions"][start:stop] = np.arange(stop - start)
        start = stop
    for number, (kind, turn) in enumerate(pairs or ()):
        row["kinds"][number], row["turns"][number] = kind_code(kind), turn
    return row
