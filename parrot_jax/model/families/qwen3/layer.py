"""The layer of Qwen 3.

Source: arXiv:2505.09388.
"""

from flax import nnx
from jaxtyping import Array, Float

from parrot_jax.model.blocks import linear, ones, rms_norm
from parrot_jax.model.families.llama.layer import LlamaLayer
from parrot_jax.model.model_config import ModelConfig
from parrot_jax.model.rotary import Rotation, rotate


class Qwen3Layer(LlamaLayer):
    """LLaMA's layer with a norm over each head's queries and keys."""

    def __init__(self, config: ModelConfig, rngs: nnx.Rngs) -> None:
        """Makes random weights; the scales of norms are 1."""
        super().__init__(config, rngs)
        self.q_norm = ones((config.head_width,), ("head_dim",))
        self.k_norm = ones((config.head_width,), ("head_dim",))

    def project(
        self, x: Float[Array, "B T D"], rotation: Rotation
    ) -> tuple[Float[Array, "B T N H"], Float[Array, "B T K H"], Float[Array, "B T K H"]]:
        """Norm, then queries, keys and values; queries and keys are normed and rotated."""
        eps = self.config.rms_norm_eps
        normed = rms_norm(x, self.attention_norm[...], eps)
        query = linear("BTD,DNH->BTNH", normed, self.attention.q)
        key = linear("BTD,DKH->BTKH", normed, self.attention.k)
        value = linear("BTD,DKH->BTKH", normed, self.attention.v)
        query = rms_norm(query, self.q_norm[...], eps)
        key = rms_norm(key, self.k_norm[...], eps)
        return rotate(query, rotation), rotate(key, rotation), value
