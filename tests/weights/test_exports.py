"""Checkpoint identities and export records, read without jax."""

import json
from pathlib import Path
from typing import Any

import pytest

from parrot_jax.core.errors import UserError
from parrot_jax.train.run_folder import RunFolder
from parrot_jax.weights.checkpoints import Checkpoints
from parrot_jax.weights.exports import (
    RECORD,
    checkpoint_identity,
    is_whole_export,
    known_hashes,
    newest_step,
    read_record,
)

RIGHT = {"checkpoint": "a1", "dtype": "float32", "shards": {"model.safetensors": ["a"]}}


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
    (tmp_path / RECORD).write_text(json.dumps(RIGHT))
    assert not is_whole_export(tmp_path, "a1", "float32")
    (tmp_path / "config.json").write_text("{}")
    assert is_whole_export(tmp_path, "a1", "float32")
    assert not is_whole_export(tmp_path, "a1", "bfloat16")
    assert not is_whole_export(tmp_path, "b2", "float32")


@pytest.mark.parametrize(
    ("record", "problem"),
    [
        ({}, "`checkpoint` is missing"),
        ([], "it holds list, not an object"),
        (None, "it holds NoneType, not an object"),
        ({"shards": 5}, "`checkpoint` is missing"),
        (RIGHT | {"shards": 5}, "`shards` is 5"),
        (RIGHT | {"shards": {}}, "`shards` is {}"),
        (RIGHT | {"dtype": "int8"}, "`dtype` is 'int8'"),
        (RIGHT | {"tokenizer": 7}, "`tokenizer` is 7"),
        (RIGHT | {"sha256": None}, "`sha256` is None"),
        (RIGHT | {"sha256": {"model.safetensors": "ab"}}, "`sha256` is {"),
        (RIGHT | {"sha256": {"config.json": "0" * 64}}, "has no hash of 'model.safetensors'"),
    ],
)
def test_a_damaged_record_is_one_line_and_turns_no_check_off(
    record: Any, problem: str, tmp_path: Path
) -> None:
    (tmp_path / RECORD).write_text(json.dumps(record))
    with pytest.raises(UserError) as caught:
        known_hashes(tmp_path)
    assert problem in str(caught.value)
    assert str(tmp_path / RECORD) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_older_record_has_no_hashes_and_a_folder_of_others_no_record(tmp_path: Path) -> None:
    assert (read_record(tmp_path), known_hashes(tmp_path)) == (None, {})
    (tmp_path / RECORD).write_text(json.dumps(RIGHT))
    assert (known_hashes(tmp_path), (read_record(tmp_path) or {})["tokenizer"]) == ({}, None)
