"""Chooses tokens from logits: the most likely one, or a sample from the top-p set."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key


class Sampling(NamedTuple):
    """How each row chooses its tokens."""

    temperature: Float[Array, " B"]
    """0 = the most likely token."""
    top_p: Float[Array, " B"]
    """Sample from the smallest set of most likely tokens with at least this mass; in (0, 1]."""
    seeds: Int[Array, " B"]
    """A row's draws depend only on its seed and its step."""


def sample(
    logits: Float[Array, "B V"], sampling: Sampling, keys: Key[Array, " B"]
) -> Int[Array, " B"]:
    """Chooses a token for each row: the most likely one, or a sample from its top-p set.

    Args:
      logits: float32.
      sampling: Temperature and top-p of each row.
      keys: A random key for each row.

    Returns:
      Token ids.
    """

    def draw() -> Int[Array, " B"]:
        hot = jnp.maximum(sampling.temperature, 1e-6)[:, None]
        allowed = in_top_p(logits / hot, sampling.top_p)
        drawn = jax.vmap(jax.random.categorical)(keys, jnp.where(allowed, logits / hot, -jnp.inf))
        return jnp.where(sampling.temperature > 0, drawn, logits.argmax(axis=-1))

    # A greedy batch, the common case, skips the search for the set.
    chosen = jax.lax.cond((sampling.temperature > 0).any(), draw, lambda: logits.argmax(axis=-1))
    return chosen.astype(jnp.int32)


def in_top_p(logits: Float[Array, "B V"], top_p: Float[Array, " B"]) -> Bool[Array, "B V"]:
    """Marks the smallest set of most likely tokens whose probabilities sum to `top_p` or more.

    The most likely token is always in it. Of equally likely tokens, lower ids come first. The
    smallest logit of the set is found by bisection over its 32 bits, because sorting the vocabulary
    is several times slower.

    Args:
      logits: float32, finite.
      top_p: In (0, 1]; 1 allows every token.

    Returns:
      Whether each token may be drawn.

    Source: arXiv:1904.09751.
    """
    probabilities = jax.nn.softmax(logits, axis=-1)
    # Integers in the order of the floats: the bits of negative floats are in reverse order.
    bits = jax.lax.bitcast_convert_type(jnp.where(logits == 0, 0.0, logits), jnp.int32)  # no -0.0
    order = jnp.where(bits < 0, bits ^ jnp.int32(0x7FFFFFFF), bits)

    def mass_from(least: Int[Array, " B"]) -> Float[Array, " B"]:
        return jnp.where(order >= least[:, None], probabilities, 0.0).sum(axis=-1)

    def halve(
        _: Int[Array, ""], bounds: tuple[Int[Array, " B"], Int[Array, " B"]]
    ) -> tuple[Int[Array, " B"], Int[Array, " B"]]:
        enough, short = bounds
        middle = (enough & short) + ((enough ^ short) >> 1)  # the mean, without overflow
        fits = mass_from(middle) >= top_p
        return jnp.where(fits, middle, enough), jnp.where(fits, short, middle)

    bounds = (order.min(axis=-1), order.max(axis=-1) + 1)
    least, _ = jax.lax.fori_loop(0, 32, halve, bounds)
    above, equal = order > least[:, None], order == least[:, None]
    # Of the tokens with exactly the smallest logit, take as many as needed.
    missing = top_p - jnp.where(above, probabilities, 0.0).sum(axis=-1)
    before = jnp.where(equal, jnp.cumsum(equal, axis=-1) - 1, 0) * probabilities
    # The probabilities may sum to less than 1 by rounding; top_p = 1 allows every token.
    return above | (equal & (before < missing[:, None])) | (top_p[:, None] >= 1)
