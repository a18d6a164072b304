"""Qwen 3, dense: LLaMA's layer with a norm of each head's queries and keys. Loads no jax."""

from typing import Any

from parrot_jax.model.families.family import Family
from parrot_jax.model.families.llama import LLAMA


def _layer() -> type[Any]:  # a DecoderLayer
    from parrot_jax.model.families.qwen3.layer import Qwen3Layer

    return Qwen3Layer


QWEN3 = Family(
    name="qwen3",
    architecture="Qwen3ForCausalLM",
    layer=_layer,
    layer_tensors=(
        *LLAMA.layer_tensors[:3],
        ("q_norm", "self_attn.q_norm.weight", "H", "H"),
        ("k_norm", "self_attn.k_norm.weight", "H", "H"),
        *LLAMA.layer_tensors[3:],
    ),
    allowed={"attention_bias": (False, None)},
    sliding_window="switched",
    hf_values={"attention_bias": False},
)
