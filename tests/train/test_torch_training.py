"""Twenty steps of `parrot train` have the losses of torch's AdamW on transformers' LLaMA."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from parrot_jax.cli import main
from parrot_jax.core.config import load_config
from parrot_jax.data.pipeline import Batches
from parrot_jax.data.prepare import prepare
from parrot_jax.train.optim import count_steps
from parrot_jax.train.train_config import TrainConfig

pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("default")]

STEPS = 20


@pytest.mark.parametrize("packing", [False, True])
def test_losses_of_twenty_steps(packing: bool, tmp_path: Path, tiny_run: Path) -> None:
    path = write_config(tiny_run, tmp_path, packing=packing)
    reference = random_model(path, tmp_path / "hf")
    assert main(["convert", "hf-to-flax", f"{tmp_path}/hf", f"{tmp_path}/flax"]) == 0
    assert main(["train", str(path)]) == 0
    config = load_config(TrainConfig, path)
    lines = (Path(config.out) / "metrics.jsonl").read_text().splitlines()
    ours = [json.loads(line) for line in lines]
    theirs = torch_losses(reference, config)
    assert len(ours) == len(theirs) == STEPS
    norms = [line["grad_norm"] for line in ours]
    # Some steps are clipped and some are not.
    assert min(norms) < config.optim.clip_norm < max(norms)
    np.testing.assert_allclose([line["loss"] for line in ours], theirs, atol=1e-4, rtol=0)
    assert theirs[0] - theirs[-1] > 1


def write_config(tiny_run: Path, folder: Path, *, packing: bool) -> Path:
    values = yaml.safe_load(tiny_run.read_text())
    values["data"] |= {"packing": packing, "eval_fraction": 0.0}
    values["optim"] = {"lr": 3e-3, "weight_decay": 0.1, "clip_norm": 3.0}
    values |= {"init_from": str(folder / "flax"), "batch_rows": 8, "micro_rows": 1}
    values |= {"epochs": 40 if packing else 8, "max_steps": STEPS, "mesh": {"fsdp": 4, "data": 1}}
    values["mesh"] = {"data": 1, "fsdp": 4, "tensor": 2}
    values["new_tokenizer"] = True  # the converted folder has no tokenizer
    path = folder / "train.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def random_model(config: Path, folder: Path) -> Any:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    sizes = yaml.safe_load(config.read_text())["model"]
    model = LlamaForCausalLM(
        LlamaConfig(**sizes, rms_norm_eps=1e-5, initializer_range=0.1, attn_implementation="eager")
    )
    model.save_pretrained(folder)
    return model


def torch_losses(model: Any, config: TrainConfig) -> list[float]:
    """The same rows, schedule, clipping, decay and accumulation in plain torch."""
    import torch

    rows = prepare(config.data, "train").rows()
    plan = count_steps(config, len(rows))
    batches = Batches(rows, batch_rows=config.batch_rows, seed=config.seed)
    optim = config.optim
    adamw = torch.optim.AdamW(
        model.parameters(), lr=1.0, betas=(optim.beta1, optim.beta2), eps=optim.eps,
        weight_decay=optim.weight_decay,
    )  # fmt: skip
    warmup = round(optim.warmup_epochs * plan.steps_per_epoch)

    def rate(step: int) -> float:
        if step < warmup:
            return optim.lr * (step + 1) / warmup
        done = (step - warmup) / (plan.num_steps - warmup)
        return optim.lr * 0.5 * (1 + np.cos(np.pi * done))

    losses = []
    for step in range(STEPS):
        batch = batches[step]
        weights = np.zeros_like(batch["loss_weights"])
        weights[:, :-1] = batch["loss_weights"][:, 1:]
        total = float(weights.sum())
        micro_rows = 4
        loss_sum = 0.0
        for first in range(0, config.batch_rows, micro_rows):
            some = slice(first, first + micro_rows)
            loss = torch_loss(
                model, *(batch[key][some] for key in ("tokens", "segment_ids", "positions")),
                weights[some],
            )  # fmt: skip
            (loss / total).backward()
            loss_sum += float(loss.detach())
        torch.nn.utils.clip_grad_norm_(model.parameters(), optim.clip_norm)
        for group in adamw.param_groups:
            group["lr"] = rate(step)
        adamw.step()
        adamw.zero_grad()
        losses.append(loss_sum / total)
    return losses


def torch_loss(model: Any, tokens: Any, segments: Any, positions: Any, weights: Any) -> Any:
    """The weighted sum of token losses, with causal attention within segments."""
    import torch

    same = segments[:, :, None] == segments[:, None, :]
    causal = np.tril(np.ones((tokens.shape[1],) * 2, bool))
    mask = torch.tensor(np.where(same & causal, 0.0, np.finfo(np.float32).min), dtype=torch.float32)
    logits = model(
        torch.tensor(tokens, dtype=torch.long),
        attention_mask=mask[:, None],
        position_ids=torch.tensor(positions, dtype=torch.long),
    ).logits
    targets = torch.tensor(np.roll(tokens, -1, axis=1), dtype=torch.long)
    nlls = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), targets.flatten(), reduction="none"
    )
    return (nlls * torch.tensor(weights).flatten()).sum()
