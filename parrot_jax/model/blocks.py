"""Building blocks of the families' layers: weights with logical axes, norms, the interface."""

import abc
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from parrot_jax.model.lora import Adapted
from parrot_jax.model.model_config import ModelConfig
from parrot_jax.model.quantized import product
from parrot_jax.model.rotary import Rotation


def weight(
    rngs: nnx.Rngs, config: ModelConfig, shape: tuple[int, ...], axes: tuple[str, ...]
) -> nnx.Param[Array]:
    """Returns normal random weights of std `initializer_range`; `axes` are their logical axes."""
    init = nnx.initializers.normal(config.initializer_range)
    return nnx.Param(init(rngs.params(), shape, jnp.float32), out_sharding=axes)


def scale(config: ModelConfig) -> nnx.Param[Array]:
    """Returns the scale of a norm over the residual stream [D], all ones."""
    return ones((config.hidden_size,), ("norm",))


def ones(shape: tuple[int, ...], axes: tuple[str, ...]) -> nnx.Param[Array]:
    """Returns the scale of another norm, all ones; `axes` are its logical axes."""
    return nnx.Param(jnp.ones(shape, jnp.float32), out_sharding=axes)


def zeros(shape: tuple[int, ...], axes: tuple[str, ...]) -> nnx.Param[Array]:
    """Returns a bias, all zeros; `axes` are its logical axes."""
    return nnx.Param(jnp.zeros(shape, jnp.float32), out_sharding=axes)


def linear(
    equation: str, x: Array, weight: nnx.Param[Array], bias: nnx.Param[Array] | None = None
) -> Array:
    """An einsum with a weight, plus a bias; both are cast to the dtype of `x`.

    A weight may have an adapter (`lora.py`) or be quantised (`quantized.py`).
    """
    value: Any = weight.get_value()
    found = value.apply(equation, x) if isinstance(value, Adapted) else product(equation, x, value)
    if bias is None:
        return found
    added = bias[...].astype(x.dtype)
    return found + added.reshape((1,) * (found.ndim - added.ndim) + added.shape)


class Attention(nnx.Module):
    """The weights of attention: q [D, N, H], k and v [D, K, H], o [N, H, D]."""

    def __init__(self, config: ModelConfig, rngs: nnx.Rngs) -> None:
        """Makes random weights."""
        d, n = config.hidden_size, config.num_attention_heads
        k, h = config.num_kv_heads, config.head_width
        self.q = weight(rngs, config, (d, n, h), ("embed", "heads", "head_dim"))
        self.k = weight(rngs, config, (d, k, h), ("embed", "kv_heads", "head_dim"))
        self.v = weight(rngs, config, (d, k, h), ("embed", "kv_heads", "head_dim"))
        self.o = weight(rngs, config, (n, h, d), ("heads", "head_dim", "embed"))


class Mlp(nnx.Module):
    """The weights of SwiGLU: gate and up [D, F], down [F, D]."""

    def __init__(self, config: ModelConfig, rngs: nnx.Rngs) -> None:
        """Makes random weights."""
        d, f = config.hidden_size, config.intermediate_size
        self.gate = weight(rngs, config, (d, f), ("embed", "mlp"))
        self.up = weight(rngs, config, (d, f), ("embed", "mlp"))
        self.down = weight(rngs, config, (f, d), ("mlp", "embed"))


def rms_norm(
    x: Float[Array, "*rows D"], scale: Float[Array, " D"], eps: float
) -> Float[Array, "*rows D"]:
    """Divides by the root mean square and multiplies by `scale`; float32 inside, x's dtype out.

    Source: arXiv:1910.07467.
    """
    x32 = x.astype(jnp.float32)
    mean_square = jnp.mean(jnp.square(x32), axis=-1, keepdims=True)
    scale = scale.astype(jnp.float32).reshape((1,) * (x.ndim - 1) + scale.shape)
    return (x32 * jax.lax.rsqrt(mean_square + eps) * scale).astype(x.dtype)


class DecoderLayer(nnx.Module):
    """One layer as two methods; the caller computes attention between them.

    Training attends within segments, generation attends to a cache; both call the same methods.
    """

    @abc.abstractmethod
    def __init__(self, config: ModelConfig, rngs: nnx.Rngs) -> None:
        """Makes random weights, named as in the family's `layer_tensors`."""

    @abc.abstractmethod
    def project(
        self, x: Float[Array, "B T D"], rotation: Rotation
    ) -> tuple[Float[Array, "B T N H"], Float[Array, "B T K H"], Float[Array, "B T K H"]]:
        """Returns queries, keys and values; queries and keys are rotated."""

    @abc.abstractmethod
    def combine(
        self, x: Float[Array, "B T D"], attended: Float[Array, "B T N H"]
    ) -> Float[Array, "B T D"]:
        """Returns the residual stream after attention and MLP."""
