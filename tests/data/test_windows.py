"""Which ids are live, and how long dialogues become windows; with numbers to check by eye."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from parrot_jax.data.config import MaskConfig
from parrot_jax.data.masks import MaskedTurn, mask_turns
from parrot_jax.data.template import RenderedTurn, Rendering, render
from parrot_jax.data.tokenizer import Tokenizer, load_tokenizer
from parrot_jax.data.windows import Window, make_windows
from parrot_jax.dialogue.types import Dialogue, Turn

HEADER, END = 7, 2


@pytest.fixture(scope="module")
def tokenizer(llama_tokenizer_model: Path) -> Tokenizer:
    return load_tokenizer(llama_tokenizer_model)


DIALOGUE = Dialogue(
    system="be brief",
    turns=(
        Turn("user", "hi"), Turn("assistant", "hello"),
        Turn("user", "bye"), Turn("assistant", "see you"),
    ),
)  # fmt: skip


def live_text(tokenizer: Tokenizer, **mask: object) -> str:
    """The single window of DIALOGUE, live tokens in brackets."""
    turns = mask_turns(DIALOGUE, MaskConfig(**mask))  # type: ignore[arg-type]
    (rendering,) = render([(DIALOGUE.system, [(t.role, t.text) for t in turns])], tokenizer)
    (window,) = make_windows(rendering, turns, 64, Counter())
    pairs = zip(window.tokens.tolist(), window.loss_weights.tolist(), strict=True)
    return "".join(f"[{tokenizer.show([i])}]" if w else tokenizer.show([i]) for i, w in pairs)


def test_exactly_which_ids_are_live_for_ask(tokenizer: Tokenizer) -> None:
    # What follows the last live turn bears no loss and is left out.
    assert live_text(tokenizer, loss_roles=("user",), skip_first_turn=True) == (
        "<s>SYSTEM: be brief</s>USER: hi</s>ASSISTANT: hello</s>USER:[ by][e][</s>]"
    )


def test_exactly_which_ids_are_live_for_chat(tokenizer: Tokenizer) -> None:
    assert live_text(tokenizer, loss_roles=("assistant",)) == (
        "<s>SYSTEM: be brief</s>USER: hi</s>ASSISTANT:[ hello][</s>]"
        "USER: bye</s>ASSISTANT:[ see][ you][</s>]"
    )


def test_an_asker_can_learn_to_end(tokenizer: Tokenizer) -> None:
    text = live_text(tokenizer, loss_roles=("user",), skip_first_turn=True, train_end=True)
    assert text.endswith("ASSISTANT: see you</s>USER:[</s>]")


def dialogue(lengths: list[int], live: list[int], prefix: int = 1) -> tuple[Rendering, list]:
    """Turns of the given lengths; token values tell the turn: turn 3 is 300, 301, ..."""
    turns = [
        RenderedTurn([HEADER, *range(100 * i, 100 * i + n - 2), END], 1)
        for i, n in enumerate(lengths)
    ]
    masked = [
        MaskedTurn("user" if i % 2 == 0 else "assistant", "x", float(i in live))
        for i in range(len(lengths))
    ]
    return Rendering([1] * prefix, turns), masked


def windows_of(lengths: list[int], live: list[int], row: int) -> tuple[list[Window], Counter[str]]:
    counts: Counter[str] = Counter()
    return list(make_windows(*dialogue(lengths, live), row, counts)), counts


def turns_in(window: Window) -> list[int]:
    return sorted({int(t) // 100 for t in window.tokens[1:] if t not in (HEADER, END)})


def test_a_long_dialogue_becomes_windows_with_history() -> None:
    # Row 101 = BOS + 100. Turns of 20: the first window takes 5, later ones at most 50 new tokens.
    windows, counts = windows_of([20] * 10, live=[1, 3, 5, 7, 9], row=101)
    assert [turns_in(w) for w in windows] == [
        [0, 1, 2, 3],
        [1, 2, 3, 4, 5],
        [3, 4, 5, 6, 7],
        [5, 6, 7, 8, 9],
    ]
    assert [[s.turn for s in w.spans] for w in windows] == [[1, 3], [5], [7], [9]]
    assert counts == {"windows": 4}


def test_a_context_turn_that_is_too_long_keeps_its_end() -> None:
    windows, counts = windows_of([10, 300, 10], live=[2], row=101)
    assert counts == {"windows": 1, "cut_turns": 1}
    (window,) = windows
    assert len(window.tokens) == 101
    # BOS, the header of turn 1, its last 89 ids, then the live turn.
    assert window.tokens[:3].tolist() == [1, HEADER, 100 + 298 - 88]
    assert window.tokens[90:93].tolist() == [END, HEADER, 200]
    assert window.loss_weights.sum() == 9


def test_a_live_turn_longer_than_a_row_is_dropped_and_counted() -> None:
    windows, counts = windows_of([10, 300, 10, 10], live=[1, 3], row=101)
    assert [[s.turn for s in w.spans] for w in windows] == [[3]]
    assert counts["dropped_live_turns"] == 1


def test_untrimmed_windows_are_the_same_under_every_mask() -> None:
    lengths, counts = [20, 30, 20, 90, 20, 60, 20], Counter[str]()
    every_turn = list(range(7))
    rows = []
    for live in (every_turn, [2, 4, 6], [1, 3, 5], []):
        rendering, turns = dialogue(lengths, live)
        windows = list(make_windows(rendering, turns, 101, counts, trim_dead=False))
        rows.append([w.tokens.tolist() for w in windows])
        assert [s.turn for w in windows for s in w.spans] == live
        assert sum(int((w.loss_weights > 0).sum()) for w in windows) == sum(
            lengths[i] - 1 for i in live
        )
    assert all(r == rows[0] for r in rows)


def test_nothing_live_gives_no_window() -> None:
    assert windows_of([10, 10], live=[], row=101) == ([], {})


@given(
    lengths=st.lists(st.integers(2, 90), min_size=1, max_size=12),
    live_bits=st.integers(0, 2**12 - 1),
    prefix=st.integers(1, 30),
    row=st.integers(40, 120),
)
def test_each_live_turn_is_live_in_exactly_one_window(
    lengths: list[int], live_bits: int, prefix: int, row: int
) -> None:
    live = [i for i in range(len(lengths)) if live_bits >> i & 1]
    rendering, turns = dialogue(lengths, live, prefix)
    counts: Counter[str] = Counter()
    windows = list(make_windows(rendering, turns, row, counts))
    learnt = [span.turn for window in windows for span in window.spans]
    kept_prefix = min(prefix, max(row // 4, 1))
    assert learnt == [i for i in live if lengths[i] <= row - kept_prefix]
    assert counts["dropped_live_turns"] == len(live) - len(learnt)
    for window in windows:
        assert len(window.tokens) <= row
        assert window.loss_weights[-1] > 0, "a window ends with a live turn's terminator"
        marked = np.zeros(len(window.tokens), bool)
        for span in window.spans:
            whole = rendering.turns[span.turn].ids[1:]
            assert window.tokens[span.start : span.stop].tolist() == whole
            marked[span.start : span.stop] = True
        np.testing.assert_array_equal(marked, window.loss_weights > 0)
        # A question is never learnt without what came right before it, where there is room.
        first = window.spans[0].turn
        if first > 0 and row - kept_prefix - lengths[first] >= 64:
            assert len(window.tokens) > kept_prefix + lengths[first]
