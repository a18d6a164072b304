"""Stochastic rounding, so that bfloat16 weights can take updates below half their last bit.

For most weights, an AdamW update at a learning rate of 3e-5 is smaller than that, so rounding to
nearest would never change them. Rounding up with a probability equal to the remainder, in units of
the last bit, moves them by the right amount on average.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, BFloat16, Float32, PRNGKeyArray

_DROPPED_BITS = 16
"""Low bits of a float32 that a bfloat16 does not have."""


def round_stochastically(
    values: Float32[Array, "*dims"], key: PRNGKeyArray
) -> BFloat16[Array, "*dims"]:
    """Rounds to one of the two nearest bfloat16 values; the expected result is the input.

    Infinities and NaN are unchanged. Results are the same on every mesh.

    Args:
      values: The values to round.
      key: Different for every array and step: equal keys would correlate the weights' errors.

    Returns:
      The rounded values; values that bfloat16 can represent are unchanged.
    """
    bits = jax.lax.bitcast_convert_type(values, jnp.uint32)
    # Floats store sign and magnitude separately, so adding random low bits carries into the last
    # kept bit with the right probability, away from zero for either sign.
    noise = jax.random.bits(key, values.shape, jnp.uint16).astype(jnp.uint32)
    kept = jnp.where(jnp.isfinite(values), bits + noise, bits) >> _DROPPED_BITS
    rounded = jax.lax.bitcast_convert_type(kept.astype(jnp.uint16), jnp.bfloat16)
    return jnp.where(jnp.isnan(values), jnp.bfloat16(jnp.nan), rounded)
