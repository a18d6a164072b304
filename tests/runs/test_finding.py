"""Runs are found at any depth, with their state."""

import fcntl
from pathlib import Path

from parrot_jax.runs.finding import find_runs

from .test_training_files import write_run


def test_runs_are_finished_stopped_running_or_damaged(tmp_path: Path) -> None:
    write_run(tmp_path / "a" / "finished", steps=10)
    write_run(tmp_path / "a" / "stopped", steps=4)
    write_run(tmp_path / "b", steps=4, config={"task": "ask"})
    damaged = write_run(tmp_path / "c")
    (damaged / "metrics.jsonl").write_text("no JSON\n")
    write_run(tmp_path / ".hidden")
    with open(tmp_path / "b" / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        found = {str(run.path.relative_to(tmp_path)): run for run in find_runs(tmp_path)}
        states = {name: run.state for name, run in found.items()}
    assert states == {
        "a/finished": "finished", "a/stopped": "stopped", "b": "running", "c": "damaged",
    }  # fmt: skip
    assert found["a/stopped"][1:5] == ("chat model", "stopped", "4 of 10 steps", "loss 2.0000")
    assert found["b"].kind == "asker"
    assert "its last line is not a JSON object" in found["c"].last
    assert {run.state for run in find_runs(tmp_path / "b")} == {"stopped"}
