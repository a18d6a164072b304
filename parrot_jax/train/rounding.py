"""Stochastic rounding: what a bfloat16 weight needs to move by less than half its last bit.

An AdamW update of 3e-5 is smaller than that for most weights of an ordinary model, so rounding to
the nearest would leave them where they are, step after step. Rounded up with the probability that
the rest makes up of a bit, they move by the right amount on average.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, BFloat16, Float32, PRNGKeyArray

_DROPPED_BITS = 16
"""Of float32's 32; the others are a bfloat16."""


def round_stochastically(
    values: Float32[Array, "*dims"], key: PRNGKeyArray
) -> BFloat16[Array, "*dims"]:
    """Rounds to one of the two nearest bfloat16; the expected value is the value itself.

    Infinities and NaN stay what they are. Values are the same on every mesh.

    Args:
      values: What to round.
      key: Another for every array and step: equal keys would move all weights together.

    Returns:
      The rounded values; a value that is a bfloat16 already is returned as it is.
    """
    bits = jax.lax.bitcast_convert_type(values, jnp.uint32)
    # As sign and magnitude stand apart, adding below the last bit that stays carries into it with
    # the right probability, away from zero for either sign.
    noise = jax.random.bits(key, values.shape, jnp.uint16).astype(jnp.uint32)
    kept = jnp.where(jnp.isfinite(values), bits + noise, bits) >> _DROPPED_BITS
    rounded = jax.lax.bitcast_convert_type(kept.astype(jnp.uint16), jnp.bfloat16)
    return jnp.where(jnp.isnan(values), jnp.bfloat16(jnp.nan), rounded)
