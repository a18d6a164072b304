"""Reads the files of a training run, also while it trains; never loads jax.

The last line of a file may be incomplete while the run writes it; it is left out.
"""

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from parrot_jax.core.errors import UserError
from parrot_jax.core.files import read_object
from parrot_jax.core.logs import MetricsFile
from parrot_jax.core.paths import AnyPath, as_path
from parrot_jax.core.remote import RemotePath
from parrot_jax.core.yaml_files import read_yaml

METRICS, CONFIG, DATA = "metrics.jsonl", "config.yaml", "data.json"
_MOST_OF_LINE = 1 << 20
_SAVED = "_CHECKPOINT_METADATA"


@dataclass(frozen=True, kw_only=True)
class TrainingRun:
    """A training run as its folder has it."""

    path: AnyPath
    config: Mapping[str, Any]
    """As in `config.yaml`."""
    data: Mapping[str, Any]
    """As in `data.json`."""
    versions: Mapping[str, str | None]
    metrics: Mapping[str, NDArray[np.float64]]
    """By name, [steps]; NaN where a step lacks it."""
    evals: Sequence[Mapping[str, Any]]
    """Of `results/eval-*.json`, in order of their `step`."""
    samples: Sequence[Mapping[str, Any]]
    checkpoints: Sequence[int]
    """Their steps."""
    changes: Sequence[Mapping[str, Any]]
    """Of `changes.jsonl`: when the run was resumed with other settings, and which."""

    @property
    def step(self) -> int:
        """The last step."""
        return int(self.metrics["step"][-1])

    @property
    def num_steps(self) -> int | None:
        """Steps of the whole run; None if the folder does not tell."""
        return steps_of(self.config, self.data)


def steps_of(config: Mapping[str, Any], data: Mapping[str, Any]) -> int | None:
    """Number of steps of a run; None if the files do not tell.

    The formula of `train.optim.count_steps`, which loads optax.
    """
    match config, data:
        case (
            {"epochs": int() | float() as epochs, "batch_rows": int() as batch_rows},
            {"train": {"rows": int() as rows}},
        ) if batch_rows > 0 and math.isfinite(epochs):
            steps = max(1, round(epochs * (rows / batch_rows)))
            stop = config.get("max_steps")
            return min(stop, steps) if isinstance(stop, int) else steps
    return None


def is_training_run(folder: AnyPath | str) -> bool:
    """Whether a folder has a training run, started or not."""
    path = as_path(folder)
    return (path / CONFIG).exists() and (path / DATA).exists()


def read_config(folder: AnyPath) -> dict[str, Any]:
    """The config of a run.

    Raises:
      UserError: It cannot be read, or has no keys.
    """
    config = read_yaml(folder / CONFIG)
    if not isinstance(config, dict):
        raise UserError(f"{folder / CONFIG} has no keys; it is not the config of a run.")
    return config


def read_training_run(folder: AnyPath | str) -> TrainingRun:
    """Reads a run folder.

    Raises:
      UserError: A file is missing or damaged, or no step is finished yet.
    """
    path = as_path(folder)
    metrics = _columns(path / METRICS)
    if not {"step", "loss"} <= metrics.keys() or not _has_loss(metrics):
        raise UserError(f"{path / METRICS} has no step with a loss yet; wait for the first one.")
    if not np.isfinite(metrics["step"]).all():
        raise UserError(f"{path / METRICS} is damaged: a line has no step; delete that line.")
    return TrainingRun(
        path=path,
        config=read_config(path),
        data=_read_data(path / DATA),
        versions=_object(path / "versions.json"),
        metrics=metrics,
        evals=sorted(
            map(_read_eval, _matching(path, "results/eval-*.json")),
            key=lambda means: means.get("step", 0),
        ),
        samples=_lines(path / "samples.jsonl"),
        checkpoints=sorted(
            int(name)
            for saved in _matching(path, f"checkpoints/*/{_SAVED}")
            if (name := str(saved).split("/")[-2]).isdecimal()  # a copy may have another name
        ),
        changes=_lines(path / "changes.jsonl"),
    )


def last_row(path: Path) -> dict[str, Any] | None:
    """The last complete line of a `metrics.jsonl`; None if there is none.

    Raises:
      UserError: It is not the JSON of a step.
    """
    if not path.exists():
        return None
    with open(path, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - _MOST_OF_LINE))
        lines = file.read().splitlines(keepends=True)
    whole = [line for line in lines if line.endswith(b"\n")]
    if not whole:
        return None
    try:
        row = json.loads(whole[-1])
    except ValueError:
        row = None
    if not isinstance(row, dict) or not isinstance(row.get("step"), int):
        raise UserError(f"{path} is damaged: its last line is not the JSON of a step.")
    return row


def _columns(path: AnyPath) -> dict[str, NDArray[np.float64]]:
    """The columns of `metrics.jsonl`: numbers only, NaN where a line lacks one."""
    rows = _lines(path)
    names = dict.fromkeys(name for row in rows for name in row)
    columns = {
        name: np.array([_number(row.get(name)) for row in rows], np.float64) for name in names
    }
    return {name: column for name, column in columns.items() if not np.isnan(column).all()}


def _has_loss(metrics: Mapping[str, NDArray[np.float64]]) -> bool:
    is_known = np.isfinite(metrics["loss"])
    return bool((is_known & (metrics.get("live_tokens", is_known) > 0)).any())


def _read_data(path: AnyPath) -> dict[str, Any]:
    data = _object(path)
    for split in ("train", "eval"):
        found = data.get(split) or {}
        sources = found.get("sources", []) if isinstance(found, dict) else None
        if not isinstance(sources, list) or not all(isinstance(one, dict) for one in sources):
            raise UserError(f"{path} is damaged: {split} has no list of sources; restore a copy.")
    return data


def _read_eval(path: AnyPath) -> dict[str, Any]:
    means = read_object(path)
    for key, value in means.items():
        expected = list if key.endswith("_ppl_by_turn") else int if key == "step" else object
        if not isinstance(value, expected):
            raise UserError(
                f"{path} is damaged: {key} is {value!r}; restore a copy, or delete it and "
                "evaluate that checkpoint again."
            )
    return means


def _number(value: Any) -> float:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number else float("nan")


def _object(path: AnyPath) -> dict[str, Any]:
    return read_object(path) if path.exists() else {}


def _lines(path: AnyPath) -> list[dict[str, Any]]:
    return list(MetricsFile(path).read()) if path.exists() else []


def _matching(folder: AnyPath, pattern: str) -> list[AnyPath]:
    """The files below a folder that match a glob, sorted."""
    if isinstance(folder, RemotePath):
        return [as_path(name) for name in (folder / pattern).matches()]
    return [as_path(path) for path in sorted(folder.glob(pattern))]
