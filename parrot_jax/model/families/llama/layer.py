"""The layer of LLaMA.

Source: arXiv:2302.13971, with the grouped heads of arXiv:2307.09288.
"""

import jax
from flax import nnx
from jaxtyping import Array, Float

from parrot_jax.model.blocks import Attention, DecoderLayer, Mlp, linear, rms_norm, scale
from parrot_jax.model.model_config import ModelConfig
from parrot_jax.model.rotary import Rotation, rotate


class LlamaLayer(DecoderLayer):
    """Pre-norm attention with rotary positions and grouped heads, then SwiGLU."""

    def __init__(self, config: ModelConfig, rngs: nnx.Rngs) -> None:
        """Makes random weights."""
        self.config = config
        self.attention_norm = scale(config)
        self.attention = Attention(config, rngs)
        self.mlp_norm = scale(config)
        self.mlp = Mlp(config, rngs)

    def project(
        self, x: Float[Array, "B T D"], rotation: Rotation
    ) -> tuple[Float[Array, "B T N H"], Float[Array, "B T K H"], Float[Array, "B T K H"]]:
        """Norm, then queries, keys and values; queries and keys are rotated."""
        normed = rms_norm(x, self.attention_norm[...], self.config.rms_norm_eps)
        query = linear("BTD,DNH->BTNH", normed, self.attention.q)
        key = linear("BTD,DKH->BTKH", normed, self.attention.k)
        value = linear("BTD,DKH->BTKH", normed, self.attention.v)
        return rotate(query, rotation), rotate(key, rotation), value

    def combine(
        self, x: Float[Array, "B T D"], attended: Float[Array, "B T N H"]
    ) -> Float[Array, "B T D"]:
        """Adds the output of attention, then the MLP (SwiGLU), to the residual stream."""
        x = x + linear("BTNH,NHD->BTD", attended, self.attention.o)
        normed = rms_norm(x, self.mlp_norm[...], self.config.rms_norm_eps)
        gate = linear("BTD,DF->BTF", normed, self.mlp.gate)
        up = linear("BTD,DF->BTF", normed, self.mlp.up)
        return x + linear("BTF,FD->BTD", jax.nn.silu(gate) * up, self.mlp.down)
