"""The layer of OLMo 2.

Source: arXiv:2501.00656.
"""

import jax
from flax import nnx
from jaxtyping import Array, Float

from parrot_jax.model.blocks import Attention, DecoderLayer, Mlp, linear, ones, rms_norm, scale
from parrot_jax.model.model_config import ModelConfig
from parrot_jax.model.rotary import Rotation, rotate


class Olmo2Layer(DecoderLayer):
    """Norms of the outputs of attention and MLP, and one norm over all heads' queries, or keys."""

    def __init__(self, config: ModelConfig, rngs: nnx.Rngs) -> None:
        """Makes random weights; the scales of norms are 1."""
        self.config = config
        self.attention = Attention(config, rngs)
        heads, width = config.num_attention_heads, config.head_width
        self.q_norm = ones((heads, width), ("heads", "head_dim"))
        self.k_norm = ones((config.num_kv_heads, width), ("kv_heads", "head_dim"))
        self.attention_norm = scale(config)
        self.mlp = Mlp(config, rngs)
        self.mlp_norm = scale(config)

    def project(
        self, x: Float[Array, "B T D"], rotation: Rotation
    ) -> tuple[Float[Array, "B T N H"], Float[Array, "B T K H"], Float[Array, "B T K H"]]:
        """Queries, keys and values; queries and keys are normed over all heads and rotated."""
        query = self._normed(linear("BTD,DNH->BTNH", x, self.attention.q), self.q_norm[...])
        key = self._normed(linear("BTD,DKH->BTKH", x, self.attention.k), self.k_norm[...])
        value = linear("BTD,DKH->BTKH", x, self.attention.v)
        return rotate(query, rotation), rotate(key, rotation), value

    def combine(
        self, x: Float[Array, "B T D"], attended: Float[Array, "B T N H"]
    ) -> Float[Array, "B T D"]:
        """Adds the normed output of attention, then of the MLP, to the residual stream."""
        eps = self.config.rms_norm_eps
        attended = linear("BTNH,NHD->BTD", attended, self.attention.o)
        x = x + rms_norm(attended, self.attention_norm[...], eps)
        gate = linear("BTD,DF->BTF", x, self.mlp.gate)
        up = linear("BTD,DF->BTF", x, self.mlp.up)
        down = linear("BTF,FD->BTD", jax.nn.silu(gate) * up, self.mlp.down)
        return x + rms_norm(down, self.mlp_norm[...], eps)

    def _normed(
        self, x: Float[Array, "B T heads H"], scales: Float[Array, "heads H"]
    ) -> Float[Array, "B T heads H"]:
        flat = x.reshape(*x.shape[:2], -1)
        normed = rms_norm(flat, scales.reshape(-1), self.config.rms_norm_eps)
        return normed.reshape(x.shape)
