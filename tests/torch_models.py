"""Random transformers models, and the same models as ours."""

import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from parrot_jax.cli import main
from parrot_jax.model.decoder import hidden_states
from parrot_jax.model.model_config import ModelConfig
from parrot_jax.weights.model_folder import ModelFolder, load_params
from parrot_jax.weights.names import Tensor


def random_model(folder: Path, values: dict[str, Any]) -> Any:
    """A transformers model whose logits have a standard deviation of about 1, saved in a folder."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    config = AutoConfig.for_model(**values, attn_implementation="eager")
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith("norm.weight"):
                weight.copy_(1 + 0.2 * torch.randn_like(weight))
            elif name.endswith("bias"):
                weight.copy_(0.5 * torch.randn_like(weight))
        ids = torch.arange(90)[None]
        # The head is linear: divided by the deviation of its logits, it has a deviation of 1.
        model.lm_head.weight.div_(model(ids).logits.std())
    model.save_pretrained(folder)
    return model


def converted(folder: Path) -> tuple[ModelConfig, Any]:
    """Our model and weights, by `parrot convert hf-to-flax` from `hf` in the folder to `flax`."""
    assert main(["convert", "hf-to-flax", f"{folder}/hf", f"{folder}/flax"]) == 0
    model = ModelFolder(folder / "flax")
    return model.load_model(), load_params(model)


@functools.partial(jax.jit, static_argnums=0)
def our_states(config: ModelConfig, params: Any, ids: np.ndarray) -> jax.Array:
    positions = jnp.broadcast_to(jnp.arange(ids.shape[1]), ids.shape)
    return hidden_states(
        config, params, jnp.asarray(ids), None, positions, compute_dtype=jnp.float32, remat="none"
    )


def leaf(tree: Any, tensor: Tensor) -> Any:
    """The array of a tensor in a tree whose layers are stacked."""
    layer = None
    for key in tensor.ours.split("."):
        if key.isdigit():
            layer = int(key)
        else:
            tree = tree[key]
    return tree if layer is None else tree[layer]
