"""Rows of preference pairs: one row for both sides, one context, no answer cut."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from parrot_jax.core.errors import UserError
from parrot_jax.data.data_config import DataConfig, MaskConfig
from parrot_jax.data.packing import PairLabel, kind_code, most_pairs
from parrot_jax.data.prepare import prepare
from parrot_jax.data.rows import Unit, make_rows, pack
from parrot_jax.data.templates import make_template
from parrot_jax.data.templates.base import Template
from parrot_jax.data.tokenizers import load_tokenizer
from parrot_jax.data.windows import LiveSpan, Window
from parrot_jax.dialogue.sources import SourceConfig
from parrot_jax.dialogue.types import Dialogue, Turn


@pytest.fixture(scope="module")
def template(llama_tokenizer_model: Path) -> Template:
    return make_template("parrot", load_tokenizer(str(llama_tokenizer_model)))


def pair(*turns: str, rejected: str, weight: float = 1.0, **fields: str) -> Dialogue:
    roles = ("user", "assistant")
    said = [Turn(roles[n % 2], text, weight=0.0) for n, text in enumerate(turns)]  # type: ignore[arg-type]
    said[-1] = replace(said[-1], weight=weight)
    metadata = {"kind": fields.pop("kind")} if "kind" in fields else {}
    return Dialogue(
        turns=tuple(said), rejected=Turn("assistant", rejected), metadata=metadata, **fields
    )


def config(row_tokens: int, **changes: object) -> DataConfig:
    return DataConfig(
        sources=(SourceConfig(kind="preference", path="unused"),), tokenizer="unused",
        mask=MaskConfig(loss_roles=("assistant",)), row_tokens=row_tokens, **changes,
    )  # type: ignore[arg-type]  # fmt: skip


EMMA = pair("Who wrote Emma?", "Jane Austen.", "When did she die?", "In 1817.",
            rejected="Who do you mean?", kind="neglect", weight=2.0, id="emma")  # fmt: skip


def test_a_pair_is_two_segments_with_the_same_context(template: Template) -> None:
    rows, spans, counts, too_long = make_rows([EMMA], 0, config(128), template, pairs=True)
    (row,) = rows
    texts = [
        template.tokenizer.show(row["tokens"][row["segment_ids"] == segment].tolist())
        for segment in (1, 2)
    ]
    context = "<s>USER: Who wrote Emma?</s>ASSISTANT: Jane Austen.</s>USER: When did she die?</s>"
    assert texts == [
        f"{context}ASSISTANT: In 1817.</s>", f"{context}ASSISTANT: Who do you mean?</s>"
    ]  # fmt: skip
    live = [
        template.tokenizer.show(row["tokens"][span["start"] : span["stop"]].tolist()).strip()
        for span in spans
    ]
    assert live == ["In 1817.</s>", "Who do you mean?</s>"]
    assert set(row["loss_weights"][spans[0]["start"] : spans[0]["stop"]]) == {2.0}
    assert (row["loss_weights"] > 0).sum() == sum(s["stop"] - s["start"] for s in spans)
    assert (row["kinds"][0], row["turns"][0]) == (kind_code("neglect"), 2)
    assert set(row["kinds"][1:]) == {0}
    assert (counts["sessions"], counts["kind:neglect"], counts["turn:2"], too_long) == (1, 1, 1, [])


def test_a_context_that_is_too_long_loses_its_beginning_on_both_sides(template: Template) -> None:
    long = pair("Who wrote Emma? " * 20, "Jane Austen. " * 20, "When did she die?", "In 1817.",
                rejected="She never died, as far as I know, and writes to this day.")  # fmt: skip
    rows, spans, counts, _ = make_rows([long], 0, config(128), template, pairs=True)
    (row,) = rows
    sides = [row["tokens"][row["segment_ids"] == segment] for segment in (1, 2)]
    answers = [span["stop"] - span["start"] for span in spans]
    headers = 5  # ▁A S S IST ANT : and the like: all before the answer is context
    contexts = [side[: len(side) - n - headers] for side, n in zip(sides, answers, strict=True)]
    assert contexts[0].tolist() == contexts[1].tolist()
    assert sum(map(len, sides)) <= 128
    assert (counts["cut_contexts"], counts["windows"]) == (1, 2)
    shown = template.tokenizer.show(sides[0].tolist())
    assert "..." in shown
    assert shown.endswith("USER: When did she die?</s>ASSISTANT: In 1817.</s>")


def test_a_pair_that_fits_is_not_cut_whatever_its_system_text_is(template: Template) -> None:
    long = pair("Why?", "So.", rejected="No.", system="Be brief. " * 8)
    (whole,), _, counts, _ = make_rows([long], 0, config(256), template, pairs=True)
    num_tokens = counts["tokens"]
    (row,), _, counts, _ = make_rows([long], 0, config(num_tokens), template, pairs=True)
    assert row["tokens"].tolist() == whole["tokens"][:num_tokens].tolist()
    assert (counts["cut_contexts"], counts["cut_turns"]) == (0, 0)
    _, _, counts, _ = make_rows([long], 0, config(num_tokens - 1), template, pairs=True)
    assert (counts["cut_contexts"], counts["cut_turns"]) == (1, 1)


def test_what_does_not_fit_is_dropped_and_listed(template: Template) -> None:
    long = pair("Why?", "Because. " * 60, rejected="No.", id="long")
    done = make_rows([EMMA, long], 0, config(128), template, pairs=True)
    assert (done.counts["sessions"], done.counts["pairs_too_long"]) == (1, 1)
    assert done.too_long == ["long"]


def test_other_dialogues_are_no_pairs_and_a_pair_is_a_dialogue_with_one_live_answer(
    template: Template,
) -> None:
    dialogue = Dialogue(turns=(Turn("user", "Hi"), Turn("assistant", "Hello!")))
    done = make_rows([EMMA, dialogue], 0, config(128), template, pairs=True)
    assert (done.counts["sessions"], done.counts["no_pair"]) == (1, 1)
    done = make_rows([EMMA], 0, config(128), template)
    (span,) = done.spans
    assert (span["turn"], done.counts["live_tokens"]) == (3, span["stop"] - span["start"])


lengths = st.lists(st.tuples(*[st.integers(2, 40)] * 3), min_size=1, max_size=60)


@given(lengths, st.booleans())
def test_a_pair_never_parts(found: list[tuple[int, int, int]], packing: bool) -> None:
    row_tokens = 160
    units = []
    for number, (context, *answers) in enumerate(found):
        windows = tuple(
            Window(
                np.full(context + n, number, np.int32),
                np.r_[np.zeros(context, np.float32), np.ones(n, np.float32)],
                [LiveSpan(1, "assistant", context, context + n)],
            )
            for n in answers
        )
        units.append(Unit(windows, number, PairLabel("", number + 1)))
    rows, spans = pack(units, row_tokens, packing=packing, pairs=True)
    seen = []
    for row in rows:
        used = row["segment_ids"].max()
        assert used % 2 == 0
        assert used <= 2 * most_pairs(row_tokens)
        for place in range(used // 2):
            (chosen,), (rejected,) = (
                set(row["tokens"][row["segment_ids"] == 2 * place + side]) for side in (1, 2)
            )
            assert chosen == rejected == row["turns"][place] - 1
            seen.append(chosen)
    assert sorted(seen) == list(range(len(found)))
    assert spans["dialogue"][::2].tolist() == spans["dialogue"][1::2].tolist()


def test_prepared_pairs_are_counted_by_kind_and_turn(
    tmp_path: Path, llama_tokenizer_model: Path
) -> None:
    def row(kind: str, turns: int, answer: str = "b") -> str:
        prompt = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}] * turns
        return json.dumps({"prompt": prompt[:-1], "chosen": answer, "rejected": "c", "kind": kind})

    path = tmp_path / "pairs.jsonl"
    path.write_text("\n".join([row("neglect", 1), row("hallucination", 2), row("neglect", 11),
                               row("neglect", 2, answer="b " * 300)]))  # fmt: skip
    data = replace(
        config(256), sources=(SourceConfig(kind="preference", path=str(path)),),
        tokenizer=str(llama_tokenizer_model), cache_dir=str(tmp_path / "cache"),
    )  # fmt: skip
    prepared = prepare(data, "train", pairs=True)
    counts = prepared.counts
    assert counts["kinds"] == {"neglect": 2, "hallucination": 1}
    assert list(counts["turns"].items()) == [("1", 1), ("2", 1), ("11", 1)]
    assert counts["too_long"] == ["pairs.jsonl:4"]
    assert prepared.folder != prepare(data, "train").folder
    path.write_text(json.dumps({"messages": [{"role": "user", "content": "a"}]}))
    data = replace(data, sources=(SourceConfig(kind="messages", path=str(path)),))
    with pytest.raises(UserError, match="no preference pair: of 1 dialogues in the train split, 1"):
        prepare(data, "train", pairs=True)
    path.write_text(json.dumps({"prompt": "a", "chosen": "b", "rejected": "c", "weight": 0}))
    data = replace(data, sources=(SourceConfig(kind="preference", path=str(path)),))
    with pytest.raises(UserError, match="0 have no rejected answer, 1 have weight 0"):
        prepare(data, "train", pairs=True)
