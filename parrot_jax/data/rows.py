"""Converts dialogues to packed rows in memory: mask, render, cut into windows, pack."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from parrot_jax.core.errors import UserError
from parrot_jax.data.data_config import DataConfig
from parrot_jax.data.masks import mask_turns
from parrot_jax.data.packing import fill_row, plan_rows, row_dtype
from parrot_jax.data.templates.base import Template, TurnText
from parrot_jax.data.windows import Cutter, Window, make_windows
from parrot_jax.dialogue.types import Dialogue

SPAN_DTYPE = np.dtype(
    [
        ("row", np.int32),  # within the part
        ("start", np.int32),
        ("stop", np.int32),
        ("dialogue", np.int32),  # running number in the split
        ("turn", np.int32),  # 0 = the first question
        ("is_user", np.bool_),
    ]
)
"""A live turn: the positions [start, stop) of its content and terminator in a row."""


def make_rows(
    dialogues: Sequence[Dialogue], first: int, config: DataConfig, template: Template
) -> tuple[NDArray[Any], NDArray[Any], Counter[str]]:
    """Makes the rows of some dialogues.

    Args:
      dialogues: Only these share rows.
      first: The number of the first dialogue in the split.
      config: The settings; `mask` selects the live turns.
      template: Renders the dialogues.

    Returns:
      Rows [rows] of `row_dtype(config.row_tokens)`, spans [live turns] of `SPAN_DTYPE`, and counts,
      which `prepare` adds up.
    """
    counts: Counter[str] = Counter()
    turns = [mask_turns(dialogue, config.mask) for dialogue in dialogues]
    texts: list[tuple[str, list[TurnText]]] = [
        (d.system, [(t.role, t.text, t.context) for t in kept])
        for d, kept in zip(dialogues, turns, strict=True)
    ]
    cutter = Cutter(template)
    windows, owners = [], []
    for index, (rendering, kept) in enumerate(zip(template.render(texts), turns, strict=True)):
        made = list(
            make_windows(
                rendering, kept, config.row_tokens, counts,
                cutter=cutter, trim_dead=config.trim_dead,
            )
        )  # fmt: skip
        counts["sessions" if made else "no_live_token"] += 1
        windows += made
        owners += [first + index] * len(made)
    rows, spans = pack(windows, owners, config.row_tokens, packing=config.packing)
    if len(rows) and (largest := int(rows["tokens"].max())) >= template.tokenizer.vocab_size:
        raise UserError(
            f"the template {config.template!r} renders the token id {largest}, but its tokenizer "
            f"has ids 0 to {template.tokenizer.vocab_size - 1}; correct the template."
        )
    live_a_row = (rows["loss_weights"] > 0).sum(axis=1)
    counts["rows"] += len(rows)
    counts["tokens"] += int((rows["segment_ids"] > 0).sum())
    counts["live_tokens"] += int(live_a_row.sum())
    counts["live_tokens_squared"] += int((live_a_row.astype(np.int64) ** 2).sum())
    return rows, spans, counts


def pack(
    windows: Sequence[Window], owners: Sequence[int], row_tokens: int, *, packing: bool
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Packs windows into rows.

    Args:
      windows: Each of at most `row_tokens` tokens.
      owners: For each window the number of its dialogue.
      row_tokens: T.
      packing: If false, one row per window, in order.

    Returns:
      Rows [rows] of `row_dtype(row_tokens)` and spans [live turns] of `SPAN_DTYPE`.
    """
    plan = plan_rows([len(w.tokens) for w in windows], row_tokens, packing=packing)
    rows = np.zeros(len(plan), row_dtype(row_tokens))
    spans = []
    for row_number, members in enumerate(plan):
        rows[row_number] = fill_row([windows[m] for m in members], row_tokens)
        offset = 0
        for member in members:
            for span in windows[member].spans:
                where = (row_number, offset + span.start, offset + span.stop)
                spans.append((*where, owners[member], span.turn, span.role == "user"))
            offset += len(windows[member].tokens)
    return rows, np.array(spans, SPAN_DTYPE)
