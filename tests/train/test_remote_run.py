"""A run with data, tokenizer and run folder in a bucket is bit-identical to one on a disk."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from parrot_jax.core.config import load_config
from parrot_jax.core.errors import RunError, UserError
from parrot_jax.core.files import write_json
from parrot_jax.core.paths import as_path
from parrot_jax.core.remote import RemotePath
from parrot_jax.data.prepare import prepare
from parrot_jax.data.templates import make_template
from parrot_jax.data.tokenizers import load_tokenizer
from parrot_jax.train.loop import train
from parrot_jax.train.run_data import describe_data
from parrot_jax.train.run_folder import RunFolder
from parrot_jax.train.train_config import TrainConfig
from parrot_jax.weights.checkpoints import Checkpoints
from parrot_jax.weights.model_folder import load_params


@pytest.fixture
def local(tiny_run: Path) -> TrainConfig:
    return load_config(TrainConfig, tiny_run)


@pytest.fixture
def remote(local: TrainConfig, bucket: str, tmp_path: Path) -> TrainConfig:
    """The same run with everything in a bucket; its rows are prepared again."""
    (source,) = local.data.sources
    for file, name in ((source.path, "d.jsonl"), (local.data.tokenizer, "tokenizer.model")):
        RemotePath(f"{bucket}/data/{name}").put(Path(file))
    data = replace(
        local.data,
        sources=(replace(source, path=f"{bucket}/data/*.jsonl"),),
        tokenizer=f"{bucket}/data/tokenizer.model",
        cache_dir=str(tmp_path / "cache"),
    )
    return replace(local, out=f"{bucket}/runs/tiny", data=data)


def lines(out: str, name: str = "metrics.jsonl") -> list[dict[str, Any]]:
    text = (as_path(out) / name).read_text(encoding="utf-8")
    return [{k: v for k, v in json.loads(line).items() if k != "step_s"} for line in
            text.splitlines()]  # fmt: skip


def assert_same_run(a: str, b: str) -> None:
    for x, y in zip(*(jax.tree.leaves(load_params(out)) for out in (a, b)), strict=True):
        np.testing.assert_array_equal(x, y)
    assert lines(a) == lines(b)
    samples = [[line for line in lines(out, "samples.jsonl") if line["step"] in (4, 7)]
               for out in (a, b)]  # fmt: skip
    assert samples[0] == samples[1]
    assert len(samples[0]) == 10, "five histories at two evaluations"
    for name in ("eval-000004.json", "eval-000007.npy"):
        results = [(as_path(out) / "results" / name).read_bytes() for out in (a, b)]
        assert results[0] == results[1]


@pytest.mark.slow
def test_a_damaged_checkpoint_in_a_bucket_is_gone_back_from(
    trained_run: Path, remote: TrainConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    import fsspec

    train(replace(remote, max_steps=6))
    store = fsspec.filesystem("gs", use_listings_cache=False)
    for path in store.find(f"{remote.out}/checkpoints/6/params"):
        if "/d/" in path:
            content = bytearray(store.cat_file(path))
            content[len(content) // 2] ^= 1
            store.pipe_file(path, bytes(content))
    train(remote)
    said = capsys.readouterr().out
    assert f"checkpoint {remote.out}/checkpoints/6 is damaged" in said
    assert f"resuming {remote.out} at step 3" in said
    assert_same_run(str(trained_run), remote.out)


@pytest.mark.slow
def test_a_run_in_a_bucket_stops_and_continues_to_the_bits_of_a_local_one(
    trained_run: Path, remote: TrainConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    for stop in (5, None):
        train(replace(remote, max_steps=stop))
    assert f"resuming {remote.out} at step 5" in capsys.readouterr().out
    assert_same_run(str(trained_run), remote.out)
    folder = RunFolder(remote.out)
    assert folder.load_config() == remote
    assert folder.latest_step() == 7
    assert load_tokenizer(folder.tokenizer).vocab_size == 340
    assert not list(Path().glob("gs:*")), "the address became a local folder"


@pytest.mark.slow
def test_a_run_in_a_bucket_speaks_and_starts_others(
    remote: TrainConfig, bucket: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from parrot_jax.cli import main
    from parrot_jax.commands.serve import ServeConfig
    from parrot_jax.commands.serve import _load as load_speaker

    train(replace(remote, max_steps=0))
    messages = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "bye"}]
    write_json(f"{bucket}/history.json", messages)
    arguments = ["--messages", f"{bucket}/history.json", "--max-tokens", "4"]
    capsys.readouterr()
    assert main(["generate", remote.out, *arguments]) == 0
    assert capsys.readouterr().out.count("\n") == 1
    assert load_speaker(ServeConfig(run=remote.out)).model == "tiny"
    more = replace(remote, out=str(tmp_path / "more"), init_from=remote.out, max_steps=0, seed=1)
    train(more)
    for x, y in zip(*(jax.tree.leaves(load_params(r.out)) for r in (more, remote)), strict=True):
        np.testing.assert_array_equal(x, y)
    checkpoints = Checkpoints(RunFolder(remote.out).checkpoints, read_only=True)
    assert len(checkpoints.identity(0)) == 64
    assert checkpoints.read(0, "norm").shape == (32,)


def data_of(config: TrainConfig) -> dict[str, Any]:
    return describe_data(config.data, prepare(config.data, "train"), prepare(config.data, "eval"))


def test_the_last_process_to_start_owns_a_run_in_a_bucket(
    remote: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = load_tokenizer(remote.data.tokenizer)
    first, second = RunFolder(remote.out), RunFolder(remote.out)
    with first.open(remote, make_template("parrot", tokenizer), data_of(remote)):
        first.metrics.append(step=1, loss=1.0)
        first.flush()
        with second.open(remote, make_template("parrot", tokenizer), data_of(remote)):
            first.metrics.append(step=2, loss=2.0)
            with pytest.raises(RunError, match=r"process \d+ on .* has started to train in gs://"):
                first.flush()
            second.flush()
    assert [line["step"] for line in second.metrics.read()] == [1]


def test_another_config_in_the_same_bucket_folder_is_refused(remote: TrainConfig) -> None:
    tokenizer = load_tokenizer(remote.data.tokenizer)
    with RunFolder(remote.out).open(remote, make_template("parrot", tokenizer), data_of(remote)):
        owner = (RunFolder(remote.out).path / "owner.json").read_text()
        with pytest.raises(UserError, match=r"has a run with another config \(seed: 0 -> 1\)"):
            train(replace(remote, seed=1))
        # An invalid second start does not take the folder from the first process.
        assert (RunFolder(remote.out).path / "owner.json").read_text() == owner


@pytest.mark.slow
def test_a_loss_that_is_not_finite_leaves_its_batch_in_the_bucket(remote: TrainConfig) -> None:
    wild = replace(remote.optim, lr=1e30, warmup_epochs=0.0)
    with pytest.raises(RunError, match=r"the batch is in gs://.*/bad-batch-\d+.npz"):
        train(replace(remote, optim=wild))
    (saved,) = RemotePath(f"{remote.out}/bad-batch-*.npz").matches()
    step = int(Path(saved).stem.rpartition("-")[2])
    assert [line["step"] for line in lines(remote.out)] == list(range(1, step))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: train(replace(c, out="gs://no-such-bucket/runs/a", max_steps=0)),
         "cannot write gs://no-such-bucket/runs/a/.*: there is no such bucket"),
        (lambda c: train(replace(c, out="s3://bucket/a")),
         "s3://bucket/a cannot hold checkpoints; use a local folder or gs://"),
        (lambda c: train(replace(c, init_from="gs://no-such-bucket/runs/a")),
         "gs://no-such-bucket/runs/a is not a run folder: it has no config.yaml"),
        (lambda c: replace(c.data, cache_dir="gs://bucket/cache"),
         "data.cache_dir is gs://bucket/cache; it must be on a local disk"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_one_clear_line(
    remote: TrainConfig, change: Callable[[TrainConfig], object], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        change(remote)


def test_a_run_without_a_checkpoint_says_so(remote: TrainConfig) -> None:
    with RunFolder(remote.out).open(
        remote, make_template("parrot", load_tokenizer(remote.data.tokenizer)), data_of(remote)
    ):
        pass
    with pytest.raises(UserError, match="has no checkpoint yet; train it first"):
        load_params(remote.out)
