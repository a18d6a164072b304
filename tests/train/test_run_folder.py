"""The run folder: which runs may resume in it, and errors about damaged ones."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import pytest

from parrot_jax.cli import main
from parrot_jax.core.config import load_config
from parrot_jax.core.errors import UserError
from parrot_jax.data.prepare import prepare
from parrot_jax.data.templates import make_template
from parrot_jax.data.tokenizers import load_tokenizer
from parrot_jax.train.run_data import describe_data
from parrot_jax.train.run_folder import RunFolder
from parrot_jax.train.train_config import OptimConfig, TrainConfig


@pytest.fixture
def config(tiny_run: Path) -> TrainConfig:
    return load_config(TrainConfig, tiny_run)


def start(config: TrainConfig, **options: Any) -> None:
    """Starts or resumes a run as training does, without training."""
    data = describe_data(config.data, prepare(config.data, "train"), prepare(config.data, "eval"))
    tokenizer = load_tokenizer(config.data.tokenizer)
    with RunFolder(config.out).open(config, make_template("parrot", tokenizer), data, **options):
        pass


def test_other_rows_are_refused_and_named(config: TrainConfig, write_dialogues: Any) -> None:
    start(config)
    before = json.loads(Path(config.out, "data.json").read_text())
    path = Path(config.data.sources[0].path)
    write_dialogues(path, 60)
    with pytest.raises(UserError) as refused:
        start(config)
    message = str(refused.value)
    assert f"has a run with other data (data.rows: train {before['train']['rows']} -> " in message
    assert f"data.rows: eval {before['eval']['rows']} -> " in message
    assert message.count(f"{path}: 40 -> 60 rows read") == 2
    assert message.endswith("or allow the change with --allow-changes data.rows.")
    # The refused start changed nothing: with the old file, the run resumes.
    write_dialogues(path, 40)
    start(config)


def test_allowed_changes_are_what_the_run_has_from_then_on(
    config: TrainConfig, write_dialogues: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    start(config)
    write_dialogues(Path(config.data.sources[0].path), 60)
    changed = replace(config, optim=OptimConfig(lr=0.5))
    with pytest.raises(UserError, match=r"another config \(optim.lr: 0.01 -> 0.5\); .* optim.lr\."):
        start(changed, allow_changes=["data", "optim.beta1"])
    start(changed, allow_changes=["data", "optim.lr"])
    (line,) = Path(config.out, "changes.jsonl").read_text().splitlines()
    names = [text.partition(":")[0] for text in json.loads(line)["changes"]]
    assert names == ["optim.lr", "data.rows", "data.rows"]
    assert (
        "resuming with changes: optim.lr: 0.01 -> 0.5; data.rows: train" in capsys.readouterr().out
    )
    start(changed)
    assert RunFolder(config.out).load_config().optim.lr == 0.5


def test_another_tokenizer_under_the_same_name_is_refused(
    config: TrainConfig, tmp_path: Path
) -> None:
    from sentencepiece import sentencepiece_model_pb2

    tokenizer = tmp_path / "tokenizer.model"
    tokenizer.write_bytes(Path(config.data.tokenizer).read_bytes())
    config = replace(config, data=replace(config.data, tokenizer=str(tokenizer)))
    start(config)
    model = sentencepiece_model_pb2.ModelProto()  # pyright: ignore[reportAttributeAccessIssue]
    model.ParseFromString(tokenizer.read_bytes())
    # Swaps two pieces that no row uses: the ids stay the same, but mean other texts.
    pieces = [piece for piece in model.pieces if piece.type == piece.NORMAL]
    pieces[0].piece, pieces[1].piece = pieces[1].piece, pieces[0].piece
    tokenizer.write_bytes(model.SerializeToString())
    with pytest.raises(
        UserError, match=r"other data \(data.tokenizer: .*tokenizer.model has changed\)"
    ):
        start(config)


def test_another_seed_of_a_sample_is_a_changed_config_and_changed_rows(
    config: TrainConfig,
) -> None:
    source = replace(config.data.sources[0], sample=30)
    config = replace(config, data=replace(config.data, sources=(source,)))
    start(config)
    with pytest.raises(UserError, match=r"another config \(data.seed: 0 -> 1; data.rows: t") as it:
        start(replace(config, data=replace(config.data, seed=1)))
    assert "(same files, but other settings or" in str(it.value)


def test_other_bytes_that_give_the_same_rows_are_no_change(config: TrainConfig) -> None:
    start(config)
    with open(config.data.sources[0].path, "a") as file:
        file.write("\n\n")
    start(config)


def test_a_run_that_kept_no_hash_continues_with_a_note(
    config: TrainConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    start(config)
    Path(config.out, "data.json").unlink()
    start(config)
    assert "stored no hash of its rows" in capsys.readouterr().out
    assert json.loads(Path(config.out, "data.json").read_text())["train"]["rows"] > 0


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b'{"train": 3}', b"\xff\x00"])
def test_a_damaged_record_of_the_data_is_one_line(config: TrainConfig, content: bytes) -> None:
    start(config)
    Path(config.out, "data.json").write_bytes(content)
    with pytest.raises(UserError, match=r"data.json is damaged: .*(delete|remove) it"):
        start(config)


@pytest.mark.parametrize("name", ["metrics.jsonl", "samples.jsonl"])
@pytest.mark.parametrize("line", [b"{", b"3", b"{}", b'{"step": "1"}', b"\xff\x00\x00"])
def test_a_damaged_line_is_named(config: TrainConfig, name: str, line: bytes) -> None:
    folder = RunFolder(config.out)
    file = folder.metrics if name == "metrics.jsonl" else folder.samples
    file.path.parent.mkdir()
    file.append(step=1)
    with file.path.open("ab") as appended:
        appended.write(line + b"\n")
    file.append(step=3)
    with pytest.raises(UserError, match=rf"{name}:2 is damaged: .* delete that line"):
        file.keep_through(2)
    assert len(file.path.read_bytes().splitlines()) == 3, "no line is lost"


def test_what_a_kill_leaves_of_a_line_is_dropped(config: TrainConfig) -> None:
    file = RunFolder(config.out).metrics
    file.path.parent.mkdir()
    file.append(step=1)
    for rest in (b'{"step": 2, "lo', b"\x00" * 100):
        with file.path.open("ab") as appended:
            appended.write(rest)
        file.keep_through(5)
        assert file.path.read_text() == '{"step": 1}\n'


def test_an_out_that_is_a_file_is_refused_before_anything_is_prepared(
    tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("mine")
    cache = tmp_path / "cache"
    for out in ("file", "file/run"):
        options = ["--out", str(tmp_path / out), "--data.cache-dir", str(cache)]
        for verb in (["train"], ["train", "--preflight"]):
            assert main([verb[0], str(tiny_run), *options, *verb[1:]]) == 2
            (line,) = capsys.readouterr().err.splitlines()
            assert line.startswith(f"parrot: cannot write a run to {tmp_path / out}: ")
            assert line.endswith("choose another --out, or free some space.")
    assert (tmp_path / "file").read_text() == "mine"
    assert not cache.exists()


def test_a_cache_that_is_a_file_is_one_line(
    tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("mine")
    for verb in (["train"], ["data", "prepare"]):
        assert main([*verb, str(tiny_run), "--data.cache-dir", str(tmp_path / "file" / "x")]) == 2
        assert "cannot create the folder data.cache_dir" in capsys.readouterr().err
    # Later compilations in this process do not use a cache below that file.
    assert str(tmp_path) not in str(jax.config.jax_compilation_cache_dir)


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff"])
def test_damaged_versions_of_a_run_are_one_line(config: TrainConfig, content: bytes) -> None:
    start(config)
    folder = RunFolder(config.out)
    (folder.path / "versions.json").write_bytes(content)
    with pytest.raises(UserError, match=r"versions.json is damaged: .* restore a copy"):
        folder.training()
