"""Weights stored by layer with their outputs first give what the stacked ones give."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from parrot_jax.model import decode as decoding
from parrot_jax.model.attention import choose
from parrot_jax.model.decoder import init_params
from parrot_jax.model.generate import for_generation
from parrot_jax.model.layered import OutputsFirst, is_layered, layered
from parrot_jax.model.model_config import ModelConfig

prefill = jax.jit(
    decoding.prefill, static_argnames=("config", "cache_length", "compute_dtype", "backend")
)
decode = jax.jit(decoding.decode, static_argnames="config")
SIZES = {
    "vocab_size": 40, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 3,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 32,
}  # fmt: skip


def test_a_product_is_the_same_with_few_rows_and_with_many():
    weight = jnp.asarray(np.random.default_rng(0).normal(size=(3, 4, 5)), jnp.float32)  # D N H
    stored = OutputsFirst(weight.transpose(1, 2, 0))
    for rows in (2, 200):
        x = jnp.asarray(np.random.default_rng(rows).normal(size=(rows, 1, 3)), jnp.float32)
        found = stored.apply("BTD,DNH->BTNH", x)
        np.testing.assert_allclose(found, jnp.einsum("BTD,DNH->BTNH", x, weight), atol=1e-5)


@pytest.mark.parametrize(
    ("family", "tied"),
    [("llama", False), ("llama", True), ("qwen2", False), ("qwen3", False), ("olmo2", False)],
)
def test_logits_are_those_of_stacked_weights(family, tied):
    config = ModelConfig(family=family, tie_word_embeddings=tied, **SIZES)
    stacked = init_params(config, 0)
    params = layered(config, stacked, jnp.float32)
    assert is_layered(params)
    assert params["layers"][0]["attention"]["q"].weight.shape == (4, 4, 16)  # N H D
    tokens, lengths = jnp.asarray([[1, 2, 3, 4], [5, 6, 7, 0]]), jnp.asarray([4, 3])
    found = []
    for weights in (stacked, params):
        logits, cache = prefill(
            config, weights, tokens, lengths,
            cache_length=8, compute_dtype=jnp.float32, backend=choose("auto"),
        )  # fmt: skip
        steps = [logits]
        for step in range(2):
            logits, cache = decode(config, weights, jnp.asarray([9, 8]), lengths + step, cache)
            steps.append(logits)
        found.append(np.stack(steps))
    assert np.abs(found[0]).max() > 0.05
    np.testing.assert_allclose(*found, atol=1e-5)


def test_many_prompts_are_read_eight_at_a_time():
    config = ModelConfig(**SIZES)
    params = layered(config, init_params(config, 0), jnp.float32)
    tokens = jnp.asarray(np.random.default_rng(0).integers(0, 40, (24, 5)))
    lengths = jnp.arange(24) % 5 + 1

    def read(rows: slice) -> Any:
        return prefill(
            config, params, tokens[rows], lengths[rows],
            cache_length=8, compute_dtype=jnp.float32, backend=choose("auto"),
        )  # fmt: skip

    parts = [read(slice(start, start + 8)) for start in (0, 8, 16)]
    joined = jax.tree.map(lambda *arrays: np.concatenate(arrays), *parts)
    jax.tree.map(np.testing.assert_array_equal, read(slice(None)), joined)
    assert np.abs(joined[0]).max() > 0.05


def test_weights_are_stored_once_and_with_adapters_as_they_are(tiny, tiny_params):
    once = for_generation(tiny, tiny_params, jnp.float32)
    assert is_layered(once)
    assert for_generation(tiny, once, jnp.float32) is once
    adapted = {**tiny_params, "lora": {}}
    assert for_generation(tiny, adapted, jnp.float32) is adapted
