"""A preflight tests all that a run needs, leaves only its report, and fails if the run would."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from parrot_jax.core.config import load_config
from parrot_jax.core.errors import UserError
from parrot_jax.model.families import num_parameters
from parrot_jax.sharding import MeshConfig
from parrot_jax.train.loop import train
from parrot_jax.train.preflight import preflight
from parrot_jax.train.train_config import OptimConfig, TrainConfig
from parrot_jax.weights import checkpoints


@pytest.fixture
def config(tiny_run: Path) -> TrainConfig:
    return load_config(TrainConfig, tiny_run)


@pytest.fixture
def split(config: TrainConfig) -> TrainConfig:
    """The config on all mesh axes, with micro-batches."""
    return replace(config, mesh=MeshConfig(data=2, fsdp=2, tensor=2), micro_rows=1)


@pytest.mark.slow
def test_a_run_over_eight_devices_is_tried_and_nothing_is_left(
    split: TrainConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    preflight(split)
    (left,) = Path(split.out).iterdir()
    assert left.name == "preflight.json"
    found = json.loads(left.read_text())
    assert found["problems"] == []
    assert found["devices"] == 8
    # Weights and two moments in float32, and three step counts.
    assert found["checkpoint_bytes"] == 3 * 4 * num_parameters(split.model) + 3 * 4
    assert found["disk_needed_bytes"] == 3 * found["checkpoint_bytes"], (
        "two kept, one in the making"
    )
    assert set(found["collectives"]) == {"data", "fsdp", "tensor"}
    assert 0 < found["longest_row_tokens"] <= split.data.row_tokens
    assert found["hours"] == pytest.approx(7 * found["step_s"] / 3600)
    said = capsys.readouterr().out
    for part in ("data: ", "first step", "host memory: ", "disk: ", "checkpoint: ", "bit-identical",
                 "collectives: ", "speed: ", "start the run without --preflight"):  # fmt: skip
        assert part in said
    train(replace(split, max_steps=1))


@pytest.mark.slow
def test_a_disk_that_is_too_small_is_refused_before_it_is_full(config: TrainConfig) -> None:
    with pytest.raises(
        UserError, match=r"preflight failed: .* GiB free, but keep_checkpoints=10000"
    ):
        preflight(replace(config, keep_checkpoints=1_000_000_000))
    found = json.loads(Path(config.out, "preflight.json").read_text())
    assert len(found["problems"]) == 1


def test_a_checkpoint_larger_than_the_disk_is_not_tried(
    config: TrainConfig, small_disk: Path
) -> None:
    with pytest.raises(UserError, match="preflight failed"):
        preflight(replace(config, out=str(small_disk / "run")))
    assert [path.name for path in (small_disk / "run").iterdir()] == ["preflight.json"]


def test_what_the_run_itself_would_refuse_is_refused_before_anything_is_tried(
    config: TrainConfig, write_dialogues: Any
) -> None:
    train(replace(config, max_steps=1))
    with pytest.raises(UserError, match=r"has a run with another config \(optim.lr: 0.01 -> 0.5"):
        preflight(replace(config, optim=OptimConfig(lr=0.5)))
    write_dialogues(Path(config.data.sources[0].path), 60)
    with pytest.raises(UserError, match="has a run with other data"):
        preflight(config)
    assert not Path(config.out, "changes.jsonl").exists()


@pytest.mark.slow
def test_a_loss_that_is_not_finite_is_refused(split: TrainConfig) -> None:
    wild = replace(split, optim=OptimConfig(lr=1e30, warmup_epochs=0.0))
    with pytest.raises(UserError, match="gradient norm of the first steps is not finite"):
        preflight(wild)


@pytest.mark.slow
def test_bits_that_change_on_the_way_are_seen(
    split: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    restore = checkpoints.Checkpoints.restore

    def flip(self, step, like):  # type: ignore[no-untyped-def]
        restored = restore(self, step, like)
        embed = restored["params"]["embed"]
        return {**restored, "params": {**restored["params"], "embed": embed.at[3, 4].multiply(-1)}}

    monkeypatch.setattr(checkpoints.Checkpoints, "restore", flip)
    with pytest.raises(UserError, match="differs from the one written"):
        preflight(split)


@pytest.mark.slow
def test_a_bucket_is_left_as_clean(split: TrainConfig, bucket: str) -> None:
    preflight(replace(split, out=f"{bucket}/runs/a"))
    import fsspec

    left = fsspec.filesystem("gs", use_listings_cache=False).find(f"{bucket}/runs/a")
    assert [name.rpartition("/")[2] for name in left] == ["preflight.json"]
