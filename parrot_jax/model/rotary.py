"""Rotary position embedding in the half-split convention of the Hugging Face weights.

Dim i of a head is paired with dim i + H/2, not with i + 1 as in Meta's own files; the weights of
the two conventions differ by a permutation of the rows of `q` and `k`.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int


class Rotation(NamedTuple):
    """Cosine and sine of every angle, float32."""

    cos: Float[Array, "B T half"]
    sin: Float[Array, "B T half"]


def rotation_at(positions: Int[Array, "B T"], head_width: int, theta: float) -> Rotation:
    """Angles at the given positions: position * theta^(-2i/H) for the pair i.

    Args:
      positions: Position of each token in its own segment, from 0.
      head_width: H; even.
      theta: Base of the wavelengths, 10000 in LLaMA and LLaMA 2.

    Returns:
      Cosines and sines in float32: in bfloat16, position 1000 could not be told from 1001.

    Source: arXiv:2104.09864.
    """
    # float32 throughout, as transformers computes it.
    exponents = np.arange(0, head_width, 2, dtype=np.float32) / np.float32(head_width)
    frequencies = np.float32(1) / np.float32(theta) ** exponents
    angles = positions[:, :, None].astype(jnp.float32) * frequencies[None, None, :]
    return Rotation(jnp.cos(angles), jnp.sin(angles))


def rotate(x: Float[Array, "B T heads H"], rotation: Rotation) -> Float[Array, "B T heads H"]:
    """Turns each pair (x[i], x[i + H/2]) of every head by its angle; computed in float32."""
    cos, sin = rotation.cos[:, :, None, :], rotation.sin[:, :, None, :]
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    turned = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return turned.astype(x.dtype)
