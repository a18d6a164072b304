"""A real trained model generates the same ids as a float64 reference."""

import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from parrot_jax.cli import main
from parrot_jax.model.decoder import hidden_states, unembedding
from parrot_jax.model.generate import generate
from parrot_jax.model.model_config import ModelConfig
from parrot_jax.weights.model_folder import ModelFolder, load_params


def llama2c() -> ModuleType:
    spec = importlib.util.spec_from_file_location("llama2c", Path(__file__).parent / "llama2c.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def stories(
    shared_data: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[ModelConfig, Any, list[int]]:
    """Config and converted weights, and the 256 greedy ids after BOS."""
    folder = tmp_path_factory.mktemp("stories")
    llama2c().llama2c_to_hf(shared_data / "stories260K" / "stories260K.bin", folder / "hf")
    assert main(["convert", "hf-to-flax", str(folder / "hf"), str(folder / "flax")]) == 0
    golden = json.loads((shared_data / "stories260K" / "golden.json").read_text())
    model = ModelFolder(folder / "flax")
    return model.load_model(), load_params(model), golden["greedy_ids"]


def test_with_the_cache(stories: tuple[ModelConfig, Any, list[int]]) -> None:
    config, params, golden = stories
    (said,) = generate(config, params, [[1]], max_new_tokens=256, compute_dtype=jnp.float32)
    assert len(golden) == 256
    assert list(said.ids) == golden


@pytest.mark.slow
def test_without_the_cache(stories: tuple[ModelConfig, Any, list[int]]) -> None:
    config, params, golden = stories
    positions = jnp.arange(257)[None]

    @jax.jit
    def best(tokens: jax.Array) -> jax.Array:
        states = hidden_states(
            config, params, tokens, None, positions, compute_dtype=jnp.float32, remat="none"
        )
        return (states @ unembedding(params)).argmax(axis=-1)

    tokens = np.zeros((1, 257), np.int32)
    tokens[0, 0] = 1
    for place in range(256):
        tokens[0, place + 1] = best(tokens)[0, place]
    assert tokens[0, 1:].tolist() == golden
