"""Hashes of the bits of weights, on any mesh, or an array at a time."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Shaped, UInt32

from parrot_jax.core.files import hash_json
from parrot_jax.weights.names import layer_of


def weights_hash(params: Any) -> str:
    """A hash of the bits of all weights, computed where they are; the same on every mesh."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    known = {
        jax.tree_util.keystr(path): [
            str(array.dtype), *map(int, np.asarray(_fingerprint(array, np.uint32(0))))
        ]
        for path, array in leaves
    }  # fmt: skip
    return hash_json(known)


class HashInParts:
    """The same hash of weights that are read one after another, in any order."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[str, np.ndarray]] = {}

    def add(self, name: str, array: Shaped[np.ndarray, "..."]) -> None:
        """Adds an array by its name on disk, e.g. `layers.07.attention.q`."""
        keys, layer = layer_of(name)
        # The position of its first element in the stacked array, modulo 2^32.
        first = np.uint32((layer or 0) * array.size % 2**32)
        found = np.asarray(_fingerprint(jnp.asarray(array), first))
        key = "".join(f"[{key!r}]" for key in keys)
        _, before = self._known.get(key, ("", np.zeros(2, np.uint32)))
        self._known[key] = (str(array.dtype), before + found)  # wraps, as the sums of a whole array

    def add_stacked(self, path: tuple[Any, ...], array: Array) -> None:
        """Adds a leaf of a tree, with all layers."""
        sums = np.asarray(_fingerprint(array, np.uint32(0)))
        self._known[jax.tree_util.keystr(path)] = (str(array.dtype), sums)

    def result(self) -> str:
        """The hash of all arrays."""
        known: Mapping[str, Any] = {
            key: [dtype, *map(int, sums)] for key, (dtype, sums) in self._known.items()
        }
        return hash_json(known)


@jax.jit
def _fingerprint(array: Array, first: UInt32[np.ndarray, ""] | Array) -> UInt32[Array, "2"]:
    """Two sums over all elements, modulo 2^32, in which bits and position of each are mixed."""
    if array.dtype != jnp.uint4:  # of 4 bits, the number is the bits
        array = jax.lax.bitcast_convert_type(array, f"uint{8 * array.dtype.itemsize}")
    bits = array.astype(jnp.uint32)
    place = jnp.full(array.shape, first, jnp.uint32)
    stride = 1
    for axis in reversed(range(array.ndim)):
        iota = jax.lax.broadcasted_iota(jnp.uint32, array.shape, axis)
        place += iota * jnp.uint32(stride % 2**32)
        stride *= array.shape[axis]

    def mixed(salt: int) -> jax.Array:
        value = (bits ^ jnp.uint32(salt)) + place * jnp.uint32(0x9E3779B1)
        for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):  # as MurmurHash3 ends
            value = (value ^ (value >> shift)) * jnp.uint32(factor)
        return jnp.sum(value ^ (value >> 16), dtype=jnp.uint32)

    return jnp.stack([mixed(0), mixed(0x51ED270B)])
