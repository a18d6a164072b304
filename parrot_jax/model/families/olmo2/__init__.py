"""OLMo 2: norms behind attention and MLP, and of all queries and keys. Loads no jax."""

from typing import Any

from parrot_jax.model.families.family import Family
from parrot_jax.model.families.llama import LLAMA


def _layer() -> type[Any]:  # a DecoderLayer
    from parrot_jax.model.families.olmo2.layer import Olmo2Layer

    return Olmo2Layer


OLMO2 = Family(
    name="olmo2",
    architecture="Olmo2ForCausalLM",
    layer=_layer,
    layer_tensors=(
        *LLAMA.layer_tensors[1:3],
        ("q_norm", "self_attn.q_norm.weight", "NH", "N H"),
        ("k_norm", "self_attn.k_norm.weight", "KH", "K H"),
        *LLAMA.layer_tensors[3:5],
        ("attention_norm", "post_attention_layernorm.weight", "D", "D"),
        *LLAMA.layer_tensors[6:],
        ("mlp_norm", "post_feedforward_layernorm.weight", "D", "D"),
    ),
    allowed={"attention_bias": (False, None), "clip_qkv": (None,)},
    hf_values={"attention_bias": False},
)
