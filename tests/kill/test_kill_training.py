"""Killed processes: every resumed run ends bit-identical to an uninterrupted one."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import yaml

pytestmark = pytest.mark.slow

NUM_KILLS = 20
SEED = 20231011


@pytest.fixture
def write_config(
    tmp_path: Path, tiny_run: Path, write_dialogues: Callable[..., Path]
) -> Callable[..., Path]:
    """Writes the config of a run of over 100 steps, unless limited; returns its path."""

    def write(name: str, *, max_steps: int | None = None, **changes: Any) -> Path:
        values = yaml.safe_load(tiny_run.read_text())
        path = write_dialogues(tmp_path / "many.jsonl", 700)
        values["data"]["sources"][0]["path"] = str(path)
        values["data"]["row_tokens"] = 256
        values["data"]["cache_dir"] = str(tmp_path / "cache")
        values |= {"out": str(tmp_path / name), "checkpoint_every_steps": 2, "epochs": 4,
                   "eval_every_epochs": 2, "log_every_steps": 1000,
                   "max_steps": max_steps}  # fmt: skip
        values["data"] |= changes
        config = tmp_path / f"{name}.yaml"
        config.write_text(yaml.safe_dump(values))
        return config

    return write


def start(config: Path, verb: Sequence[str]) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "parrot_jax.cli", *verb, str(config)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def finish(config: Path, verb: Sequence[str] = ("train",)) -> None:
    process = start(config, verb)
    _, error = process.communicate()
    assert process.returncode == 0, error.decode()


def kill_when(config: Path, moment: Callable[[], bool], verb: Sequence[str] = ("train",)) -> bool:
    """Starts a run and kills it with SIGKILL at a moment; False if it ended first."""
    process = start(config, verb)
    deadline = time.monotonic() + 120
    while not moment():
        if process.poll() is not None:
            assert process.returncode == 0, process.communicate()[1].decode()
            return False
        assert time.monotonic() < deadline, "timed out"
        time.sleep(0.0005)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    return True


def steps_logged(run: Path) -> int:
    path = run / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def final_state(run: Path) -> tuple[list[Any], list[dict[str, Any]], list[str]]:
    """The last weights and moments, the metrics without durations, and the evaluations."""
    from parrot_jax.core.config import load_config
    from parrot_jax.sharding import make_mesh
    from parrot_jax.train.optim import adamw
    from parrot_jax.train.state import abstract_state, restore_state
    from parrot_jax.train.train_config import TrainConfig
    from parrot_jax.weights.checkpoints import Checkpoints

    config = load_config(TrainConfig, run / "config.yaml")
    like = abstract_state(
        config.model, adamw(config.optim), make_mesh(config.mesh), lora=config.lora
    )._replace(frozen={})
    checkpoints = Checkpoints(run / "checkpoints")
    step = checkpoints.latest_step()
    assert step is not None
    restored = restore_state(checkpoints, step, like)
    arrays = [np.asarray(leaf) for leaf in jax.tree.leaves(restored)]
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    metrics = [{k: v for k, v in line.items() if k != "step_s"} for line in lines]
    return arrays, metrics, [p.read_text() for p in sorted((run / "results").glob("*.json"))]


def assert_same(a: Path, b: Path) -> None:
    assert_same_state(final_state(a), final_state(b))


def assert_same_state(one: tuple[list[Any], ...], two: tuple[list[Any], ...]) -> None:
    """Checks that two results of `final_state` are bit-identical."""
    for left, right in zip(one[0], two[0], strict=True):
        np.testing.assert_array_equal(left, right)
    assert one[1:] == two[1:]


@pytest.mark.nightly
def test_training_killed_20_times_ends_with_the_same_bits(
    write_config: Callable[..., Path], tmp_path: Path
) -> None:
    whole, killed = write_config("whole"), write_config("killed")
    finish(whole)
    run = tmp_path / "killed"
    num_steps = steps_logged(tmp_path / "whole")
    moments = random.Random(SEED)
    kills = 0
    while kills < NUM_KILLS:
        # Kills are spread over the run: each some steps and a random part of a step after the last.
        target = (kills + moments.random()) * (num_steps - 10) / NUM_KILLS
        delay_s = moments.random() * 0.05

        def behind(target: float = target, delay_s: float = delay_s) -> bool:
            if steps_logged(run) <= target:
                return False
            time.sleep(delay_s)
            return True

        # Lines of the previous attempt remain until the new one has restored its checkpoint.
        seen = steps_logged(run)
        if seen > target:
            target = seen + moments.random() * 3
        assert kill_when(killed, lambda t=target, d=delay_s: behind(t, d)), "ended too early"
        kills += 1
    finish(killed)
    assert_same(tmp_path / "killed", tmp_path / "whole")


def test_training_killed_inside_a_save_ends_with_the_same_bits(
    write_config: Callable[..., Path], tmp_path: Path
) -> None:
    whole, killed = (write_config(name, max_steps=8) for name in ("whole", "killed"))
    finish(whole)
    checkpoints = tmp_path / "killed" / "checkpoints"

    def saving() -> bool:
        finished = any(path.name.isdigit() for path in checkpoints.glob("*"))
        return finished and any(checkpoints.glob("*orbax-checkpoint-tmp*"))

    assert kill_when(killed, saving), "the run ended before a second save was seen"
    assert any(checkpoints.glob("*orbax-checkpoint-tmp*")), "the kill came after the save"
    finish(killed)
    assert not any(checkpoints.glob("*orbax-checkpoint-tmp*"))
    assert_same(tmp_path / "killed", tmp_path / "whole")


@pytest.mark.nightly
def test_training_of_adapters_killed_3_times_ends_with_the_same_bits(
    write_config: Callable[..., Path], tmp_path: Path
) -> None:
    first = write_config("first", max_steps=2)
    values = yaml.safe_load(first.read_text())
    first.write_text(yaml.safe_dump(values | {"eval_every_epochs": 4}))
    finish(first)
    # The base of these is itself a run with adapters, so that a kill may also hit its merging.
    adapters = {"lora": {"rank": 4, "alpha": 8, "dropout": 0.2}}

    def write(name: str, base: str, max_steps: int) -> Path:
        config = write_config(name, max_steps=max_steps)
        values = yaml.safe_load(config.read_text())
        config.write_text(yaml.safe_dump(values | adapters | {"init_from": str(tmp_path / base)}))
        return config

    finish(write("base", "first", 2))
    whole, killed = write("whole", "base", 10), write("killed", "base", 10)
    finish(whole)
    run = tmp_path / "killed"
    moments: list[Callable[[], bool]] = [
        lambda: any(run.glob("base/checkpoints/*")),
        lambda: steps_logged(run) > 3,
        lambda: steps_logged(run) > 7,
    ]
    for moment in moments:
        assert kill_when(killed, moment), "ended too early"
    finish(killed)
    assert_same(tmp_path / "killed", tmp_path / "whole")


@pytest.mark.nightly
def test_preference_training_killed_10_times_ends_with_the_same_bits(
    write_config: Callable[..., Path], tmp_path: Path
) -> None:
    num_kills = 10
    pairs = tmp_path / "pairs.jsonl"
    with pairs.open("w") as file:
        for number in range(1200):
            prompt = [{"role": "user", "content": f"What is {number} and {number % 7}?"}]
            answers = {"chosen": f"It is {number + number % 7}.", "rejected": f"It is {number}."}
            file.write(json.dumps({"prompt": prompt, **answers}) + "\n")

    def write(name: str) -> Path:
        config = write_config(
            name, sources=[{"kind": "preference", "path": str(pairs)}], packing=False,
            mask={"loss_roles": ["assistant"]}, cache_dir=str(tmp_path / f"{name}_cache"),
            eval_fraction=0.05,
        )  # fmt: skip
        values = yaml.safe_load(config.read_text())
        values |= {"task": "chat", "objective": "preference", "epochs": 0.4}
        config.write_text(yaml.safe_dump(values))
        return config

    whole, killed = write("whole"), write("killed")
    finish(whole)
    num_steps, run = steps_logged(tmp_path / "whole"), tmp_path / "killed"
    cache = tmp_path / "killed_cache"
    moments: list[Callable[[], bool]] = [
        lambda: any(cache.glob("*/prepared.json")),
        lambda: any(cache.glob("reference-*/part-00000.json")),
    ]
    for number in range(num_kills - 2):
        step = 1 + number * (num_steps - 4) // max(num_kills - 2, 1)
        moments.append(lambda step=step: steps_logged(run) > step)
    kills = sum(kill_when(killed, moment) for moment in moments)
    assert kills >= num_kills - 1, "ended too early"
    finish(killed)
    assert_same(tmp_path / "killed", tmp_path / "whole")
    parts = [sorted(Path(cache).glob("reference-*/*.npy")) for cache in
             (tmp_path / "killed_cache", tmp_path / "whole_cache")]  # fmt: skip
    assert [path.read_bytes() for path in parts[0]] == [path.read_bytes() for path in parts[1]]
    assert len(parts[0]) >= 3


def test_preparation_killed_between_its_parts_gives_the_same_rows(
    write_config: Callable[..., Path], tmp_path: Path, write_dialogues: Callable[..., Path]
) -> None:
    large = write_dialogues(tmp_path / "large.jsonl", 6000)
    source = [{"kind": "messages", "path": str(large)}]
    changes: dict[str, Any] = {"sources": source, "eval_fraction": 0.01}
    whole, killed = (
        write_config(name, **changes, cache_dir=str(tmp_path / f"{name}_cache"))
        for name in ("whole", "killed")
    )
    prepare = ("data", "prepare")
    finish(whole, prepare)
    cache = tmp_path / "killed_cache"
    assert kill_when(killed, lambda: any(cache.glob("*.partial/counts-00001.json")), prepare)
    assert not any(cache.glob("*/prepared.json")), "the kill came after the preparation"
    finish(killed, prepare)

    def rows(cache: Path) -> dict[str, bytes]:
        paths = (path for path in cache.rglob("*") if path.is_file())
        return {str(path.relative_to(cache)): path.read_bytes() for path in paths}

    assert rows(cache) == rows(tmp_path / "whole_cache")
    assert any(name.endswith("rows-00005.npy") for name in rows(cache))
