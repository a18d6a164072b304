"""Rotary position embedding in the half-split convention of the Hugging Face weights.

Dim i of a head is paired with dim i + H/2, not with i + 1 as in Meta's own files; the weights of
the two conventions differ by a permutation of the rows of `q` and `k`.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from parrot_jax.model.frequencies import attention_factor, frequencies
from parrot_jax.model.model_config import RopeScaling


class Rotation(NamedTuple):
    """Cosine and sine of every angle, times the attention factor; float32."""

    cos: Float[Array, "B T half"]
    sin: Float[Array, "B T half"]


def rotation_at(
    positions: Int[Array, "B T"],
    head_width: int,
    theta: float,
    scaling: RopeScaling | None = None,
) -> Rotation:
    """Returns the angles at the given positions: position * frequency of the pair.

    Args:
      positions: Position of each token in its own segment, from 0.
      head_width: H; even.
      theta: Base of the wavelengths, 10000 in LLaMA and LLaMA 2.
      scaling: How the wavelengths are stretched; None = not at all.

    Returns:
      Cosines and sines in float32: bfloat16 cannot distinguish position 1000 from 1001. With yarn
      scaling they are longer than 1, which sharpens attention.

    Source: arXiv:2104.09864.
    """
    angles = (
        positions[:, :, None].astype(jnp.float32)
        * frequencies(head_width, theta, scaling)[None, None, :]
    )
    rotation = Rotation(jnp.cos(angles), jnp.sin(angles))
    factor = attention_factor(scaling)
    return rotation if factor == 1 else Rotation(rotation.cos * factor, rotation.sin * factor)


def rotate(x: Float[Array, "B T heads H"], rotation: Rotation) -> Float[Array, "B T heads H"]:
    """Rotates each pair (x[i], x[i + H/2]) of every head by its angle, in float32."""
    cos, sin = rotation.cos[:, :, None, :], rotation.sin[:, :, None, :]
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    turned = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return turned.astype(x.dtype)
