"""A model of each published kind, from transformers and back, with twenty training steps between.

Its logits are those of transformers, its training is that of torch's AdamW, and transformers
continues a prompt with the exported weights as we do with ours.
"""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from parrot_jax.cli import main
from parrot_jax.model.attention import choose
from parrot_jax.model.decoder import unembedding
from parrot_jax.model.generate import generate
from parrot_jax.train.forward import Forward
from parrot_jax.train.objectives import RoleMaskedLoss
from parrot_jax.train.optim import adamw
from parrot_jax.train.step import train_step
from parrot_jax.train.train_config import OptimConfig
from parrot_jax.train.train_state import TrainState
from parrot_jax.weights.checkpoints import Checkpoints
from parrot_jax.weights.model_folder import ModelFolder, load_params, made_of
from parrot_jax.weights.names import tensors

from ..published_configs import FAMILIES, small
from ..torch_models import converted, leaf, our_states, random_model

pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("default")]

STEPS, ROWS, LENGTH = 20, 4, 40
# With a smaller epsilon, the sign of a gradient of 1e-8, which is rounding, would move a weight by
# the whole rate.
OPTIM = OptimConfig(lr=3e-3, weight_decay=0.1, eps=1e-5, clip_norm=1e9)


ALIKE = (
    "Llama-2-7b-hf", "Llama-3.1-8B", "Mistral-7B-v0.1", "Mistral-7B-v0.3", "Qwen2.5-7B",
    "with YaRN", "SmolLM2-1.7B", "Yi-6B",
)  # fmt: skip
"""Families whose parts others have too; they are tested at night."""


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.nightly] if name.endswith(ALIKE) else [])
        for name in FAMILIES
    ],
)
def test_there_twenty_steps_and_back(name: str, tmp_path: Path) -> None:
    import torch

    reference = random_model(tmp_path / "hf", small(name))
    config, params = converted(tmp_path)
    random = np.random.default_rng(1)
    ids = random.integers(0, 300, (ROWS, LENGTH)).astype(np.int32)
    weights = random.random((ROWS, LENGTH), np.float32)
    weights[:, 0] = 0  # nothing predicts the first token

    with torch.inference_mode():
        theirs = reference(torch.tensor(ids, dtype=torch.long)).logits.numpy()
    ours = np.asarray(our_states(config, params, ids) @ unembedding(params))
    assert 0.5 < theirs.std() < 2
    np.testing.assert_allclose(ours, theirs, atol=1e-4, rtol=0)

    their_losses = torch_losses(reference, ids, weights)
    our_losses, params = losses(config, params, ids, weights)
    assert their_losses[0] - their_losses[-1] > 1
    np.testing.assert_allclose(our_losses, their_losses, atol=1e-4, rtol=0)
    trained = dict(reference.named_parameters())
    for tensor in tensors(config):
        found = tensor.to_theirs(np.asarray(leaf(params, tensor)))
        wanted = trained[tensor.theirs].detach().numpy()
        np.testing.assert_allclose(found, wanted, atol=1e-4, rtol=0, err_msg=tensor.theirs)
    check_export(params, tmp_path)


def losses(config: Any, params: Any, ids: np.ndarray, weights: np.ndarray) -> tuple[Any, Any]:
    """Trains our model; returns the losses before each step, and the weights after them."""
    forward = Forward(
        model=config, compute_dtype=jnp.dtype("float32"), attention=choose(), remat="none",
        loss_tile=LENGTH, packed=False,
    )  # fmt: skip
    optimizer = adamw(OPTIM)

    batch = {
        "tokens": ids,
        "loss_weights": weights,
        "segment_ids": np.ones_like(ids),
        "positions": np.broadcast_to(np.arange(LENGTH, dtype=np.int32), ids.shape),
    }

    @jax.jit
    def step(state: TrainState) -> Any:
        return train_step(
            state, {key: jnp.asarray(value)[None] for key, value in batch.items()}, OPTIM.lr,
            forward=forward, objective=RoleMaskedLoss(), optimizer=optimizer,
            clip_norm=OPTIM.clip_norm,
        )  # fmt: skip

    state, found = TrainState(params, optimizer.init(params), jnp.int32(0)), []
    for _ in range(STEPS):
        state, metrics = step(state)
        found.append(float(metrics.loss))
    return found, state.trainable


def torch_losses(model: Any, ids: np.ndarray, weights: np.ndarray) -> list[float]:
    """The same steps in plain torch."""
    import torch

    adam = torch.optim.AdamW(
        model.parameters(), lr=OPTIM.lr, betas=(OPTIM.beta1, OPTIM.beta2), eps=OPTIM.eps,
        weight_decay=OPTIM.weight_decay,
    )  # fmt: skip
    inputs = torch.tensor(ids, dtype=torch.long)
    shares = torch.tensor(weights[:, 1:]).flatten()
    found = []
    for _ in range(STEPS):
        logits = model(inputs).logits[:, :-1]
        nlls = torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), inputs[:, 1:].flatten(), reduction="none"
        )
        loss = (nlls * shares).sum() / shares.sum()
        loss.backward()
        adam.step()
        adam.zero_grad()
        found.append(float(loss.detach()))
    return found


def check_export(params: Any, tmp_path: Path) -> None:
    """Saves the trained weights, exports them, and continues a prompt with transformers and us."""
    import torch
    from transformers import AutoModelForCausalLM

    source, folder = ModelFolder(tmp_path / "flax"), ModelFolder(tmp_path / "trained")
    folder.path.mkdir()
    folder.config_path.write_text(source.config_path.read_text())
    checkpoints = Checkpoints(folder.checkpoints, made_of=made_of(folder.load_model(), None))
    checkpoints.save(STEPS, params, {"step": jnp.int32(STEPS)})
    checkpoints.close()
    assert main(["convert", "flax-to-hf", f"{folder.path}", f"{tmp_path}/export"]) == 0

    prompt = np.random.default_rng(2).integers(0, 300, 30).tolist()
    (ours,) = generate(
        folder.load_model(), load_params(folder), [prompt], max_new_tokens=24,
        compute_dtype=jnp.float32,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "export", dtype=torch.float32).eval()
    theirs = model.generate(
        torch.tensor([prompt]), max_new_tokens=24, do_sample=False, eos_token_id=-1
    )
    assert theirs[0, len(prompt) :].tolist() == list(ours.ids)
    assert len(set(ours.ids)) > 3
