"""Converts a llama2.c model (legacy layout) to Hugging Face's format.

llama2.c's RoPE rotates neighbouring dims of a head (2i and 2i + 1); ours and Hugging Face's rotates
i and i + H/2. So the rows of the query and key matrices are permuted.
"""

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from parrot_jax.model.hf_config import to_hf
from parrot_jax.model.model_config import ModelConfig


def llama2c_to_hf(model: Path, folder: Path) -> ModelConfig:
    """Converts a `.bin` file; returns the model config."""
    data = model.read_bytes()
    dim, hidden, layers, heads, kv_heads, vocab, length = np.frombuffer(data, "<i4", 7).tolist()
    config = ModelConfig(
        vocab_size=abs(vocab), hidden_size=dim, intermediate_size=hidden, num_hidden_layers=layers,
        num_attention_heads=heads, num_key_value_heads=kv_heads, max_position_embeddings=length,
        tie_word_embeddings=vocab > 0,
    )  # fmt: skip
    numbers, at = np.frombuffer(data, "<f4", offset=28), 0

    def take(*shape: int) -> np.ndarray:
        nonlocal at
        at += int(np.prod(shape))
        return numbers[at - int(np.prod(shape)) : at].reshape(shape)

    width = config.head_width
    embed = take(vocab, dim)
    stacked = {"input_layernorm": take(layers, dim)}
    stacked["self_attn.q_proj"] = halves(take(layers, heads * width, dim), heads)
    stacked["self_attn.k_proj"] = halves(take(layers, kv_heads * width, dim), kv_heads)
    stacked["self_attn.v_proj"] = take(layers, kv_heads * width, dim)
    stacked["self_attn.o_proj"] = take(layers, dim, heads * width)
    stacked["post_attention_layernorm"] = take(layers, dim)
    stacked["mlp.gate_proj"] = take(layers, hidden, dim)
    stacked["mlp.down_proj"] = take(layers, dim, hidden)
    stacked["mlp.up_proj"] = take(layers, hidden, dim)
    tensors = {"model.embed_tokens.weight": embed, "model.norm.weight": take(dim)}
    for name, matrices in stacked.items():
        for layer in range(layers):
            tensors[f"model.layers.{layer}.{name}.weight"] = matrices[layer]
    assert at + length * width == len(numbers), "cosines and sines follow, and nothing else"
    folder.mkdir(parents=True)
    save_file({name: np.ascontiguousarray(t) for name, t in tensors.items()},
              folder / "model.safetensors", metadata={"format": "pt"})  # fmt: skip
    (folder / "config.json").write_text(json.dumps(to_hf(config)))
    return config


def halves(matrices: np.ndarray, heads: int) -> np.ndarray:
    """Permutes the rows of each head from 0, 1, 2, 3, ... to 0, 2, ..., 1, 3, ...."""
    layers, rows, dim = matrices.shape
    pairs = matrices.reshape(layers, heads, rows // heads // 2, 2, dim)
    return pairs.swapaxes(2, 3).reshape(layers, rows, dim)
