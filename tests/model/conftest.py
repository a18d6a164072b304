"""A model that compiles in a second, with grouped heads and large random weights."""

import pytest

from parrot_jax.model.decoder import Params, init_params
from parrot_jax.model.model_config import ModelConfig


@pytest.fixture(scope="session")
def tiny() -> ModelConfig:
    # With a large initializer, logits differ enough for a wrong token to be noticed.
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
