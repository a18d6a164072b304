"""Dialogues of any length become windows of at most T tokens; each live turn is live in one window.

A window ends at the end of a live turn: what follows the last live turn bears no loss and would
only cost time. The first window starts at the beginning. A later one takes new turns up to half of
the room, at least one, and fills the rest with the turns before them, so that nothing is learnt
without its history. BOS and the system text open every window.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from parrot_jax.data.masks import MaskedTurn
from parrot_jax.data.template import RenderedTurn, Rendering
from parrot_jax.dialogue.types import Role

# Less of a turn than this, its header included, says nothing: the window then goes without it.
_MIN_CUT_TOKENS = 32


class LiveSpan(NamedTuple):
    """Where a live turn's content and terminator stand: positions [start, stop) of the window."""

    turn: int
    """Index of the turn in its dialogue, 0 = the first question."""
    role: Role
    start: int
    stop: int


class Window(NamedTuple):
    """A training example: a piece of a dialogue, at most T tokens long."""

    tokens: NDArray[np.int32]
    loss_weights: NDArray[np.float32]
    spans: list[LiveSpan]


def make_windows(
    rendering: Rendering,
    turns: Sequence[MaskedTurn],
    row_tokens: int,
    counts: Counter[str],
    *,
    trim_dead: bool = True,
) -> Iterator[Window]:
    """Cuts a rendered dialogue into windows.

    Args:
      rendering: The ids, turn by turn.
      turns: The same turns with their weights.
      row_tokens: T, the most tokens a window may have.
      counts: Added to: `windows`, `cut_turns` (a turn or system text too long to stand whole in
        a window, cut inside), `dropped_live_turns` (too long for any window: not learnt).
      trim_dead: Leave out what no live turn needs. Off, the windows are those of a mask under
        which every turn is live, whatever the weights are.

    Yields:
      Windows in order. With `trim_dead`, none where no turn is live.
    """
    prefix = _fit_prefix(rendering.prefix, row_tokens, counts)
    room = row_tokens - len(prefix)
    lengths = [len(turn.ids) for turn in rendering.turns]
    wanted = []  # turns that a window must take in as new ones
    for index, turn in enumerate(turns):
        if (turn.weight > 0 or not trim_dead) and lengths[index] <= room:
            wanted.append(index)
        elif turn.weight > 0:
            counts["dropped_live_turns"] += 1
    first = True
    while wanted:
        stop = _new_stop(lengths, wanted, room, first=first)
        start, cut = _context_start(lengths, wanted[0], stop, room)
        counts["windows"] += 1
        pieces = [(index, rendering.turns[index]) for index in range(start, stop)]
        if cut:
            counts["cut_turns"] += 1
            pieces.insert(0, (start - 1, _keep_end(rendering.turns[start - 1], cut)))
        live = {index for index in wanted if index < stop and turns[index].weight > 0}
        yield _window(prefix, pieces, turns, live)
        wanted = [index for index in wanted if index >= stop]
        first = False


def _new_stop(lengths: Sequence[int], wanted: Sequence[int], room: int, *, first: bool) -> int:
    """The end of the next window: behind the last wanted turn that its new part takes in."""
    from_the_beginning = first and sum(lengths[: wanted[0] + 1]) <= room
    start, limit = (0, room) if from_the_beginning else (wanted[0], room // 2)
    stop = wanted[0] + 1
    for index in wanted[1:]:
        if sum(lengths[start : index + 1]) > limit:
            break
        stop = index + 1
    return stop


def _context_start(
    lengths: Sequence[int], first_wanted: int, stop: int, room: int
) -> tuple[int, int]:
    """Where a window that ends at `stop` starts, and how many ids of the turn before it fit.

    The latter is 0 but where not even the turn before the first wanted one fits whole.
    """
    start, used = first_wanted, sum(lengths[first_wanted:stop])
    while start > 0 and used + lengths[start - 1] <= room:
        start -= 1
        used += lengths[start]
    if start == first_wanted > 0 and room - used >= _MIN_CUT_TOKENS:
        return start, room - used
    return start, 0


def _keep_end(turn: RenderedTurn, num_ids: int) -> RenderedTurn:
    """A too long turn: its header and its end, the part nearest to what follows."""
    return RenderedTurn(
        turn.ids[: turn.num_header] + turn.ids[-(num_ids - turn.num_header) :], turn.num_header
    )


def _fit_prefix(prefix: list[int], row_tokens: int, counts: Counter[str]) -> list[int]:
    """BOS and the system text; one that would take over a quarter of the row loses its end."""
    limit = max(row_tokens // 4, 1)
    if len(prefix) <= limit:
        return prefix
    counts["cut_turns"] += 1
    return [*prefix[: limit - 1], prefix[-1]]


def _window(
    prefix: list[int],
    pieces: Sequence[tuple[int, RenderedTurn]],
    turns: Sequence[MaskedTurn],
    live: set[int],
) -> Window:
    tokens = list(prefix)
    weights = [0.0] * len(prefix)
    spans = []
    for index, piece in pieces:
        start = len(tokens) + piece.num_header
        tokens += piece.ids
        weight = turns[index].weight if index in live else 0.0
        weights += [0.0] * piece.num_header + [weight] * (len(piece.ids) - piece.num_header)
        if index in live:
            spans.append(LiveSpan(index, turns[index].role, start, len(tokens)))
    return Window(np.array(tokens, np.int32), np.array(weights, np.float32), spans)
