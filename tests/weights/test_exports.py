"""What small files tell of checkpoints and exports, without jax."""

import json
from pathlib import Path

from parrot_jax.train.run_folder import RunFolder
from parrot_jax.weights.checkpoints import Checkpoints
from parrot_jax.weights.exports import (
    RECORD,
    checkpoint_identity,
    is_whole_export,
    newest_step,
)


def test_the_newest_checkpoint_is_the_one_that_is_loaded(trained_run: Path) -> None:
    folder = RunFolder(trained_run)
    step = folder.latest_step()
    checkpoints = trained_run / "checkpoints"
    assert newest_step(checkpoints) == step
    saved = Checkpoints(checkpoints, read_only=True)
    assert checkpoint_identity(checkpoints / str(step)) == saved.identity(step)


def test_what_a_killed_save_left_is_no_checkpoint(tmp_path: Path) -> None:
    assert newest_step(tmp_path / "none") is None
    for name in ("3", "12", "40.orbax-checkpoint-tmp-0"):
        (tmp_path / name).mkdir()
    assert newest_step(tmp_path) == 12


def test_an_export_is_whole_when_its_last_file_is_there(tmp_path: Path) -> None:
    assert not is_whole_export(tmp_path / "none", "a1", "float32")
    (tmp_path / RECORD).write_text(json.dumps({"checkpoint": "a1", "dtype": "float32"}))
    assert not is_whole_export(tmp_path, "a1", "float32")
    (tmp_path / "config.json").write_text("{}")
    assert is_whole_export(tmp_path, "a1", "float32")
    assert not is_whole_export(tmp_path, "a1", "bfloat16")
    assert not is_whole_export(tmp_path, "b2", "float32")
