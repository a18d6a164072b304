"""The profiler: readable traces of the chosen steps only, each of them ended."""

import gzip
import json
from pathlib import Path

import fsspec
import jax
import jax.numpy as jnp
import pytest

from parrot_jax.core.remote import RemotePath
from parrot_jax.train.profile import Profiler

double = jax.jit(lambda x: x * 2)


def run_steps(profiler: Profiler, count: int) -> None:
    for step in range(1, count + 1):
        with profiler.step(step):
            double(jnp.ones(3)).block_until_ready()


def traced_steps(folder: Path) -> list[int]:
    """The step numbers in the only trace of a folder."""
    (file,) = folder.rglob("*.trace.json.gz")
    with gzip.open(file) as text:
        events = json.load(text)["traceEvents"]
    return sorted(
        int(event["args"]["step_num"])
        for event in events
        if event.get("name") == "train" and "step_num" in event.get("args", {})
    )


def test_chosen_steps_are_traced_and_neighbours_share_a_trace(tmp_path: Path) -> None:
    run_steps(Profiler(tmp_path, (2, 4, 5)), 6)
    folders = sorted((tmp_path / "profile").iterdir())
    assert [folder.name for folder in folders] == ["step-000002", "step-000004"]
    assert [traced_steps(folder) for folder in folders] == [[2], [4, 5]]
    assert all(list(folder.rglob("*.xplane.pb")) for folder in folders)


def test_no_chosen_step_leaves_no_folder(tmp_path: Path) -> None:
    run_steps(Profiler(tmp_path, ()), 2)
    assert list(tmp_path.iterdir()) == []


def test_a_step_that_raises_ends_its_trace(tmp_path: Path) -> None:
    profiler = Profiler(tmp_path, (1, 2))
    with pytest.raises(ZeroDivisionError), profiler.step(1):
        raise ZeroDivisionError
    assert [folder.name for folder in (tmp_path / "profile").iterdir()] == ["step-000001"]
    run_steps(Profiler(tmp_path / "next", (1,)), 1)  # works only if the last trace was ended


def test_a_run_that_stops_inside_neighbouring_steps_ends_their_trace(tmp_path: Path) -> None:
    profiler = Profiler(tmp_path, (1, 2, 3))
    run_steps(profiler, 2)
    assert not (tmp_path / "profile").exists()
    profiler.close()
    profiler.close()
    assert traced_steps(tmp_path / "profile" / "step-000001") == [1, 2]


def test_a_trace_goes_to_a_bucket(bucket: str) -> None:
    run_steps(Profiler(RemotePath(f"{bucket}/run"), (1,)), 1)
    found = fsspec.filesystem("gs", use_listings_cache=False).find(f"{bucket}/run/profile")
    assert all("/run/profile/step-000001/plugins/profile/" in name for name in found)
    assert any(name.endswith(".xplane.pb") for name in found)
