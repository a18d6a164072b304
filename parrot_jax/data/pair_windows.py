"""Cuts a preference pair into two windows with the same context that share a row.

The context is read twice, once for each answer. A branched row (the context once, both answers
after it) would need a mask that segment ids cannot express, so the kernels of `splash` and `pallas`
could not skip what it hides.

If both sides do not fit, the beginning of the context is left out, as for a dialogue. An answer is
never cut.
"""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from parrot_jax.data.masks import MaskedTurn
from parrot_jax.data.templates.base import Rendering
from parrot_jax.data.windows import Cutter, LiveSpan, Window, make_windows


def make_pair(
    chosen: Rendering,
    rejected: Rendering,
    turns: Sequence[MaskedTurn],
    row_tokens: int,
    counts: Counter[str],
    *,
    cutter: Cutter,
) -> tuple[Window, Window] | None:
    """Makes the windows of a pair.

    Args:
      chosen: The context and the chosen answer.
      rejected: The same context and the rejected answer.
      turns: The turns of the chosen side; only the last one is live.
      row_tokens: T, the largest number of tokens of both windows together.
      counts: Updated: `windows`, `cut_turns` and `cut_contexts`.
      cutter: Shortens turns.

    Returns:
      The windows; None if the answers leave no room for a word of the question.
    """
    sides = (chosen, rejected)
    answers = [len(side.turns[-1].ids) for side in sides]
    # Both contexts get the same room, so they are cut at the same place.
    room = (row_tokens - sum(answers)) // 2
    context = np.array(chosen.ids()[: -answers[0]], np.int32)
    # `make_windows` would also cut a long system text of a pair that fits.
    if len(context) > room:
        if room <= 1:
            return None
        longer = answers.index(max(answers))
        of_one: Counter[str] = Counter()
        made = next(
            make_windows(
                sides[longer], turns, room + answers[longer], of_one, cutter=cutter
            ),
            None,
        )  # fmt: skip
        if made is None:
            return None
        context = made.tokens[: -answers[longer]]
        counts["cut_turns"] += of_one["cut_turns"]
        counts["cut_contexts"] += 1
    counts["windows"] += 2
    weight = turns[-1].weight
    return _side(context, chosen, weight), _side(context, rejected, weight)


def _side(context: np.ndarray, side: Rendering, weight: float) -> Window:
    answer = side.turns[-1]
    tokens = np.concatenate([context, np.array(answer.ids, np.int32)])
    start = len(context) + answer.num_dead
    weights = np.zeros(len(tokens), np.float32)
    stop = len(tokens) - answer.num_tail
    weights[start:stop] = weight
    span = LiveSpan(len(side.turns) - 1, "assistant", start, stop)
    return Window(tokens, weights, [span])
