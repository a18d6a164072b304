"""Flattens a tree of weights by its names on disk; splits stacked layers and stacks them again."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Sharding
from jax.tree_util import DictKey, tree_flatten_with_path

from parrot_jax.weights.arrays import ArrayPart
from parrot_jax.weights.names import layer_key

_STACKED = "layers"


def parts_of(tree: Any) -> dict[str, ArrayPart]:
    """Returns the arrays of a tree by name; a stacked leaf becomes one array per layer."""
    return {
        name: ArrayPart(leaf, layer)
        for path, leaf in tree_flatten_with_path(tree)[0]
        for name, layer in names_of(path, leaf)
    }


def join(arrays: dict[str, jax.Array], path: tuple[Any, ...], like: Any) -> jax.Array:
    """Pops the parts of a leaf from `arrays` and returns the leaf with `like`'s sharding.

    The inverse of `arrays.cut_out`.
    """
    parts = [arrays.pop(name) for name, _ in names_of(path, like)]
    if _is_stacked(path):
        leaf = _stack(like.sharding)(parts)
    else:
        leaf = jax.device_put(parts[0], like.sharding)
    # The parts stay in memory until the leaf is computed, so wait before reading the next ones.
    return jax.block_until_ready(leaf)


@functools.cache
def _stack(sharding: Sharding) -> Callable[..., jax.Array]:
    return jax.jit(jnp.stack, out_shardings=sharding)


def abstract_parts(tree: Any) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns shapes, dtypes and shardings of `parts_of(tree)`."""
    return {
        name: jax.ShapeDtypeStruct(part.shape, part.dtype, sharding=part.sharding)
        for name, part in parts_of(tree).items()
    }


def names_of(path: tuple[Any, ...], leaf: Any) -> list[tuple[str, int | None]]:
    """Returns a leaf's names on disk, e.g. `layers.07.attention.q`, each with its layer."""
    keys = [str(getattr(k, "key", getattr(k, "name", getattr(k, "idx", k)))) for k in path]
    if not _is_stacked(path):
        return [(".".join(keys), None)]
    at = keys.index(_STACKED) + 1
    return [
        (".".join([*keys[:at], layer_key(layer), *keys[at:]]), layer)
        for layer in range(leaf.shape[0])
    ]


def _is_stacked(path: tuple[Any, ...]) -> bool:
    return DictKey(_STACKED) in path
