"""Twenty steps of `parrot train` with `lora` have the losses and adapters of peft and torch."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from parrot_jax.cli import main
from parrot_jax.core.config import load_config
from parrot_jax.model.lora_config import LoraConfig
from parrot_jax.train.train_config import TrainConfig
from parrot_jax.weights.model_folder import ModelFolder
from parrot_jax.weights.peft_folder import adapter_tensors

from .test_torch_training import STEPS, random_model, torch_losses, write_config

pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("default")]


def arrays_of(run: Path, step: int) -> dict[str, np.ndarray]:
    """The adapters of a checkpoint, by peft's names."""
    folder = ModelFolder(run)
    checkpoints, step = folder.open_checkpoint(step)
    lora = LoraConfig(rank=4, alpha=8)
    return {
        tensor.theirs: tensor.to_theirs(checkpoints.read(step, tensor.ours))
        for tensor in adapter_tensors(folder.load_model(), lora)
    }


def test_losses_and_adapters_of_twenty_steps(tmp_path: Path, tiny_run: Path) -> None:
    import torch
    from peft import LoraConfig as PeftConfig
    from peft import get_peft_model

    path = write_config(tiny_run, tmp_path, packing=True)
    values = yaml.safe_load(path.read_text())
    values["lora"] = {"rank": 4, "alpha": 8, "base_dtype": "float32"}
    values["optim"] = {"lr": 0.03, "weight_decay": 0.1, "clip_norm": 1.0}
    path.write_text(yaml.safe_dump(values))
    config = load_config(TrainConfig, path)
    reference = random_model(path, tmp_path / "hf")
    assert main(["convert", "hf-to-flax", f"{tmp_path}/hf", f"{tmp_path}/flax"]) == 0
    first = replace(config, max_steps=0, out=f"{tmp_path}/first")
    main(["train", str(path), "--max-steps", "0", "--out", first.out])
    assert main(["train", str(path)]) == 0
    lines = (Path(config.out) / "metrics.jsonl").read_text().splitlines()
    ours = [json.loads(line) for line in lines]

    adapted = get_peft_model(
        reference,
        PeftConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM"),
    )
    trained = {
        name.replace(".default", ""): weight
        for name, weight in adapted.named_parameters()
        if weight.requires_grad
    }
    start = arrays_of(Path(first.out), 0)
    assert trained.keys() == start.keys()
    # peft draws A from the same distribution, with other random numbers.
    for name, weight in trained.items():
        if "lora_A" in name:
            bound = weight.shape[1] ** -0.5
            for drawn in (weight.detach().numpy(), start[name]):
                assert 0.9 * bound < np.abs(drawn).max() <= bound
        else:
            assert not weight.detach().numpy().any()
            assert not start[name].any()
        with torch.no_grad():
            weight.copy_(torch.tensor(start[name]))
    theirs = torch_losses(adapted, config)
    assert len(ours) == len(theirs) == STEPS
    norms = [line["grad_norm"] for line in ours]
    assert min(norms) < config.optim.clip_norm < max(norms)
    np.testing.assert_allclose([line["loss"] for line in ours], theirs, atol=1e-4, rtol=0)
    assert theirs[0] - theirs[-1] > 0.3
    end = arrays_of(Path(config.out), STEPS)
    for name, weight in trained.items():
        found: Any = weight.detach().numpy()
        distance = np.linalg.norm(end[name] - found) / np.linalg.norm(found - start[name])
        assert distance < 1e-3, f"{name}: {distance:.1e}"
