"""The key/value cache of generation: its arrays, writes to it, and attention to it.

A row's token at position p is in slot p, independent of the other rows. Slots that are not filled
yet hold padding, which no query attends to.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


class Cache(NamedTuple):
    """Keys and values of every layer, in the compute dtype; stacked, or a tuple of layers.

    Each has the layout in which its product with queries or weights reads memory in order.
    """

    keys: Float[Array, "L B K H S"] | tuple[Float[Array, "B K H S"], ...]
    values: Float[Array, "L B K S H"] | tuple[Float[Array, "B K S H"], ...]

    @property
    def length(self) -> int:
        """S, the number of slots."""
        return jax.tree.leaves(self.keys)[0].shape[-1]

    @property
    def dtype(self) -> jnp.dtype:
        """The compute dtype."""
        return jax.tree.leaves(self.keys)[0].dtype


Kept = Float[Array, "L B T K H"] | tuple[Float[Array, "B T K H"], ...]


def make_cache(keys: Kept, values: Kept, length: int) -> Cache:
    """Fills the first slots of a cache with `length` slots."""

    def padded(array: Array, slots: int) -> Array:
        ends = [(0, 0)] * array.ndim
        ends[slots] = (0, length - array.shape[slots])
        return jnp.pad(array, ends)

    return Cache(
        jax.tree.map(lambda each: padded(jnp.moveaxis(each, -3, -1), -1), keys),
        jax.tree.map(lambda each: padded(each.swapaxes(-3, -2), -2), values),
    )


def write(
    cache: Cache,
    layer: Int[Array, ""] | int,
    positions: Int[Array, " B"],
    key: Float[Array, "B 1 K H"],
    value: Float[Array, "B 1 K H"],
) -> Cache:
    """Writes one layer's key and value of one token per row into the slot of its position.

    The layer of a tuple is an int.
    """
    rows = jnp.arange(key.shape[0])
    if isinstance(cache.keys, tuple):
        keys, values = list(cache.keys), list(cache.values)
        keys[layer] = keys[layer].at[rows, :, :, positions].set(key[:, 0])
        values[layer] = values[layer].at[rows, :, positions].set(value[:, 0])
        return Cache(tuple(keys), tuple(values))
    assert not isinstance(cache.values, tuple)
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
