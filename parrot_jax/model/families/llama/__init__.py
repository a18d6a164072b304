"""LLaMA 1, 2 and 3, and models with the same layer (`layer.py`). Loads no jax."""

from typing import Any

from parrot_jax.model.families.family import Family


def _layer() -> type[Any]:  # a DecoderLayer
    from parrot_jax.model.families.llama.layer import LlamaLayer

    return LlamaLayer


LLAMA = Family(
    name="llama",
    architecture="LlamaForCausalLM",
    layer=_layer,
    layer_tensors=(
        ("attention_norm", "input_layernorm.weight", "D", "D"),
        ("attention.q", "self_attn.q_proj.weight", "NH D", "D N H"),
        ("attention.k", "self_attn.k_proj.weight", "KH D", "D K H"),
        ("attention.v", "self_attn.v_proj.weight", "KH D", "D K H"),
        ("attention.o", "self_attn.o_proj.weight", "D NH", "N H D"),
        ("mlp_norm", "post_attention_layernorm.weight", "D", "D"),
        ("mlp.gate", "mlp.gate_proj.weight", "F D", "D F"),
        ("mlp.up", "mlp.up_proj.weight", "F D", "D F"),
        ("mlp.down", "mlp.down_proj.weight", "D F", "F D"),
    ),
    allowed={
        "attention_bias": (False, None),
        "mlp_bias": (False, None),
        "bias": (False, None),
    },
    hf_values={"attention_bias": False, "mlp_bias": False},
)
