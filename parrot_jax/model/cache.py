"""The key/value cache of generation: its arrays, writes to it, and attention to it.

A row's token at position p is in slot p, independent of the other rows. Slots that are not filled
yet hold padding, which no query attends to.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


class Cache(NamedTuple):
    """Keys and values of every layer, in the compute dtype.

    Each has the layout in which its product with queries or weights reads memory in order.
    """

    keys: Float[Array, "L B K H S"]
    values: Float[Array, "L B K S H"]

    @property
    def length(self) -> int:
        """S, the number of slots."""
        return self.keys.shape[4]


def make_cache(
    keys: Float[Array, "L B T K H"], values: Float[Array, "L B T K H"], length: int
) -> Cache:
    """Fills the first slots of a cache with `length` slots."""
    free = (0, length - keys.shape[2])
    none = [(0, 0)] * 3
    return Cache(
        jnp.pad(keys.transpose(0, 1, 3, 4, 2), [*none, (0, 0), free]),
        jnp.pad(values.transpose(0, 1, 3, 2, 4), [*none, free, (0, 0)]),
    )


def write(
    cache: Cache,
    layer: Int[Array, ""],
    positions: Int[Array, " B"],
    key: Float[Array, "B 1 K H"],
    value: Float[Array, "B 1 K H"],
) -> Cache:
    """Writes one layer's key and value of one token per row into the slot of its position."""
    rows = jnp.arange(key.shape[0])
    return Cache(
        cache.keys.at[layer, rows, :, :, positions].set(key[:, 0]),
        cache.values.at[layer, rows, :, positions].set(value[:, 0]),
    )


def attend_to_cache(
    query: Float[Array, "B 1 N H"],
    keys: Float[Array, "B K H S"],
    values: Float[Array, "B K S H"],
    positions: Int[Array, " B"],
    window: int | None = None,
) -> Float[Array, "B 1 N H"]:
    """Attends to the slots up to and including each row's position.

    Args:
      query: The query of one token per row, already rotated.
      keys: One layer's keys.
      values: One layer's values.
      positions: The position of each row's token.
      window: The sliding window in tokens, which hides earlier slots; None = no window.

    Returns:
      The weighted values, in the dtype of the query. Scores and softmax are float32.
    """
    num_rows, _, num_heads, width = query.shape
    num_kv_heads, _, length = keys.shape[1:]
    grouped = query.reshape(num_rows, num_kv_heads, num_heads // num_kv_heads, width) * width**-0.5
    scores = jnp.einsum("BKGH,BKHS->BKGS", grouped, keys, preferred_element_type=jnp.float32)
    filled = jnp.arange(length)[None] <= positions[:, None]
    if window is not None:
        filled &= positions[:, None] - jnp.arange(length)[None] < window
    scores = jnp.where(filled[:, None, None], scores, -1e30)
    weights = jax.nn.softmax(scores, axis=-1).astype(values.dtype)
    mixed = jnp.einsum("BKGS,BKSH->BKGH", weights, values, preferred_element_type=jnp.float32)
    return mixed.reshape(query.shape).astype(query.dtype)
