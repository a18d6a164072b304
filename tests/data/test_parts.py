"""Parts made by worker processes: the bytes of one process, whatever happens to the workers."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from parrot_jax.core.config import config_to_dict
from parrot_jax.core.errors import RunError, UserError
from parrot_jax.data import parts, prepare
from parrot_jax.data.data_config import DataConfig, MaskConfig
from parrot_jax.dialogue.sources import ReadReport, SourceConfig

DIALOGUES = 96


@pytest.fixture
def config(
    tmp_path: Path, tiny_tokenizer: Path, write_dialogues: Callable[..., Path]
) -> DataConfig:
    path = write_dialogues(tmp_path / "dialogues.jsonl", DIALOGUES)
    return DataConfig(
        sources=(SourceConfig(kind="messages", path=str(path)),),
        eval_fraction=0.0,
        tokenizer=str(tiny_tokenizer),
        mask=MaskConfig(loss_roles=("user",)),
        row_tokens=256,
        cache_dir=str(tmp_path / "cache"),
    )


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepare, "BLOCK_DIALOGUES", 8)
    monkeypatch.setattr(parts, "_MOST_ALONE", 0)


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*-*"))}


def made_alone(config: DataConfig, folder: Path) -> dict[str, bytes]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parts, "_MOST_ALONE", DIALOGUES)
        return files_of(prepare.prepare(replace(config, cache_dir=str(folder)), "train").folder)


def workers_of(pid: int) -> list[psutil.Process]:
    children = psutil.Process(pid).children()
    return [each for each in children if "parrot_jax.data.parts" in " ".join(each.cmdline())]


def blocks_of(config: DataConfig) -> Iterator[parts.Block]:
    dialogues = prepare.read_split(config, "train", report=ReadReport())
    return prepare._blocks(dialogues, lambda: None)


def test_workers_make_the_bytes_of_one_process(config: DataConfig, tmp_path: Path) -> None:
    made = files_of(prepare.prepare(config, "train").folder)
    assert len(made) == 3 * DIALOGUES // 8
    assert made == made_alone(config, tmp_path / "alone")
    assert not workers_of(os.getpid())


def test_workers_import_from_where_their_parent_does(
    config: DataConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "random.py").write_text("raise RuntimeError('not the library')")
    (tmp_path / "sitecustomize.py").write_text("print('hello')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(sys, "path", [*sys.path, tmp_path])  # Python ignores what is no text
    made = files_of(prepare.prepare(config, "train").folder)
    assert made == made_alone(config, tmp_path / "alone")


def test_metadata_may_be_as_deep_as_it_likes(config: DataConfig, tmp_path: Path) -> None:
    deep: list[Any] = []
    for _ in range(5000):
        deep = [deep]
    blocks = list(blocks_of(config))
    blocks[0].dialogues[0] = replace(blocks[0].dialogues[0], metadata={"deep": deep})
    made = parts.make_parts(blocks, config, tmp_path, pairs=False)
    assert sum(part["counts"]["rows"] for _, part in made) > 0


def test_an_error_of_a_worker_is_that_of_one_process(config: DataConfig, tmp_path: Path) -> None:
    absent = replace(config, tokenizer=str(tmp_path / "absent"))
    with pytest.raises(UserError, match=str(tmp_path / "absent")):
        list(parts.make_parts(blocks_of(config), absent, tmp_path, pairs=False))
    assert not workers_of(os.getpid())


def test_a_worker_that_is_killed_is_named(config: DataConfig, tmp_path: Path) -> None:
    made = parts.make_parts(blocks_of(config), config, tmp_path, pairs=False)
    next(made)
    for worker in workers_of(os.getpid()):
        worker.kill()
    with pytest.raises(RunError, match=r"ended with status -9 .*Run the same command again"):
        list(made)
    assert len(list(parts.make_parts(blocks_of(config), config, tmp_path, pairs=False))) == 12


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_workers_end_with_their_parent(
    config: DataConfig, tmp_path: Path, number: signal.Signals
) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(config_to_dict(config)))
    code = f"""
import time
from parrot_jax.core.config import load_config
from parrot_jax.data import parts, prepare
from parrot_jax.data.data_config import DataConfig
prepare.BLOCK_DIALOGUES, parts._MOST_ALONE = 8, 0
make = parts.make_parts
def slow(*args, **kwargs):
    for part in make(*args, **kwargs):
        yield part
        time.sleep(0.5)
prepare.make_parts = slow
prepare.prepare(load_config(DataConfig, {str(path)!r}), "train")
"""
    with subprocess.Popen(
        [sys.executable, "-c", code], stderr=subprocess.PIPE, stdout=subprocess.PIPE
    ) as parent:
        while len(list(tmp_path.glob("cache/*.partial/counts-*.json"))) < 3:
            assert parent.poll() is None
            time.sleep(0.02)
        workers = workers_of(parent.pid)
        assert workers
        parent.send_signal(number)
        parent.communicate(timeout=60)
    (partial,) = tmp_path.glob("cache/*.partial")
    (partial / "rows-00099.npy.tmp-1").touch()  # as a process leaves it that is killed in a write
    assert not psutil.wait_procs(workers, timeout=60)[1]
    resumed = files_of(prepare.prepare(config, "train").folder)
    assert resumed == made_alone(config, tmp_path / "alone")
