"""A run in a bucket, killed between and during saves, ends with the same bits as without kills."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import yaml

from parrot_jax.core.remote import RemotePath
from parrot_jax.weights.model_folder import load_params

pytestmark = [pytest.mark.slow, pytest.mark.nightly]

SEED = 20231011
NUM_KILLS = 4


@pytest.fixture
def write_config(
    tmp_path: Path, tiny_run: Path, write_dialogues: Callable[..., Path], bucket: str
) -> Callable[[str], tuple[Path, RemotePath]]:
    """Writes the config of a run of 30 steps; returns its path and the run folder."""
    dialogues = RemotePath(f"{bucket}/dialogues.jsonl")
    dialogues.put(write_dialogues(tmp_path / "many.jsonl", 300))

    def write(name: str) -> tuple[Path, RemotePath]:
        values = yaml.safe_load(tiny_run.read_text())
        values["data"]["sources"][0]["path"] = str(dialogues)
        values["data"] |= {"row_tokens": 256, "cache_dir": str(tmp_path / "cache")}
        values |= {"out": f"{bucket}/runs/{name}", "checkpoint_every_steps": 2, "epochs": 4,
                   "max_steps": 30, "eval_every_epochs": 2, "log_every_steps": 1}  # fmt: skip
        config = tmp_path / f"{name}.yaml"
        config.write_text(yaml.safe_dump(values))
        return config, RemotePath(values["out"])

    return write


def start(config: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-u", "-m", "parrot_jax.cli", "train", str(config)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finish(config: Path) -> None:
    process = start(config)
    output, _ = process.communicate()
    assert process.returncode == 0, output


def final_state(run: RemotePath) -> tuple[list[Any], list[dict[str, Any]], list[str]]:
    """The last weights, the metrics without durations, and the evaluations."""
    arrays = [np.asarray(leaf) for leaf in jax.tree.leaves(load_params(run))]
    metrics = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for line in metrics:
        del line["step_s"]
    results = RemotePath(f"{run}/results/*.json").matches()
    return arrays, metrics, [RemotePath(result).read_text() for result in results]


def is_saving(run: RemotePath) -> bool:
    """Whether a checkpoint is being written."""
    objects = [url.rpartition("/checkpoints/")[2] for url in
               RemotePath(f"{run}/checkpoints/**").matches()]  # fmt: skip
    whole = {name.partition("/")[0] for name in objects if name.count("/") == 1
             and name.endswith("/commit_success.txt")}  # fmt: skip
    return bool({name.partition("/")[0] for name in objects} - whole)


def test_a_run_in_a_bucket_killed_4_times_ends_with_the_same_bits(
    write_config: Callable[[str], tuple[Path, RemotePath]],
) -> None:
    (whole_config, whole), (killed_config, killed) = write_config("whole"), write_config("killed")
    finish(whole_config)
    moments = random.Random(SEED)
    started_at = []
    for kill in range(NUM_KILLS):
        process = start(killed_config)
        steps_left = moments.randint(5, 8)
        first = 0
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("resuming"):
                first = int(line.split()[-1])
            steps_left -= line.startswith("step ")
            if not steps_left:
                break
        if kill % 2:
            while not is_saving(killed):
                assert process.poll() is None, "the run ended before a save was seen"
        else:
            time.sleep(moments.random() * 0.2)
        os.kill(process.pid, signal.SIGKILL)
        output, _ = process.communicate()
        assert process.returncode == -signal.SIGKILL, output
        assert is_saving(killed) or not kill % 2, "the kill came after the save"
        started_at.append(first)
    assert started_at == sorted(started_at)
    assert started_at[-1] >= 4, "the run did not resume"
    finish(killed_config)
    for a, b in zip(final_state(killed), final_state(whole), strict=True):
        np.testing.assert_equal(a, b)
    assert [line["step"] for line in final_state(whole)[1]] == list(range(1, 31))
