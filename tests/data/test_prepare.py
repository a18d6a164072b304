"""Prepared rows: counts, the cache key, and resuming after a kill."""

import json
import shutil
import threading
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from huggingface_hub import constants

from parrot_jax import dialogue as dialogue_room
from parrot_jax.core import logs
from parrot_jax.core.errors import UserError
from parrot_jax.core.files import hash_json
from parrot_jax.data import parts as parts_module
from parrot_jax.data import prepare as prepare_module
from parrot_jax.data.cache_key import row_settings
from parrot_jax.data.data_config import DataConfig, MaskConfig
from parrot_jax.data.pipeline import Batches
from parrot_jax.data.prepare import held_out, note_shared_files, prepare, read_split
from parrot_jax.data.read_progress import ReadProgress
from parrot_jax.data.templates import make_template
from parrot_jax.data.tokenizers import load_tokenizer
from parrot_jax.dialogue.sources import ReadReport, SourceConfig, read_sources

WriteDialogues = Callable[..., Path]

ASK = MaskConfig(loss_roles=("user",), skip_first_turn=True)


@pytest.fixture
def config(tmp_path: Path, tiny_tokenizer: Path, write_dialogues: WriteDialogues) -> DataConfig:
    path = write_dialogues(tmp_path / "dialogues.jsonl", 40)
    return DataConfig(
        sources=(SourceConfig(kind="messages", path=str(path)),),
        eval_fraction=0.25,
        tokenizer=str(tiny_tokenizer),
        mask=ASK,
        row_tokens=256,
        cache_dir=str(tmp_path / "cache"),
    )


def test_counts_add_up(config: DataConfig) -> None:
    train, held = prepare(config, "train"), prepare(config, "eval")
    assert train.counts["dialogues"] + held.counts["dialogues"] == 40
    assert train.counts["dropped"]["in the other split"] == held.counts["dialogues"]
    rows = train.rows()
    assert len(rows) == train.counts["rows"]
    live = sum(int((rows[i]["loss_weights"] > 0).sum()) for i in range(len(rows)))
    tokens = sum(int((rows[i]["segment_ids"] > 0).sum()) for i in range(len(rows)))
    assert live == train.counts["live_tokens"]
    assert tokens == train.counts["tokens"]
    assert train.counts["padding_share"] == pytest.approx(1 - tokens / (len(rows) * 256))
    spans = train.spans()
    assert int((spans["stop"] - spans["start"]).sum()) == live
    # Parrot-Ask: each dialogue of three rounds has two live questions, not the first.
    assert len(spans) == 2 * train.counts["sessions"]
    assert set(spans["turn"].tolist()) == {2, 4}
    assert spans["is_user"].all()


def test_the_eval_split_has_all_turns_live_whatever_the_mask(config: DataConfig) -> None:
    chat = replace(config, mask=MaskConfig(loss_roles=("assistant",)))
    assert prepare(config, "eval").folder == prepare(chat, "eval").folder
    assert prepare(config, "train").folder != prepare(chat, "train").folder
    spans = prepare(config, "eval").spans()
    assert set(spans["turn"].tolist()) == {0, 1, 2, 3, 4, 5}


def test_the_cache_is_used_until_the_content_changes(
    config: DataConfig, write_dialogues: WriteDialogues
) -> None:
    first = prepare(config, "train")
    stamp = (first.folder / "rows-00000.npy").stat().st_mtime_ns
    again = prepare(config, "train")
    assert again.folder == first.folder
    assert (again.folder / "rows-00000.npy").stat().st_mtime_ns == stamp
    write_dialogues(Path(config.sources[0].path), 41)
    assert prepare(config, "train").folder != first.folder


def test_each_size_of_a_sample_has_rows_of_its_own(config: DataConfig) -> None:
    def dialogues(**settings: Any) -> int:
        sources = (replace(config.sources[0], **settings),)
        changed = replace(config, sources=sources, eval_fraction=0.0)
        return prepare(changed, "train").counts["dialogues"]

    assert [dialogues(sample=5), dialogues(sample=10), dialogues(), dialogues(limit=7)] == [
        5, 10, 40, 7,
    ]  # fmt: skip


def key(config: DataConfig, split: str = "train") -> str:
    return hash_json(
        row_settings(config, split, make_template("parrot", load_tokenizer(config.tokenizer)))
    )


def test_the_key_holds_every_setting_but_those_that_name_a_place(config: DataConfig) -> None:
    others: dict[str, Any] = {
        "sources": (config.sources[0], config.sources[0]), "eval_fraction": 0.5, "row_tokens": 128,
        "mask": MaskConfig(loss_roles=("user",)), "packing": False, "trim_dead": False, "seed": 1,
        "template": "another",
    }  # fmt: skip
    same = {"cache_dir": "elsewhere", "eval_sources": config.sources}
    assert others.keys() | same.keys() | {"tokenizer"} == {f.name for f in fields(DataConfig)}
    for name, value in others.items():
        assert key(replace(config, **{name: value})) != key(config), name
    for name, value in same.items():
        assert key(replace(config, **{name: value})) == key(config), name
    assert key(replace(config, eval_sources=config.sources), "eval") != key(config, "eval")


def test_a_setting_that_is_new_is_in_the_key(config: DataConfig) -> None:
    @dataclass(frozen=True, kw_only=True)
    class NewerSource(SourceConfig):
        languages: tuple[str, ...] = ()

    @dataclass(frozen=True, kw_only=True)
    class NewerData(DataConfig):
        shuffled: bool = False

    def newer(languages: tuple[str, ...], shuffled: bool) -> str:
        path = config.sources[0].path
        source = NewerSource(kind="messages", path=path, languages=languages)
        values = {f.name: getattr(config, f.name) for f in fields(DataConfig)}
        return key(NewerData(**(values | {"sources": (source,)}), shuffled=shuffled))

    keys = {newer((), False), newer(("en",), False), newer((), True), newer(("en",), True)}
    assert len(keys) == 4


def test_the_key_knows_the_bytes_and_not_the_place_of_a_file(
    config: DataConfig, tmp_path: Path
) -> None:
    def at(path: Path) -> DataConfig:
        return replace(config, sources=(replace(config.sources[0], path=str(path)),))

    moved = tmp_path / "moved.jsonl"
    moved.write_bytes(Path(config.sources[0].path).read_bytes())
    assert key(at(moved)) == key(config)
    # The suffix may decide how a file is read.
    other_end = moved.with_name("moved.json")
    other_end.write_bytes(moved.read_bytes())
    assert key(at(other_end)) != key(config)
    with moved.open("a") as file:
        file.write("\n")
    assert key(at(moved)) != key(config)


def test_files_that_the_card_of_a_local_data_set_names_elsewhere_are_in_the_key(
    config: DataConfig, tmp_path: Path
) -> None:
    def at(path: Path) -> str:
        return key(replace(config, sources=(SourceConfig(kind="huggingface", path=str(path)),)))

    folder, real = tmp_path / "set", tmp_path / "real"
    folder.mkdir()
    real.mkdir()
    (real / "a.jsonl").write_text("{}\n")
    header = "---\nconfigs:\n- config_name: default\n  data_files:\n  - split: train\n    path: "
    (folder / "README.md").write_text(f'{header}"../real/*.jsonl"\n---\n')
    first = at(folder)
    assert at(folder) == first
    (real / "a.jsonl").write_text("{ }\n")
    second = at(folder)
    (real / "b.jsonl").write_text("{}\n")
    assert len({first, second, at(folder)}) == 3


def test_a_local_data_set_is_known_by_its_bytes_and_one_of_the_hub_by_its_commit(
    config: DataConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def at(path: str) -> str:
        return key(replace(config, sources=(SourceConfig(kind="huggingface", path=path),)))

    folder = tmp_path / "set" / "data"
    folder.mkdir(parents=True)
    rows = folder / "train.jsonl"
    rows.write_text("{}\n")
    local = at(str(tmp_path / "set"))
    assert at(str(tmp_path / "set")) == local
    assert at(f"{tmp_path / 'set'}@test") != local
    rows.write_text("{ }\n")
    assert at(str(tmp_path / "set")) != local

    commits = ["1" * 40]

    class Hub(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps({"id": "a/b", "sha": commits[-1]}).encode()
            self.send_response(200 if self.path.startswith("/api/datasets/a/b") else 404)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        first = at("hf://a/b")
        assert at("hf://a/b") == first
        commits.append("2" * 40)
        second = at("hf://a/b")
        assert second != first
        server.shutdown()
    # Without a network, the rows of the last known commit are used.
    assert at("hf://a/b") == second


def test_rows_of_another_program_are_made_again(
    config: DataConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = key(config)
    copy = tmp_path / "dialogue"
    shutil.copytree(Path(dialogue_room.__file__).parent, copy)
    monkeypatch.setattr(dialogue_room, "__file__", str(copy / "__init__.py"))
    assert key(config) == before
    with (copy / "readers.py").open("a") as file:
        file.write("# mended\n")
    assert key(config) != before


@pytest.mark.parametrize("name", ["rows-00000.npy", "spans-00000.npy", "prepared.json"])
def test_damaged_rows_are_made_again(
    config: DataConfig, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    first = prepare(config, "train")
    path = first.folder / name
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]) if name != "prepared.json" else b"{")
    assert prepare(config, "train") == first
    assert path.read_bytes() == whole
    assert "are damaged; preparing them again" in capsys.readouterr().out


def test_a_dialogue_is_measured_once_whatever_its_weight(config: DataConfig) -> None:
    def dialogues(weight: float, split: Any) -> int:
        sources = (replace(config.sources[0], weight=weight),)
        return prepare(replace(config, sources=sources), split).counts["dialogues"]

    assert dialogues(2.0, "train") == 2 * dialogues(1.0, "train")
    assert dialogues(2.0, "eval") == dialogues(1.0, "eval")


def test_a_killed_preparation_goes_on_and_gives_the_same_bytes(
    config: DataConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prepare_module, "BLOCK_DIALOGUES", 8)
    whole = prepare(replace(config, cache_dir=str(tmp_path / "whole")), "train")
    made: list[int] = []
    original = parts_module.make_rows

    def dies_in_the_third_part(block: Any, first: int, *arguments: Any, **options: Any) -> Any:
        number = first // 8
        if number == 2 and not made.count(2):
            made.append(2)
            raise KeyboardInterrupt
        made.append(number)
        return original(block, first, *arguments, **options)

    monkeypatch.setattr(parts_module, "make_rows", dies_in_the_third_part)
    with pytest.raises(KeyboardInterrupt):
        prepare(config, "train")
    assert not list(Path(config.cache_dir).glob("*/prepared.json")), "half a cache was kept"
    resumed = prepare(config, "train")
    assert made[:3] == [0, 1, 2]
    assert made[3] == 2, "complete parts must not be made again"
    assert resumed.counts == whole.counts
    for path in sorted(whole.folder.glob("*.npy")):
        assert path.read_bytes() == (resumed.folder / path.name).read_bytes()


def test_copies_and_branches_of_a_dialogue_fall_on_one_side(config: DataConfig) -> None:
    for dialogue in read_split(config, "train"):
        assert not held_out(dialogue, 0.25, 0)
        copy = replace(dialogue, turns=dialogue.turns[:2], id="copy")
        assert not held_out(copy, 0.25, 0)


def test_no_live_token_is_an_error(
    config: DataConfig, tmp_path: Path, write_dialogues: WriteDialogues
) -> None:
    path = write_dialogues(tmp_path / "single.jsonl", 5, rounds=1)
    single = replace(
        config, sources=(SourceConfig(kind="messages", path=str(path)),), eval_fraction=0.0
    )
    with pytest.raises(UserError, match="no live tokens: none of 5 dialogues"):
        prepare(single, "train")


def test_where_every_live_turn_is_longer_than_a_row_the_row_is_the_cause(
    config: DataConfig, tmp_path: Path
) -> None:
    path = tmp_path / "long.jsonl"
    said = [("user", "hi"), ("assistant", "word " * 300), ("user", "word " * 300)]
    messages = [{"role": role, "content": text} for role, text in said]
    path.write_text(json.dumps({"messages": messages}))
    sources = (SourceConfig(kind="messages", path=str(path)),)
    with pytest.raises(UserError, match=r"is longer than data.row_tokens=256 allows; raise it"):
        prepare(replace(config, sources=sources, eval_fraction=0.0), "train")


def test_the_context_of_an_answer_is_in_its_row_and_not_live(
    config: DataConfig, tmp_path: Path
) -> None:
    path = tmp_path / "tools.jsonl"
    said = [("user", "what word"), ("tool", "river"), ("assistant", "hills")]
    messages = [{"role": role, "content": text} for role, text in said]
    path.write_text(json.dumps({"messages": messages}))
    sources = (SourceConfig(kind="messages", path=str(path)),)
    mask = MaskConfig(loss_roles=("assistant",))
    data = replace(config, sources=sources, eval_fraction=0.0, mask=mask)
    row = prepare(data, "train").rows()[0]
    tokenizer = load_tokenizer(config.tokenizer)
    live = row["loss_weights"] > 0
    text = tokenizer.show(row["tokens"][row["segment_ids"] > 0].tolist())
    assert text == "<s>USER: what word</s>ASSISTANT: river\n\nhills</s>"
    assert tokenizer.show(row["tokens"][live].tolist()) == "hills</s>"


def test_memory_does_not_grow_with_the_data(
    config: DataConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    write_dialogues: WriteDialogues,
) -> None:
    monkeypatch.setattr(prepare_module, "BLOCK_DIALOGUES", 10)

    def peak(count: int) -> int:
        path = write_dialogues(tmp_path / f"{count}.jsonl", count)
        sources = (SourceConfig(kind="messages", path=str(path)),)
        tracemalloc.start()
        prepare(replace(config, sources=sources), "train")
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    peak(10)  # loads lazy imports
    assert peak(160) < 1.5 * peak(20)


def test_batches_are_a_function_of_the_step_on_any_number_of_hosts(config: DataConfig) -> None:
    rows = prepare(config, "train").rows()
    alone = Batches(rows, batch_rows=4, seed=1)
    for step in (0, 3, 11):
        joined = np.concatenate([alone.read(step, places)["tokens"] for places in ((0, 1), (2, 3))])
        np.testing.assert_array_equal(joined, alone[step]["tokens"])
    # An epoch visits each row once.
    num_rows = len(rows)
    seen = np.concatenate([alone[s]["tokens"] for s in range(num_rows)])[: 2 * num_rows]
    expected = sorted(rows[i]["tokens"].tobytes() for i in range(num_rows))
    assert sorted(row.tobytes() for row in seen[:num_rows]) == expected
    assert sorted(row.tobytes() for row in seen[num_rows:]) == expected


def test_a_held_out_file_that_is_trained_on_is_named(
    config: DataConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def note(eval_path: Path) -> str:
        sources = (SourceConfig(kind="messages", path=str(eval_path)),)
        both = replace(config, eval_sources=sources, eval_fraction=0.0)
        note_shared_files(prepare(both, "train"), prepare(both, "eval"))
        return " ".join(capsys.readouterr().out.split())

    copy = tmp_path / "copy.jsonl"
    copy.write_bytes(Path(config.sources[0].path).read_bytes())
    assert "data.eval_sources has 1 of the files in data.sources" in note(copy)
    with copy.open("a") as file:
        file.write("\n")
    assert note(copy) == ""


def test_a_long_preparation_says_how_far_it_is_and_how_long_it_takes(
    config: DataConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(prepare_module, "BLOCK_DIALOGUES", 10)
    now = [0.0]

    def tick() -> float:
        now[0] += 30.0
        return now[0]

    monkeypatch.setattr(logs, "time", SimpleNamespace(monotonic=tick))
    prepare(replace(config, eval_fraction=0.0), "train")
    # Each line is one dialogue; a block takes 30 s.
    assert capsys.readouterr().out.splitlines() == [
        "prepare train: 20 dialogues done, 50% of the files read, about 1 min left",
        "prepare train: 30 dialogues done, 75% of the files read, about 30 s left",
        "prepare train: 40 dialogues done, 100% of the files read, about 0 s left",
    ]


@pytest.mark.parametrize(
    ("settings", "shares"),
    [
        ([{}], [0.25, 0.5, 0.75, 1.0]),
        ([{"limit": 20}], [0.5, 1.0]),
        ([{"sample": 20, "weight": 2.0}], [0.25, 0.5, 0.75, 1.0]),
        # Two sources of equal size.
        ([{"limit": 10}, {}], [0.5, 0.625, 0.75, 0.875, 1.0]),
    ],
)
def test_the_share_that_was_read(
    config: DataConfig, settings: list[dict[str, Any]], shares: list[float]
) -> None:
    sources = [replace(config.sources[0], **each) for each in settings]
    progress, report = ReadProgress(sources), ReadReport()
    dialogues = read_sources(sources, seed=0, report=report)
    seen = [progress.share(report) for n, _ in enumerate(dialogues, 1) if n % 10 == 0]
    assert seen == shares


def test_a_list_in_one_line_does_not_say_how_far_it_is_read(
    config: DataConfig, tmp_path: Path
) -> None:
    rows = [json.loads(line) for line in Path(config.sources[0].path).read_text().splitlines()]
    pretty, flat = tmp_path / "pretty.json", tmp_path / "flat.json"
    pretty.write_text(json.dumps(rows, indent=1))
    flat.write_text(json.dumps(rows))

    def shares(path: Path) -> list[float | None]:
        sources = [SourceConfig(kind="messages", path=str(path))]
        progress, report = ReadProgress(sources), ReadReport()
        dialogues = read_sources(sources, seed=0, report=report)
        return [progress.share(report) for n, _ in enumerate(dialogues, 1) if n % 20 == 0]

    assert shares(flat) == [None, None]
    half, end = shares(pretty)
    assert half == pytest.approx(0.48, abs=0.03)
    assert end == pytest.approx(0.98, abs=0.03)
