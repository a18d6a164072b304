"""A run folder is read as it is, also while its last line is being written."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from parrot_jax.core.errors import UserError
from parrot_jax.data.data_config import DataConfig, MaskConfig
from parrot_jax.dialogue.sources import SourceConfig
from parrot_jax.model.presets import PRESETS
from parrot_jax.runs.training_files import last_row, read_training_run, steps_of
from parrot_jax.train.optim import count_steps
from parrot_jax.train.train_config import TrainConfig

CONFIG: dict[str, Any] = {
    "task": "chat", "out": "x", "epochs": 2.0, "batch_rows": 4, "optim": {"lr": 1e-3},
}  # fmt: skip


def write_run(folder: Path, *, steps: int = 5, config: dict[str, Any] | None = None) -> Path:
    """A run of ten steps in all: 20 rows, 4 in a batch, 2 epochs."""
    (folder / "results").mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(CONFIG | (config or {})))
    (folder / "data.json").write_text(json.dumps({
        "train": {"rows": 20, "sources": [{"path": "talks.jsonl", "read": 30}]},
    }))  # fmt: skip
    with open(folder / "metrics.jsonl", "w") as file:
        for step in range(1, steps + 1):
            row = {"step": step, "loss": 8 / step, "live_tokens": 100, "step_s": 0.5, "lr": 1e-3}
            file.write(json.dumps(row) + "\n")
    return folder


def test_columns_and_evaluations_are_those_of_the_files(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    with open(folder / "metrics.jsonl", "a") as file:
        file.write('{"step": 6, "loss": 1.5, "kl": 0.25}\n{"step": 7, "lo')
    for step in (10, 9, 100):
        path = folder / "results" / f"eval-{step:06d}.json"
        path.write_text(json.dumps({"step": step, "assistant_ppl": step / 2}))
    run = read_training_run(folder)
    assert run.metrics["loss"].tolist() == [8, 4, 8 / 3, 2, 1.6, 1.5]
    assert np.isnan(run.metrics["kl"]).tolist() == [True] * 5 + [False]
    assert [means["step"] for means in run.evals] == [9, 10, 100]
    assert (run.step, run.num_steps) == (6, 10)
    row = last_row(folder / "metrics.jsonl")
    assert row is not None
    assert row["step"] == 6


def test_a_real_run_has_the_steps_that_it_was_to_have(trained_run: Path) -> None:
    run = read_training_run(trained_run)
    assert run.step == run.num_steps == run.checkpoints[-1]
    assert run.evals[-1]["step"] == run.step
    assert {"loss", "lr", "grad_norm", "live_tokens", "step_s"} <= run.metrics.keys()


@pytest.mark.parametrize(
    ("config", "expected"),
    [({}, 10), ({"max_steps": 3}, 3), ({"max_steps": 30}, 10), ({"epochs": 0.01}, 1),
     ({"batch_rows": None}, None)],
)  # fmt: skip
def test_the_number_of_steps(config: dict[str, Any], expected: int | None) -> None:
    assert steps_of(CONFIG | config, {"train": {"rows": 20}}) == expected


@given(st.floats(0.01, 20), st.integers(1, 10_000), st.integers(1, 512))
def test_the_number_of_steps_is_that_of_training(epochs: float, rows: int, batch: int) -> None:
    data = DataConfig(
        sources=(SourceConfig(kind="messages", path="a"),), tokenizer="t",
        mask=MaskConfig(loss_roles=("assistant",)),
    )  # fmt: skip
    model = PRESETS["llama2-7b"]
    config = TrainConfig(
        task="chat", out="x", data=data, model=model, epochs=epochs, batch_rows=batch
    )
    values = {"epochs": epochs, "batch_rows": batch}
    assert steps_of(values, {"train": {"rows": rows}}) == count_steps(config, rows).num_steps


def test_a_run_without_a_step_has_no_report(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", steps=0)
    with pytest.raises(UserError, match=r"metrics.jsonl has no step with a loss yet; wait for"):
        read_training_run(folder)


def test_a_damaged_line_is_named(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    with open(folder / "metrics.jsonl", "a") as file:
        file.write("[1]\n" + json.dumps({"step": 6}) + "\n")
    with pytest.raises(UserError, match=r"metrics.jsonl:6 is damaged"):
        read_training_run(folder)
    write_run(tmp_path / "other")
    folder = tmp_path / "other"
    (folder / "config.yaml").write_text("- 1\n")
    with pytest.raises(UserError, match=r"config.yaml has no keys"):
        read_training_run(folder)
