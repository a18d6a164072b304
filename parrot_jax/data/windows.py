"""Cuts dialogues into windows of at most T tokens; each live turn is live in exactly one of them.

A window ends with a live turn, since text after the last live turn carries no loss. The first
window starts at the beginning. A later one takes new turns up to half of its room, at least one,
and fills the rest with the turns before them, so that every live turn has its history. BOS and the
system text open every window.

Like every served history, a window opens with a question. If the first question and answer do not
fit, only their ends are kept, each after `...`:

    <s>USER: ... and the hills?</s>ASSISTANT: ... of Velora.</s>USER: And its river?</s>
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from parrot_jax.data.masks import MaskedTurn
from parrot_jax.data.templates.base import RenderedTurn, Rendering, Template
from parrot_jax.dialogue.types import Role

# Fewest tokens of a shortened turn, including its header; a quarter of the row if rows are short.
_LEAST_TOKENS = 32


class LiveSpan(NamedTuple):
    """Positions [start, stop) of a live turn's content and terminator in the window."""

    turn: int
    """Index of the turn in its dialogue, 0 = the first question."""
    role: Role
    start: int
    stop: int


class Window(NamedTuple):
    """A training example: a part of a dialogue, at most T tokens long."""

    tokens: NDArray[np.int32]
    loss_weights: NDArray[np.float32]
    spans: list[LiveSpan]


class Cutter:
    """Shortens texts that are too long, and marks the cut with `...`."""

    def __init__(self, template: Template) -> None:
        """Looks up where a text may begin: preferably at a word, at least at a character."""
        self.mark = template.cut_mark
        self._openings = template.tokenizer.openings()
        self._bare = template.render([("", [])])[0].prefix
        # Behind a letter, since a line break behind a full stop may be one token with it.
        with_end = template.render([("a", [("user", "a")])])[0].prefix
        self._system_end = with_end.ids[len(with_end.ids) - with_end.num_tail :]

    def keep_end(self, turn: RenderedTurn, num_ids: int) -> RenderedTurn:
        """Keeps header, mark and the end of the turn, which is closest to the next turn.

        Args:
          turn: A turn with more than `num_ids` ids.
          num_ids: Most ids to keep, at least header, mark and terminator; a few fewer are kept if
            the next word begins later.
        """
        header, text = turn.ids[: turn.num_header], turn.ids[turn.num_header :]
        end = text[len(text) - (num_ids - len(header) - len(self.mark)) :]
        # Do not begin at the terminator, unless nothing else is left.
        places = end[: max((len(end) - 1) // 2, 1)]
        start = int(np.argmax(self._openings[places]))
        ids = [*header, *self.mark, *end[start:]]
        return RenderedTurn(ids, turn.num_header, num_tail=turn.num_tail)

    def keep_beginning(self, rendering: Rendering, num_ids: int) -> Rendering:
        """Keeps the beginning of the system text, or only BOS if no text would be left."""
        prefix = rendering.prefix
        num_kept = num_ids - len(self.mark) - len(self._system_end)
        if num_kept <= prefix.num_header:
            return rendering._replace(prefix=self._bare, opens_user=False)
        ids = [*prefix.ids[:num_kept], *self.mark, *self._system_end]
        prefix = prefix._replace(ids=ids, num_tail=len(self._system_end))
        return rendering._replace(prefix=prefix)


def make_windows(
    rendering: Rendering,
    turns: Sequence[MaskedTurn],
    row_tokens: int,
    counts: Counter[str],
    *,
    cutter: Cutter,
    trim_dead: bool = True,
) -> Iterator[Window]:
    """Cuts a rendered dialogue into windows.

    Args:
      rendering: The ids, turn by turn.
      turns: The same turns with their weights; they alternate and start with the user.
      row_tokens: T, the largest number of tokens of a window.
      counts: Updated: `windows`, `cut_turns` (turns or system texts that were shortened),
        `dropped_live_turns` (too long for any window, for an answer together with a word of its
        question; not trained on).
      cutter: Shortens turns.
      trim_dead: Leave out text that no live turn needs. If false, the windows are the same as if
        every turn were live.

    Yields:
      Windows in order. With `trim_dead`, none if no turn is live.
    """
    if len(rendering.prefix.ids) > max(row_tokens // 4, 1):
        counts["cut_turns"] += 1
        rendering = cutter.keep_beginning(rendering, row_tokens // 4)
    room = row_tokens - len(rendering.prefix.ids)
    lengths = [len(turn.ids) for turn in rendering.turns]
    bare = max(turn.num_header + turn.num_tail for turn in rendering.turns) + len(cutter.mark) + 2
    least = max(min(_LEAST_TOKENS, room // 4), bare)
    wanted = []  # turns that must be new in some window
    for index, turn in enumerate(turns):
        fits = lengths[index] + _needed_before(lengths, index, bare) <= room
        if (turn.weight > 0 or not trim_dead) and fits:
            wanted.append(index)
        elif turn.weight > 0:
            counts["dropped_live_turns"] += 1
    first = True
    while wanted:
        stop = _new_stop(lengths, wanted, room, bare, first=first)
        pieces = []
        for index, num_ids in _kept(lengths, wanted[0], stop, room, least):
            piece = rendering.turns[index]
            if num_ids < len(piece.ids):
                counts["cut_turns"] += 1
                piece = cutter.keep_end(piece, num_ids)
            pieces.append((index, piece))
        counts["windows"] += 1
        live = {index for index in wanted if index < stop and turns[index].weight > 0}
        yield _window(rendering, pieces, turns, live)
        wanted = [index for index in wanted if index >= stop]
        first = False


def _needed_before(lengths: Sequence[int], index: int, bare: int) -> int:
    """Ids that must precede a turn: for an answer, its question or the end of it."""
    return min(lengths[index - 1], bare) if index % 2 else 0


def _new_stop(
    lengths: Sequence[int], wanted: Sequence[int], room: int, bare: int, *, first: bool
) -> int:
    """The end of the next window: after the last wanted turn of its new part."""
    if first and sum(lengths[: wanted[0] + 1]) <= room:
        start, limit = 0, room
    else:
        start = wanted[0]
        limit = min(room // 2, room - _needed_before(lengths, start, bare))
    stop = wanted[0] + 1
    for index in wanted[1:]:
        if sum(lengths[start : index + 1]) > limit:
            break
        stop = index + 1
    return stop


def _kept(
    lengths: Sequence[int], first_new: int, stop: int, room: int, least: int
) -> list[tuple[int, int]]:
    """The turns of a window with the new part [first_new, stop), each with its number of ids.

    Whole turns are taken backwards while they fit. Of the question and answer before them (or of
    the question whose answer still fits) the ends are kept if there is room for `least` ids of
    each; otherwise the window opens with the question after them.
    """
    start, left = first_new, room - sum(lengths[first_new:stop])
    while start > 0 and lengths[start - 1] <= left:
        start -= 1
        left -= lengths[start]
    kept = {index: lengths[index] for index in range(start, stop)}
    if start == first_new and start % 2:
        kept[start - 1] = left  # a live answer is never shortened
    elif start > 0:
        answer = start if start % 2 else start - 1
        space = left + kept.get(answer, 0)
        question_ids = min(lengths[answer - 1], max(space - lengths[answer], least))
        answer_ids = min(lengths[answer], space - question_ids)
        if answer_ids >= min(least, lengths[answer]):
            kept |= {answer - 1: question_ids, answer: answer_ids}
        else:
            kept.pop(answer, None)
    return sorted(kept.items())


def _window(
    rendering: Rendering,
    pieces: Sequence[tuple[int, RenderedTurn]],
    turns: Sequence[MaskedTurn],
    live: set[int],
) -> Window:
    tokens = list(rendering.prefix.ids)
    weights = [0.0] * len(tokens)
    spans = []
    for place, (index, piece) in enumerate(pieces):
        if rendering.opens_user and place == 0:
            piece = piece._replace(ids=piece.ids[piece.num_header :], num_header=0)
        start = len(tokens) + piece.num_dead
        tokens += piece.ids
        stop = len(tokens) - piece.num_tail
        weight = turns[index].weight if index in live else 0.0
        weights += [0.0] * piece.num_dead + [weight] * (stop - start) + [0.0] * piece.num_tail
        if index in live:
            spans.append(LiveSpan(index, turns[index].role, start, stop))
    return Window(np.array(tokens, np.int32), np.array(weights, np.float32), spans)
