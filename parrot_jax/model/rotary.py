"""Rotary position embedding in the half-split convention of the Hugging Face weights.

Dim i of a head is paired with dim i + H/2, not with i + 1 as in Meta's own files; the weights of
the two conventions differ by a permutation of the rows of `q` and `k`.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from parrot_jax.model.config import RopeScaling


class Rotation(NamedTuple):
    """Cosine and sine of every angle, float32."""

    cos: Float[Array, "B T half"]
    sin: Float[Array, "B T half"]


def rotation_at(
    positions: Int[Array, "B T"],
    head_width: int,
    theta: float,
    scaling: RopeScaling | None = None,
) -> Rotation:
    """Angles at the given positions: position * frequency of the pair.

    Args:
      positions: Position of each token in its own segment, from 0.
      head_width: H; even.
      theta: Base of the wavelengths, 10000 in LLaMA and LLaMA 2.
      scaling: How the wavelengths are stretched; None = not at all.

    Returns:
      Cosines and sines in float32: in bfloat16, position 1000 could not be told from 1001.

    Source: arXiv:2104.09864.
    """
    angles = (
        positions[:, :, None].astype(jnp.float32)
        * frequencies(head_width, theta, scaling)[None, None, :]
    )
    return Rotation(jnp.cos(angles), jnp.sin(angles))


def frequencies(head_width: int, theta: float, scaling: RopeScaling | None = None) -> np.ndarray:
    """Radians a position of each pair i: theta^(-2i/H), stretched; float32 [H / 2].

    `llama3` divides the frequency by the factor where fewer than `low_freq_factor` of its waves fit
    into the positions of pre-training, leaves it alone where more than `high_freq_factor` do, and
    goes from one to the other linearly in that number.

    >>> frequencies(4, 100.0).tolist()
    [1.0, 0.10000000149011612]

    Source: the model card and code of LLaMA 3.1, as transformers computes it.
    """
    # float32 throughout, as transformers computes it.
    exponents = np.arange(0, head_width, 2, dtype=np.float32) / np.float32(head_width)
    plain = np.float32(1) / np.float32(theta) ** exponents
    if scaling is None:
        return plain
    stretched = plain / np.float32(scaling.factor)
    if scaling.rope_type == "linear":
        return stretched
    num_waves = np.float32(scaling.original_max_position_embeddings) * plain / np.float32(2 * np.pi)
    low, high = np.float32(scaling.low_freq_factor), np.float32(scaling.high_freq_factor)
    kept = np.clip((num_waves - low) / (high - low), np.float32(0), np.float32(1))
    return (np.float32(1) - kept) * stretched + kept * plain


def rotate(x: Float[Array, "B T heads H"], rotation: Rotation) -> Float[Array, "B T heads H"]:
    """Turns each pair (x[i], x[i + H/2]) of every head by its angle; computed in float32."""
    cos, sin = rotation.cos[:, :, None, :], rotation.sin[:, :, None, :]
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    turned = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return turned.astype(x.dtype)
