"""A second run of the same sizes compiles nothing: rate and length are not in the program."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml


def programs_after(config: dict[str, Any], folder: Path) -> set[str]:
    """Trains in a process of its own; the names of all compiled programs on disk afterwards."""
    path = folder / f"{Path(config['out']).name}.yaml"
    path.write_text(yaml.safe_dump(config))
    subprocess.run(
        [sys.executable, "-m", "parrot_jax.cli", "train", str(path)],
        env=os.environ | {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"},
        check=True,
    )  # fmt: skip
    return {path.name for path in (folder / "cache" / "compiled").glob("*-cache")}


@pytest.mark.slow
def test_a_longer_run_at_another_rate_compiles_nothing(trained_run: Path, tmp_path: Path) -> None:
    config = yaml.safe_load((trained_run / "config.yaml").read_text())
    config["data"]["cache_dir"] = str(tmp_path / "cache")
    first, second = (
        programs_after(
            config | {"out": str(tmp_path / name), "epochs": epochs, "optim": {"lr": lr}}, tmp_path
        )
        for name, epochs, lr in (("short", 1, 1e-2), ("long", 2, 2e-2))
    )
    assert any(name.startswith("jit_step-") for name in first)
    assert second == first
