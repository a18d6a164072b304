"""Our models have the logits and gradients of transformers', for random models of each kind."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from parrot_jax.losses.token_loss import role_weighted_nll
from parrot_jax.model.decoder import unembedding
from parrot_jax.model.frequencies import attention_factor, frequencies
from parrot_jax.model.hf_config import from_hf
from parrot_jax.weights.names import tensors

from ..torch_models import converted, leaf, our_states, random_model

pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("default")]

SIZES: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 48,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 128,
    "initializer_range": 0.1,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
YARN = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 32,
}
VARIANTS: dict[str, dict[str, Any]] = {
    "llama2": {},
    "grouped heads": {"num_key_value_heads": 2},
    "one key head": {"num_key_value_heads": 1},
    "tied": {"tie_word_embeddings": True},
    "wide heads": {"head_dim": 20},
    "theta": {"rope_parameters": {"rope_type": "default", "rope_theta": 500000.0}},
    "llama3 scaling": {"rope_parameters": LLAMA3, "num_key_value_heads": 2},
    "linear scaling": {
        "rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 10000.0}
    },
    "yarn scaling": {"rope_parameters": YARN, "model_type": "qwen2"},
    "yarn options": {
        "rope_parameters": YARN
        | {"beta_fast": 4.0, "beta_slow": 0.5, "mscale": 2.0, "mscale_all_dim": 0.5}
    },
    "yarn factor": {
        "rope_parameters": YARN | {"attention_factor": 0.7, "truncate": False},
        "model_type": "mistral", "sliding_window": 50,
    },
    "epsilon": {"rms_norm_eps": 1e-2},
    "mistral": {"model_type": "mistral", "num_key_value_heads": 2, "sliding_window": None},
    "mistral window": {"model_type": "mistral", "num_key_value_heads": 2, "sliding_window": 20},
    "qwen2 window": {
        "model_type": "qwen2", "use_sliding_window": True, "sliding_window": 9,
        "max_window_layers": 0,
    },
    "qwen3 window": {
        "model_type": "qwen3", "use_sliding_window": True, "sliding_window": 33,
        "layer_types": ["sliding_attention"] * 3,
    },
    "qwen2": {"model_type": "qwen2", "num_key_value_heads": 2, "tie_word_embeddings": True},
    "qwen3": {"model_type": "qwen3", "num_key_value_heads": 2, "head_dim": 20},
    "olmo2": {"model_type": "olmo2", "num_key_value_heads": 2},
}  # fmt: skip
FAMILIES = ("grouped heads", "mistral", "mistral window", "qwen2", "qwen3", "olmo2")


def random_variant(folder: Path, variant: str) -> Any:
    return random_model(folder, {"model_type": "llama"} | SIZES | VARIANTS[variant])


@pytest.mark.parametrize("variant", VARIANTS)
def test_logits_are_those_of_transformers(variant: str, tmp_path: Path) -> None:
    import torch

    reference = random_variant(tmp_path / "hf", variant)
    config, params = converted(tmp_path)
    ids = np.random.default_rng(1).integers(0, 97, (2, 100))
    with torch.inference_mode():
        theirs = reference(torch.tensor(ids)).logits.numpy()
    ours = np.asarray(our_states(config, params, ids) @ unembedding(params))
    assert 0.5 < theirs.std() < 2
    np.testing.assert_allclose(ours, theirs, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("variant", "wrongs"),
    [
        (
            "llama3 scaling",
            [{"rope_scaling": None}, {"rope_theta": 9000.0}, {"rms_norm_eps": 1e-3}],
        ),
        ("mistral window", [{"sliding_window": 19}, {"sliding_window": 21}]),
    ],
)
def test_a_variant_that_is_not_read_right_would_be_seen(
    variant: str, wrongs: list[dict[str, Any]], tmp_path: Path
) -> None:
    import torch

    reference = random_variant(tmp_path / "hf", variant)
    config, params = converted(tmp_path)
    ids = np.random.default_rng(1).integers(0, 97, (2, 100))
    with torch.inference_mode():
        theirs = reference(torch.tensor(ids)).logits.numpy()
    for wrong in wrongs:
        other = dataclasses.replace(config, **wrong)
        ours = np.asarray(our_states(other, params, ids) @ unembedding(params))
        assert np.abs(ours - theirs).max() > 1e-3, wrong


@pytest.mark.parametrize(
    "options",
    [
        {"beta_fast": 20.0, "truncate": False},
        {"beta_slow": 0.7, "truncate": False},
        {"mscale": 1.5, "mscale_all_dim": 1.0},
        {"attention_factor": 1.2},
        {"truncate": False},
    ],
)
def test_every_option_of_yarn_means_what_it_does_in_transformers(options: dict[str, Any]) -> None:
    from transformers import AutoConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    def theirs(rope: dict[str, Any]) -> tuple[np.ndarray, float]:
        config = AutoConfig.for_model("llama", **SIZES, rope_parameters=rope)
        inverse, factor = ROPE_INIT_FUNCTIONS["yarn"](config, device=None)
        return inverse.numpy(), factor

    def ours(rope: dict[str, Any]) -> tuple[np.ndarray, float]:
        scaling = from_hf(SIZES | {"rope_parameters": rope}).rope_scaling
        return frequencies(12, 10000.0, scaling), attention_factor(scaling)

    changed, plain = YARN | options, YARN
    np.testing.assert_allclose(ours(changed)[0], theirs(changed)[0], rtol=1e-6)
    assert ours(changed)[1] == pytest.approx(theirs(changed)[1])
    assert (
        np.abs(ours(changed)[0] - ours(plain)[0]).max() > 1e-4 or ours(changed)[1] != ours(plain)[1]
    )


@pytest.mark.parametrize("variant", FAMILIES)
def test_gradients_are_those_of_transformers(variant: str, tmp_path: Path) -> None:
    import torch

    reference = random_variant(tmp_path / "hf", variant)
    config, params = converted(tmp_path)
    random = np.random.default_rng(2)
    ids, weights = random.integers(0, 97, (2, 65)), random.random((2, 64), np.float32)

    logits = reference(torch.tensor(ids[:, :-1])).logits
    nlls = torch.nn.functional.cross_entropy(
        logits.reshape(-1, 97), torch.tensor(ids[:, 1:]).reshape(-1), reduction="none"
    )
    loss = (nlls * torch.tensor(weights).reshape(-1)).sum()
    loss.backward()

    def our_loss(params: Any) -> jax.Array:
        states = our_states(config, params, ids[:, :-1])
        return role_weighted_nll(
            states, unembedding(params), jnp.asarray(ids[:, 1:]), jnp.asarray(weights), tile=64
        )[0]

    value, grads = jax.value_and_grad(our_loss)(params)
    assert float(value) == pytest.approx(float(loss.detach()), rel=1e-6)
    theirs = {name: weight.grad.numpy() for name, weight in reference.named_parameters()}
    for tensor in tensors(config):
        ours = tensor.to_theirs(np.asarray(leaf(grads, tensor)))
        wanted = theirs[tensor.theirs]
        assert np.abs(ours - wanted).max() < 1e-4 * max(1.0, np.abs(wanted).max()), tensor.theirs
