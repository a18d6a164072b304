"""Writes are atomic, metrics survive a kill, and a full disk is a one-line error."""

import errno
import resource
from pathlib import Path
from typing import IO

import pytest

from parrot_jax.core.errors import (
    DiskFullError,
    disk_full_is_a_user_error,
    is_disk_full,
)
from parrot_jax.core.files import atomic_write, hash_json
from parrot_jax.core.logs import MetricsFile


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError, match="stop"), atomic_write(path) as file:
        _write_half(file)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path], "the temporary file is gone"


def _write_half(file: IO[str]) -> None:
    file.write("half")
    raise RuntimeError("stop")


def test_hashes_do_not_depend_on_the_order_of_keys() -> None:
    assert hash_json({"a": 1, "b": 2}) == hash_json({"b": 2, "a": 1})
    assert hash_json({"a": 1}) != hash_json({"a": 2})


def test_metrics_after_the_checkpoint_and_half_lines_are_dropped(tmp_path: Path) -> None:
    metrics = MetricsFile(tmp_path / "metrics.jsonl")
    metrics.keep_through(0)
    for step in (1, 2, 3):
        metrics.append(step=step, loss=1.0 / step)
    with open(metrics.path, "a") as file:
        file.write('{"step": 4, "lo')
    assert [line["step"] for line in metrics.read()] == [1, 2, 3]
    metrics.keep_through(2)
    assert metrics.path.read_text() == '{"step": 1, "loss": 1.0}\n{"step": 2, "loss": 0.5}\n'


def test_metrics_refuse_what_json_does_not_have(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        MetricsFile(tmp_path / "m.jsonl").append(step=1, loss=float("nan"))


def test_a_full_disk_is_recognised_behind_other_errors() -> None:
    error = ValueError("saving failed")
    error.__cause__ = OSError(errno.ENOSPC, "No space left on device")
    assert is_disk_full(error)
    assert not is_disk_full(OSError(errno.EACCES, "Permission denied"))


def test_a_real_write_beyond_the_limit_is_one_clear_line(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
    try:
        with (
            pytest.raises(DiskFullError, match="no room left on the disk for the big file"),
            disk_full_is_a_user_error("the big file"),
            atomic_write(tmp_path / "big", "wb") as file,
        ):
            file.write(b"x" * 20_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list(tmp_path.iterdir())
