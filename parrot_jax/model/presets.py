"""Published models by name, for `model:` in a config. Loads no jax."""

from dataclasses import replace
from types import MappingProxyType

from parrot_jax.model.model_config import ModelConfig, RopeScaling

_LLAMA_3_8B = ModelConfig(
    vocab_size=128256,
    intermediate_size=14336,
    num_key_value_heads=8,
    max_position_embeddings=8192,
    rope_theta=500000.0,
)

_MISTRAL_7B = ModelConfig(
    family="mistral",
    vocab_size=32768,
    intermediate_size=14336,
    num_key_value_heads=8,
    max_position_embeddings=32768,
    rope_theta=1000000.0,
)

_QWEN25_7B = ModelConfig(
    family="qwen2",
    vocab_size=152064,
    hidden_size=3584,
    intermediate_size=18944,
    num_hidden_layers=28,
    num_attention_heads=28,
    num_key_value_heads=4,
    max_position_embeddings=131072,
    rope_theta=1000000.0,
    rms_norm_eps=1e-6,
)

_YI_6B = ModelConfig(vocab_size=64000, num_key_value_heads=4, rope_theta=5000000.0)

PRESETS = MappingProxyType(
    {
        # arXiv:2307.09288 and the config.json files of the published folders.
        "llama2-7b": ModelConfig(),
        "llama2-13b": ModelConfig(
            hidden_size=5120,
            intermediate_size=13824,
            num_hidden_layers=40,
            num_attention_heads=40,
            num_key_value_heads=40,
        ),
        "llama2-70b": ModelConfig(
            hidden_size=8192,
            intermediate_size=28672,
            num_hidden_layers=80,
            num_attention_heads=64,
            num_key_value_heads=8,
        ),
        # arXiv:2302.13971, the base of the papers' first askers.
        "llama-13b": ModelConfig(
            hidden_size=5120,
            intermediate_size=13824,
            num_hidden_layers=40,
            num_attention_heads=40,
            num_key_value_heads=40,
            rms_norm_eps=1e-6,
            max_position_embeddings=2048,
        ),
        # arXiv:2407.21783: 3.0 reads 8,192 tokens; 3.1 stretches long wavelengths for 131,072.
        "llama3-8b": _LLAMA_3_8B,
        "llama3.1-8b": replace(
            _LLAMA_3_8B,
            max_position_embeddings=131072,
            rope_scaling=RopeScaling(rope_type="llama3", factor=8.0),
        ),
        # The config.json files of the published folders; tied heads below 8B.
        "llama3.2-1b": replace(
            _LLAMA_3_8B,
            hidden_size=2048,
            intermediate_size=8192,
            num_hidden_layers=16,
            head_dim=64,
            tie_word_embeddings=True,
            max_position_embeddings=131072,
            rope_scaling=RopeScaling(rope_type="llama3", factor=32.0),
        ),
        "mistral-7b-v0.1": replace(
            _MISTRAL_7B, vocab_size=32000, rope_theta=10000.0, sliding_window=4096
        ),
        "mistral-7b-v0.3": _MISTRAL_7B,
        "qwen2.5-0.5b": ModelConfig(
            family="qwen2",
            vocab_size=151936,
            hidden_size=896,
            intermediate_size=4864,
            num_hidden_layers=24,
            num_attention_heads=14,
            num_key_value_heads=2,
            max_position_embeddings=32768,
            rope_theta=1000000.0,
            rms_norm_eps=1e-6,
            tie_word_embeddings=True,
        ),
        "qwen2.5-7b": _QWEN25_7B,
        "qwen2.5-7b-instruct": replace(_QWEN25_7B, max_position_embeddings=32768),
        "qwen3-8b": ModelConfig(
            family="qwen3",
            vocab_size=151936,
            intermediate_size=12288,
            num_hidden_layers=36,
            num_key_value_heads=8,
            head_dim=128,
            max_position_embeddings=40960,
            rope_theta=1000000.0,
            rms_norm_eps=1e-6,
        ),
        "smollm2-1.7b": ModelConfig(
            vocab_size=49152,
            hidden_size=2048,
            intermediate_size=8192,
            num_hidden_layers=24,
            max_position_embeddings=8192,
            rope_theta=130000.0,
            tie_word_embeddings=True,
        ),
        "yi-6b": _YI_6B,
        "yi-1.5-9b": replace(_YI_6B, num_hidden_layers=48, rms_norm_eps=1e-6),
        "olmo2-7b": ModelConfig(
            family="olmo2",
            vocab_size=100352,
            max_position_embeddings=4096,
            rope_theta=500000.0,
            rms_norm_eps=1e-6,
        ),
        # arXiv:2401.02385.
        "tinyllama-1.1b": ModelConfig(
            hidden_size=2048,
            intermediate_size=5632,
            num_hidden_layers=22,
            num_attention_heads=32,
            num_key_value_heads=4,
            max_position_embeddings=2048,
        ),
    }
)
"""Published sizes by name. A run folder keeps the sizes, not the name."""
