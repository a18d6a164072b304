"""Sizes of the published models, and errors for wrong sizes."""

import subprocess
import sys

import pytest

from parrot_jax.core.errors import UserError
from parrot_jax.model.families import num_parameters
from parrot_jax.model.model_config import ModelConfig
from parrot_jax.model.presets import PRESETS


@pytest.mark.parametrize(
    ("name", "published"),
    [
        ("llama2-7b", 6_738_415_616),
        ("llama2-13b", 13_015_864_320),
        ("llama2-70b", 68_976_648_192),
        ("llama-13b", 13_015_864_320),
        ("tinyllama-1.1b", 1_100_048_384),
        ("llama3.1-8b", 8_030_261_248),
        ("llama3.2-1b", 1_235_814_400),
        ("mistral-7b-v0.3", 7_248_023_552),
        ("qwen2.5-7b", 7_615_616_512),
        ("qwen3-8b", 8_190_735_360),
        ("smollm2-1.7b", 1_711_376_384),
        ("olmo2-7b", 7_298_617_344),
    ],
)
def test_presets_have_the_published_number_of_parameters(name: str, published: int):
    assert num_parameters(PRESETS[name]) == published


def test_defaults_of_heads_are_filled_in():
    config = ModelConfig(hidden_size=64, num_attention_heads=4)
    assert (config.head_width, config.num_kv_heads) == (16, 4)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"vocab_size": 0}, r"model.vocab_size is 0; it must be a whole number from 1"),
        ({"hidden_size": 30, "num_attention_heads": 4}, r"hidden_size=30 is not divisible by"),
        ({"head_dim": 5}, r"the width of a head is 5; .* even number"),
        ({"num_attention_heads": 8, "num_key_value_heads": 3}, r"=3 does not divide .*=8"),
        ({"rms_norm_eps": float("nan")}, r"rms_norm_eps is nan"),
    ],
)
def test_impossible_sizes_are_refused(sizes: dict[str, float], message: str):
    with pytest.raises(UserError, match=message):
        ModelConfig(**sizes)  # type: ignore[arg-type]


@pytest.mark.parametrize("module", ["parrot_jax.model.model_config", "parrot_jax.sharding"])
def test_configs_are_imported_without_jax(module: str):
    code = f"import sys, {module}; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
