"""Converts dialogues or preference pairs to packed rows in memory: mask, render, cut, pack."""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from parrot_jax.core.errors import UserError
from parrot_jax.data.data_config import DataConfig
from parrot_jax.data.masks import MaskedTurn, mask_turns
from parrot_jax.data.packing import PairLabel, fill_row, most_pairs, plan_rows, row_dtype
from parrot_jax.data.pair_windows import make_pair
from parrot_jax.data.templates.base import Rendering, Template, TurnText
from parrot_jax.data.windows import Cutter, Window, make_windows
from parrot_jax.dialogue.preference import kind_of
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


_RENDERED_AT_ONCE = 100
"""Dialogues; renderings take ten times the memory of windows."""


class Unit(NamedTuple):
    """What must share a row: a window, or the two windows of a preference pair."""

    windows: tuple[Window, ...]
    dialogue: int
    """The number of its dialogue in the split."""
    pair: PairLabel | None = None


class Part(NamedTuple):
    """The rows of some dialogues."""

    rows: NDArray[Any]
    """[rows] of `row_dtype`."""
    spans: NDArray[Any]
    """[live turns] of `SPAN_DTYPE`; of a pair, first the chosen answer, then the rejected one."""
    counts: Counter[str]
    """`prepare` adds them up."""
    too_long: list[str]
    """Ids of the pairs that do not fit in a row."""


def make_rows(
    dialogues: Sequence[Dialogue],
    first: int,
    config: DataConfig,
    template: Template,
    *,
    pairs: bool = False,
) -> Part:
    """Makes the rows of some dialogues.

    Args:
      dialogues: Only these share rows.
      first: The number of the first dialogue in the split.
      config: The settings; `mask` selects the live turns.
      template: Renders the dialogues.
      pairs: Make rows of preference pairs; dialogues without a rejected answer are dropped.
    """
    counts: Counter[str] = Counter()
    too_long: list[str] = []
    make_units = make_pairs if pairs else make_sessions
    units = list(make_units(dialogues, first, config, template, counts, too_long))
    rows, spans = pack(units, config.row_tokens, packing=config.packing, pairs=pairs)
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
    return Part(rows, spans, counts, too_long)


def make_sessions(
    dialogues: Sequence[Dialogue],
    first: int,
    config: DataConfig,
    template: Template,
    counts: Counter[str],
    too_long: list[str],
) -> Iterator[Unit]:
    """Yields each window of each dialogue; the arguments are those of `make_pairs`."""
    cutter = Cutter(template)
    for start in range(0, len(dialogues), _RENDERED_AT_ONCE):
        some = dialogues[start : start + _RENDERED_AT_ONCE]
        turns = [mask_turns(dialogue, config.mask) for dialogue in some]
        renderings = zip(_render(template, some, turns), turns, strict=True)
        for number, (rendering, kept) in enumerate(renderings, first + start):
            made = list(
                make_windows(
                    rendering, kept, config.row_tokens, counts,
                    cutter=cutter, trim_dead=config.trim_dead,
                )
            )  # fmt: skip
            counts["sessions" if made else "no_live_token"] += 1
            yield from (Unit((window,), number) for window in made)


def make_pairs(
    dialogues: Sequence[Dialogue],
    first: int,
    config: DataConfig,
    template: Template,
    counts: Counter[str],
    too_long: list[str],
) -> Iterator[Unit]:
    """Yields both sides of each pair.

    Args:
      dialogues: Those without a rejected answer are dropped.
      first: The number of the first dialogue in the split.
      config: The settings.
      template: Renders the dialogues.
      counts: Updated.
      too_long: The ids of pairs that do not fit in a row are added.
    """
    cutter = Cutter(template)
    found = [(n, d, d.rejected) for n, d in enumerate(dialogues, first) if d.rejected is not None]
    counts["no_pair"] += len(dialogues) - len(found)
    turns = [mask_turns(dialogue, config.mask) for _, dialogue, _ in found]
    others = [
        [*kept[:-1], kept[-1]._replace(text=rejected.text, context=rejected.context)]
        for kept, (_, _, rejected) in zip(turns, found, strict=True)
    ]
    of = [dialogue for _, dialogue, _ in found]
    renderings = _render(template, of * 2, turns + others)
    for place, (number, dialogue, _) in enumerate(found):
        if not turns[place][-1].weight > 0:
            counts["no_live_token"] += 1
            continue
        sides = renderings[place], renderings[len(found) + place]
        made = make_pair(*sides, turns[place], config.row_tokens, counts, cutter=cutter)
        if made is None:
            counts["pairs_too_long"] += 1
            too_long.append(dialogue.id)
            continue
        counts["sessions"] += 1
        label = PairLabel(kind_of(dialogue), dialogue.num_rounds)
        counts[f"kind:{label.kind}"] += 1
        counts[f"turn:{label.turn}"] += 1
        yield Unit(made, number, label)


def _render(
    template: Template, dialogues: Sequence[Dialogue], turns: Sequence[Sequence[MaskedTurn]]
) -> list[Rendering]:
    texts: list[tuple[str, list[TurnText]]] = [
        (d.system, [(t.role, t.text, t.context) for t in kept])
        for d, kept in zip(dialogues, turns, strict=True)
    ]
    return template.render(texts)


def pack(
    units: Sequence[Unit], row_tokens: int, *, packing: bool, pairs: bool = False
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Packs windows or pairs into rows.

    Args:
      units: Each of at most `row_tokens` tokens.
      row_tokens: T.
      packing: If false, one row per unit, in order.
      pairs: Whether the units are pairs.

    Returns:
      Rows [rows] of `row_dtype` and spans [live turns] of `SPAN_DTYPE`.
    """
    lengths = [sum(len(window.tokens) for window in unit.windows) for unit in units]
    num_pairs = most_pairs(row_tokens) if pairs else 0
    plan = plan_rows(lengths, row_tokens, packing=packing, most=num_pairs or None)
    rows = np.zeros(len(plan), row_dtype(row_tokens, num_pairs))
    spans = []
    for row_number, members in enumerate(plan):
        chosen = [units[m] for m in members]
        rows[row_number] = fill_row(
            [window for unit in chosen for window in unit.windows],
            row_tokens,
            pairs=[unit.pair for unit in chosen if unit.pair] if pairs else None,
        )
        offset = 0
        for unit in chosen:
            for window in unit.windows:
                for span in window.spans:
                    where = (row_number, offset + span.start, offset + span.stop)
                    spans.append((*where, unit.dialogue, span.turn, span.role == "user"))
                offset += len(window.tokens)
    return rows, np.array(spans, SPAN_DTYPE)
