"""A training config shows the same live text as `parrot data show`."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from parrot_jax.cli import main
from parrot_jax.view.indexing import Part
from parrot_jax.view.query import Query
from parrot_jax.view.reading import IndexReader

from .conftest import row, update


@pytest.mark.parametrize("objective", ["sft", "preference"])
def test_the_live_text_is_that_of_data_show(
    tmp_path: Path, tiny_tokenizer: Path, open_part: Callable[[Path | str], Part],
    capsys: pytest.CaptureFixture[str], objective: str,
) -> None:  # fmt: skip
    texts = ("the river", "of Velora", "and its hills", "be brief")
    pair = json.dumps({"id": "p", "prompt": "the river", "chosen": "of Velora", "rejected": "bye"})
    source = tmp_path / "a.jsonl"
    source.write_text(row(0, *texts) if objective == "sft" else pair + "\n")
    config = tmp_path / "config.yaml"
    kind = "messages" if objective == "sft" else "preference"
    values = {
        "task": "ask", "objective": objective,
        "data": {
            "sources": [{"kind": kind, "path": str(source)}],
            "tokenizer": str(tiny_tokenizer), "row_tokens": 128, "eval_fraction": 0.0,
            "mask": {"loss_roles": ["user" if objective == "sft" else "assistant"],
                     "skip_first_turn": objective == "sft"},
            "cache_dir": str(tmp_path / "cache"),
        },
    }  # fmt: skip
    config.write_text(yaml.safe_dump(values))
    part = update(open_part(config))
    assert part.problem == ""
    reader = IndexReader(part.index)
    assert [one.place for one in reader.page(Query()).rows] == [f"{source}:1"]
    shown = reader.dialogue(0)
    assert shown is not None
    found = part.source.live_text(shown)
    marked = [
        "".join(f"[[live]]{run.text}[[/live]]" if run.is_live else run.text for run in window.runs)
        for window in found.windows
    ]
    assert main(["data", "show", str(config)]) == 0
    printed = capsys.readouterr().out
    for window, text in zip(found.windows, marked, strict=True):
        assert f"{window.name}: {window.tokens:,} tokens, {window.live:,} live" in printed
        assert text in printed
    live = re.findall(r"\[\[live\]\](.*?)\[\[/live\]\]", "".join(marked))
    assert [text.strip() for text in live] == (
        ["and its hills</s>"] if objective == "sft" else ["of Velora</s>", "bye</s>"]
    )
