"""The layer of Qwen 2.

Source: arXiv:2407.10671.
"""

from flax import nnx
from jaxtyping import Array, Float

from parrot_jax.model.blocks import linear, rms_norm, zeros
from parrot_jax.model.families.llama.layer import LlamaLayer
from parrot_jax.model.model_config import ModelConfig
from parrot_jax.model.rotary import Rotation, rotate


class Qwen2Layer(LlamaLayer):
    """LLaMA's layer with biases of queries, keys and values."""

    def __init__(self, config: ModelConfig, rngs: nnx.Rngs) -> None:
        """Makes random weights; the biases are 0."""
        super().__init__(config, rngs)
        heads, kv_heads = config.num_attention_heads, config.num_kv_heads
        width = config.head_width
        self.q_bias = zeros((heads, width), ("heads", "head_dim"))
        self.k_bias = zeros((kv_heads, width), ("kv_heads", "head_dim"))
        self.v_bias = zeros((kv_heads, width), ("kv_heads", "head_dim"))

    def project(
        self, x: Float[Array, "B T D"], rotation: Rotation
    ) -> tuple[Float[Array, "B T N H"], Float[Array, "B T K H"], Float[Array, "B T K H"]]:
        """Norm, then queries, keys and values with their biases; queries and keys are rotated."""
        normed = rms_norm(x, self.attention_norm[...], self.config.rms_norm_eps)
        query = linear("BTD,DNH->BTNH", normed, self.attention.q, self.q_bias)
        key = linear("BTD,DKH->BTKH", normed, self.attention.k, self.k_bias)
        value = linear("BTD,DKH->BTKH", normed, self.attention.v, self.v_bias)
        return rotate(query, rotation), rotate(key, rotation), value
