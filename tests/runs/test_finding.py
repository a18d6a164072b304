"""Runs are found at any depth, with their state."""

import fcntl
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from parrot_jax.collect.collect_config import CollectConfig
from parrot_jax.evaluate.answer_config import AnswerConfig
from parrot_jax.evaluate.build_config import BuildConfig
from parrot_jax.evaluate.judge_config import JudgeConfig
from parrot_jax.negatives.negatives_config import NegativesConfig
from parrot_jax.runs.finding import find_runs, kind_of_job

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
    assert "its last line is not the JSON of a step" in found["c"].last
    assert {run.state for run in find_runs(tmp_path / "b")} == {"stopped"}


def test_a_run_of_adapters_says_so(tmp_path: Path) -> None:
    write_run(tmp_path / "a", config={"objective": "preference", "lora": {"rank": 8}})
    write_run(tmp_path / "b", config={"lora": None})
    kinds = [run.kind for run in find_runs(tmp_path)]
    assert kinds == ["chat model, CaPO, LoRA of rank 8", "chat model"]


def test_one_odd_run_does_not_hide_the_others(tmp_path: Path) -> None:
    write_run(tmp_path / "a", config={"epochs": float("inf")})
    metrics = write_run(tmp_path / "b") / "metrics.jsonl"
    metrics.unlink()
    metrics.mkdir()
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "quickstart.json").write_text('{"stages": 5}')
    write_run(tmp_path / "d")
    found = list(find_runs(tmp_path))
    assert [run.state for run in found] == ["stopped", "damaged", "damaged", "stopped"]
    assert found[0].progress == "5 steps"
    assert "`stages` is not a JSON object" in found[2].last


def test_a_run_without_a_step_is_listed(tmp_path: Path) -> None:
    (write_run(tmp_path / "run") / "metrics.jsonl").unlink()
    (run,) = find_runs(tmp_path)
    assert run[1:5] == ("chat model", "stopped", "0 of 10 steps", "")


@pytest.mark.parametrize(
    ("config", "kind"),
    [(CollectConfig, "collection"), (NegativesConfig, "negatives"), (JudgeConfig, "judgments"),
     (BuildConfig, "benchmark"), (AnswerConfig, "answers")],
)  # fmt: skip
def test_a_job_is_known_by_the_keys_of_its_config(config: Any, kind: str) -> None:
    assert kind_of_job([field.name for field in fields(config)]) == kind
