"""Twenty steps of three small runs must be bit-identical after a refactoring.

`golden_losses.json` has the loss of each step as a hexadecimal float. Another jax version or
processor may add in another order, so the losses need only be close there. If the mathematics
changes, write the file again, and say why in the commit:

    WRITE_GOLDEN_LOSSES=1 .venv/bin/python -m pytest tests/train/test_golden.py
"""

import json
import os
import platform
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from parrot_jax.core.config import load_config
from parrot_jax.data.data_config import MaskConfig
from parrot_jax.train.loop import train
from parrot_jax.train.train_config import TrainConfig

GOLDEN = Path(__file__).with_name("golden_losses.json")
NUM_STEPS = 20
RUNS: dict[str, dict[str, Any]] = {
    "ask": {},
    "chat": {"task": "chat", "mask": MaskConfig(loss_roles=("assistant",))},
    "bfloat16": {
        "param_dtype": "bfloat16", "compute_dtype": "bfloat16", "accumulator_dtype": "bfloat16",
        "micro_rows": 2,
    },
}  # fmt: skip


def here() -> dict[str, str]:
    """The versions and CPU features that determine the order of additions."""
    info = Path("/proc/cpuinfo")
    flags = info.read_text() if info.exists() else ""
    widest = next((each for each in ("avx512f", "avx2") if each in flags), "neither")
    return {"jax": jax.__version__, "processor": f"{platform.machine()} {widest}"}


@pytest.mark.slow
# bfloat16 is emulated on CPUs: ten seconds.
@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.slow] * (name == "bfloat16")) for name in RUNS],
)
def test_the_losses_of_twenty_steps_are_those_on_file(name: str, tiny_run: Path) -> None:
    changes = dict(RUNS[name])
    config = load_config(TrainConfig, tiny_run)
    data = replace(config.data, eval_fraction=0.0, mask=changes.pop("mask", config.data.mask))
    train(replace(config, data=data, epochs=50, max_steps=NUM_STEPS, log_every_steps=1, **changes))
    lines = Path(config.out, "metrics.jsonl").read_text().splitlines()
    losses = [json.loads(line)["loss"] for line in lines]
    assert len(losses) == NUM_STEPS
    assert losses[-1] < losses[0]

    golden = json.loads(GOLDEN.read_text()) if GOLDEN.exists() else {}
    if os.environ.get("WRITE_GOLDEN_LOSSES"):
        golden |= {"made_with": here(), name: [loss.hex() for loss in losses]}
        GOLDEN.write_text(json.dumps(golden, indent=1) + "\n")
    expected = [float.fromhex(loss) for loss in golden[name]]
    if golden["made_with"] == here():
        assert losses == expected
    np.testing.assert_allclose(losses, expected, rtol=2e-2 if name == "bfloat16" else 1e-4)
