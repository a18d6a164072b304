"""A model small enough to compile in a second, with grouped heads and lively weights."""

import pytest

from parrot_jax.model.config import ModelConfig
from parrot_jax.model.decoder import Params, init_params


@pytest.fixture(scope="session")
def tiny() -> ModelConfig:
    # A large initializer makes logits differ enough for a wrong token to show.
    return ModelConfig(
        vocab_size=48,
        hidden_size=32,
        intermediate_size=40,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        initializer_range=0.3,
    )


@pytest.fixture(scope="session")
def tiny_params(tiny: ModelConfig) -> Params:
    return init_params(tiny, seed=0)
