"""Live ids, and how long dialogues are cut into windows; numbers can be checked by eye."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from parrot_jax.data.data_config import MaskConfig
from parrot_jax.data.masks import MaskedTurn, mask_turns
from parrot_jax.data.templates import make_template
from parrot_jax.data.templates.base import RenderedTurn, Rendering
from parrot_jax.data.tokenizers import Tokenizer, load_tokenizer
from parrot_jax.data.windows import Cutter, Window, make_windows
from parrot_jax.dialogue.sources import ReadReport, SourceConfig, read_sources
from parrot_jax.dialogue.types import Dialogue, Turn

HEADER, END, MARK = 7, 2, 5


@pytest.fixture(scope="module")
def tokenizer(llama_tokenizer_model: Path) -> Tokenizer:
    return load_tokenizer(llama_tokenizer_model)


@pytest.fixture(scope="module")
def cutter(tokenizer: Tokenizer) -> Cutter:
    return Cutter(make_template("parrot", tokenizer))


DIALOGUE = Dialogue(
    system="be brief",
    turns=(
        Turn("user", "hi"), Turn("assistant", "hello"),
        Turn("user", "bye"), Turn("assistant", "see you"),
    ),
)  # fmt: skip


def live_text(tokenizer: Tokenizer, **mask: object) -> str:
    """The single window of DIALOGUE, with live tokens in brackets."""
    turns = mask_turns(DIALOGUE, MaskConfig(**mask))  # type: ignore[arg-type]
    (rendering,) = make_template("parrot", tokenizer).render(
        [(DIALOGUE.system, [(t.role, t.text) for t in turns])]
    )
    (window,) = make_windows(
        rendering, turns, 64, Counter(), cutter=Cutter(make_template("parrot", tokenizer))
    )
    pairs = zip(window.tokens.tolist(), window.loss_weights.tolist(), strict=True)
    return "".join(f"[{tokenizer.show([i])}]" if w else tokenizer.show([i]) for i, w in pairs)


def test_exactly_which_ids_are_live_for_ask(tokenizer: Tokenizer) -> None:
    # Text after the last live turn carries no loss and is left out.
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


class Numbers(Cutter):
    """A cutter for numbers: a text may begin at any id."""

    def __init__(self) -> None:
        self.mark = [MARK]
        self._bare = RenderedTurn([1], 1)
        self._system_end = [END]
        self._openings = np.ones(1300, np.uint8)


CUTTER = Numbers()


def dialogue(lengths: list[int], live: list[int], prefix: int = 1) -> tuple[Rendering, list]:
    """A dialogue with turns of these lengths; token values 300, 301, ... are in turn 3."""
    turns = [
        RenderedTurn([HEADER, *(100 * i + k % 100 for k in range(n - 2)), END], 1)
        for i, n in enumerate(lengths)
    ]
    # Small token values are reserved (HEADER, END, ...), so the first turn uses 1200 to 1299.
    turns[0] = RenderedTurn([HEADER, *(1200 + k % 100 for k in range(lengths[0] - 2)), END], 1)
    masked = [
        MaskedTurn("user" if i % 2 == 0 else "assistant", "x", float(i in live))
        for i in range(len(lengths))
    ]
    before = RenderedTurn([1] * prefix, min(prefix, 2), num_tail=int(prefix > 2))
    return Rendering(before, turns), masked


def windows_of(
    lengths: list[int], live: list[int], row: int, **options: bool
) -> tuple[list[Window], Counter[str]]:
    counts: Counter[str] = Counter()
    windows = make_windows(*dialogue(lengths, live), row, counts, cutter=CUTTER, **options)
    return list(windows), counts


def shown(window: Window) -> str:
    """The turns of a window with their numbers of ids; `..` marks a shortened turn."""
    ids = window.tokens.tolist()
    texts = []
    at = ids.index(HEADER)
    while at < len(ids):
        end = ids.index(END, at) + 1
        turn = ids[at:end]
        first = turn[1] if turn[1] != MARK else turn[2]
        number = 0 if first >= 1200 else first // 100
        texts.append(f"{'..' if turn[1] == MARK else ''}{number}:{len(turn)}")
        at = end
    return " ".join(texts)


def turns_in(window: Window) -> list[int]:
    return sorted({int(t) % 1200 // 100 for t in window.tokens[1:] if t not in (HEADER, END, MARK)})


def test_a_long_dialogue_becomes_windows_with_history() -> None:
    # Row 101 = BOS + 100. Turns of 20: the first window has 5, later ones at most 50 new tokens.
    windows, counts = windows_of([20] * 10, live=[1, 3, 5, 7, 9], row=101)
    assert [shown(w) for w in windows] == [
        "0:20 1:20 2:20 3:20",
        "2:20 3:20 4:20 5:20",
        "4:20 5:20 6:20 7:20",
        "6:20 7:20 8:20 9:20",
    ]
    assert [[s.turn for s in w.spans] for w in windows] == [[1, 3], [5], [7], [9]]
    assert counts == {"windows": 4}


@pytest.mark.parametrize(
    ("lengths", "live", "window"),
    [
        # The question is too long, its answer short: the question's end fills the row.
        ([300, 10, 10], 2, "..0:80 1:10 2:10"),
        # The answer is too long, its question short: the question is kept whole.
        ([10, 300, 10], 2, "0:10 ..1:80 2:10"),
        # Both are too long: the question keeps 25 ids, a quarter of the room.
        ([300, 300, 10], 2, "..0:25 ..1:65 2:10"),
        # The same, with later turns that fit.
        ([300, 300, 10, 10, 10], 4, "..0:25 ..1:45 2:10 3:10 4:10"),
        # Only 10 ids are left for question 0, so answer 1 gives up 15 of its own, ...
        ([300, 60, 10, 10, 10], 4, "..0:25 ..1:45 2:10 3:10 4:10"),
        # ... unless too little of the answer would be left: then the window opens with question 2.
        ([300, 30, 40, 10, 10], 4, "2:40 3:10 4:10"),
        # A live answer is kept whole, after the end of its question.
        ([300, 75], 1, "..0:25 1:75"),
        ([300, 96], 1, "..0:4 1:96"),
        # A live question that leaves no room opens the window itself.
        ([300, 300, 90], 2, "2:90"),
    ],
)  # fmt: skip
def test_a_window_opens_with_a_question_and_marks_what_is_cut(
    lengths: list[int], live: int, window: str
) -> None:
    (made,), _ = windows_of(lengths, [live], row=101)
    assert shown(made) == window
    assert [span.turn for span in made.spans] == [live]


def test_a_context_turn_that_is_too_long_keeps_its_end() -> None:
    windows, counts = windows_of([10, 300, 10], live=[2], row=101)
    assert counts == {"windows": 1, "cut_turns": 1}
    (window,) = windows
    assert len(window.tokens) == 101
    # BOS, turn 0, then turn 1 (header, mark, last 77 ids, terminator), then the live turn.
    assert window.tokens[11:14].tolist() == [HEADER, MARK, 100 + (297 - 76) % 100]
    assert window.tokens[89:94].tolist() == [197, END, HEADER, 200, 201]
    assert window.loss_weights.sum() == 9


def test_an_answer_that_leaves_no_room_for_its_question_is_dropped_and_counted() -> None:
    # The question's header, mark, one id and terminator plus 97 exceed 100.
    windows, counts = windows_of([300, 97], live=[1], row=101)
    assert windows == []
    assert counts == {"dropped_live_turns": 1}


def test_a_system_text_that_is_too_long_keeps_its_beginning() -> None:
    rendering, turns = dialogue([10, 10], [1])
    prefix = RenderedTurn([1, HEADER, *range(100, 150), END], 2, num_tail=1)
    rendering = rendering._replace(prefix=prefix)
    (window,) = make_windows(rendering, turns, 80, Counter(), cutter=CUTTER)
    assert window.tokens[:20].tolist() == [1, HEADER, *range(100, 116), MARK, END]


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
        windows = list(make_windows(rendering, turns, 101, counts, cutter=CUTTER, trim_dead=False))
        rows.append([w.tokens.tolist() for w in windows])
        assert [s.turn for w in windows for s in w.spans] == live
        assert sum(int((w.loss_weights > 0).sum()) for w in windows) == sum(
            lengths[i] - 1 for i in live
        )
    assert all(r == rows[0] for r in rows)


def test_nothing_live_gives_no_window() -> None:
    assert windows_of([10, 10], live=[], row=101) == ([], {})


@given(
    lengths=st.lists(st.integers(3, 90), min_size=1, max_size=12),
    live_bits=st.integers(0, 2**12 - 1),
    prefix=st.integers(1, 30),
    row=st.integers(40, 120),
    trim_dead=st.booleans(),
)
def test_each_live_turn_is_live_in_exactly_one_window(
    lengths: list[int], live_bits: int, prefix: int, row: int, trim_dead: bool
) -> None:
    live = [i for i in range(len(lengths)) if live_bits >> i & 1]
    rendering, turns = dialogue(lengths, live, prefix)
    counts: Counter[str] = Counter()
    windows = list(make_windows(rendering, turns, row, counts, cutter=CUTTER, trim_dead=trim_dead))
    learnt = [span.turn for window in windows for span in window.spans]
    num_prefix = prefix if prefix <= row // 4 else row // 4
    room = row - num_prefix
    least = min(32, room // 4)
    # An answer needs at least the last id of its question; a question may open a window.
    needed = [min(lengths[i - 1], 4) if i % 2 else 0 for i in range(len(lengths))]
    assert learnt == [i for i in live if lengths[i] + needed[i] <= room]
    assert counts["dropped_live_turns"] == len(live) - len(learnt)
    for window in windows:
        ids = window.tokens.tolist()
        assert len(ids) <= row
        assert window.loss_weights[-1] > 0 or not trim_dead, "a window must end with a live turn"
        marked = np.zeros(len(ids), bool)
        for span in window.spans:
            assert ids[span.start : span.stop] == rendering.turns[span.turn].ids[1:]
            marked[span.start : span.stop] = True
        np.testing.assert_array_equal(marked, window.loss_weights > 0)
        # Turns are consecutive, the first is a question, and only the first two may be shortened,
        # to a mark and their end.
        numbers, at = [], num_prefix
        while at < len(ids):
            end = ids.index(END, at) + 1
            first = ids[at + 1 + (ids[at + 1] == MARK)]
            numbers.append(0 if first >= 1200 else first // 100)
            whole = rendering.turns[numbers[-1]].ids
            if ids[at + 1] == MARK:
                assert len(numbers) <= 2
                assert ids[at + 2 : end] == whole[-(end - at - 2) :]
            else:
                assert ids[at:end] == whole
            at = end
        assert numbers == list(range(numbers[0], numbers[-1] + 1))
        assert numbers[0] % 2 == 0
        # A trained turn has the turn before it, if there is room.
        if numbers[0] == window.spans[0].turn > 0 if window.spans else False:
            assert room - lengths[numbers[0]] < 2 * least


TEXTS = {
    "words": "And what about the hills of Velora, then? I have not seen them yet. " * 20,
    "lines": "one\ntwo\n\n- three\n\tfour\n" * 40,
    "no spaces": "维洛拉的河流叫什么名字？" * 40,
    "bytes": "🦜🏔️" * 60,
}


@pytest.mark.parametrize("kind", TEXTS)
@given(num_ids=st.integers(9, 120))
def test_what_is_kept_of_a_text_begins_with_a_word_or_a_character(
    tokenizer: Tokenizer, cutter: Cutter, kind: str, num_ids: int
) -> None:
    (rendering,) = make_template("parrot", tokenizer).render([("", [("user", TEXTS[kind])])])
    (turn,) = rendering.turns
    cut = cutter.keep_end(turn, num_ids)
    assert num_ids // 2 - 4 <= len(cut.ids) <= num_ids
    text = tokenizer.show(cut.ids)
    assert text.startswith("USER: ...")
    kept = text.removeprefix("USER: ...").removesuffix("</s>")
    assert TEXTS[kind].strip().endswith(kept)
    # The ids equal those of the shortened text as sent to a server.
    if kind in ("words", "lines"):
        (again,) = make_template("parrot", tokenizer).render([("", [("user", "..." + kept)])])
        assert again.turns[0].ids == cut.ids


def test_no_window_of_real_dialogues_opens_with_an_answer(
    shared_data: Path, tokenizer: Tokenizer, cutter: Cutter
) -> None:
    source = SourceConfig(kind="messages", path=str(shared_data / "dialogues" / "wildchat.jsonl"))
    opening = tokenizer.encode(["</s>USER:"])[0][1:]
    seen: Counter[bool] = Counter()
    for dialogue in read_sources([source], seed=0, report=ReadReport()):
        turns = mask_turns(dialogue, MaskConfig(loss_roles=("user",), skip_first_turn=True))
        (rendering,) = make_template("parrot", tokenizer).render(
            [(dialogue.system, [(t.role, t.text) for t in turns])]
        )
        for window in make_windows(rendering, turns, 1024, seen, cutter=cutter):
            ids = window.tokens.tolist()
            start = 1 if not dialogue.system else ids.index(tokenizer.eos_id) + 1
            seen[ids[start : start + len(opening)] == opening] += 1
    # 503 windows; before this rule, 129 of them opened with an answer.
    assert seen[True] == seen["windows"] > 400
    assert not seen[False]
