"""Qwen 2 and 2.5: LLaMA's layer with biases of queries, keys and values. Loads no jax."""

from typing import Any

from parrot_jax.model.families.family import Family
from parrot_jax.model.families.llama import LLAMA


def _layer() -> type[Any]:  # a DecoderLayer
    from parrot_jax.model.families.qwen2.layer import Qwen2Layer

    return Qwen2Layer


QWEN2 = Family(
    name="qwen2",
    architecture="Qwen2ForCausalLM",
    layer=_layer,
    layer_tensors=(
        *LLAMA.layer_tensors[:4],
        ("q_bias", "self_attn.q_proj.bias", "NH", "N H"),
        ("k_bias", "self_attn.k_proj.bias", "KH", "K H"),
        ("v_bias", "self_attn.v_proj.bias", "KH", "K H"),
        *LLAMA.layer_tensors[4:],
    ),
    allowed={"attention_bias": (True, None)},
    sliding_window="switched",
)
