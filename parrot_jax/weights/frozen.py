"""The frozen weights under adapters, as a run holds them in memory: floats, or quantised in part.

On disk they are floats. Quantised ones are read and rounded a few leaves at a time, so memory never
holds all of them as floats, and they have the same bits at each start.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import Mesh

from parrot_jax.core.errors import UserError
from parrot_jax.model import decoder
from parrot_jax.model.lora_config import LoraConfig
from parrot_jax.model.model_config import ModelConfig
from parrot_jax.model.quantized import block_dims, is_quantized, quantize
from parrot_jax.sharding import param_shardings
from parrot_jax.weights.adapters import recorded
from parrot_jax.weights.checkpoints import Checkpoints
from parrot_jax.weights.fingerprints import HashInParts
from parrot_jax.weights.model_folder import ModelFolder, abstract_params, load_params


def abstract_frozen(config: ModelConfig, lora: LoraConfig, mesh: Mesh) -> Any:
    """Returns shapes, dtypes and shardings; allocates nothing.

    Whole numbers and scales are sharded as the weight that they stand for.

    Raises:
      UserError: A dim is not divisible by its mesh axis, or qwix is not installed.
    """
    floats = abstract_params(config, mesh, lora.read_dtype)
    axes = decoder.logical_axes(config)
    dims = block_dims(config, lora)

    def leaf(path: Any, like: Any) -> Any:
        dim = dims.get(_names(path))
        if dim is None:
            return like
        rounded = jax.eval_shape(lambda weight: quantize(weight, dim, lora.base_dtype), like)
        of_dims = functools.reduce(lambda tree, name: tree[name], _names(path), axes)
        name = "/".join(_names(path))
        try:
            shardings = param_shardings(
                {name: rounded}, {name: jax.tree.map(lambda _: of_dims, rounded)}, mesh
            )[name]
        except UserError as error:
            raise UserError(
                f"{error} With lora.base_dtype {lora.base_dtype}, up to 64 weights share a scale; "
                "bfloat16 has none."
            ) from None
        return jax.tree.map(
            lambda part, sharding: jax.ShapeDtypeStruct(part.shape, part.dtype, sharding=sharding),
            rounded,
            shardings,
        )

    return jax.tree_util.tree_map_with_path(leaf, floats)


def as_read(lora: LoraConfig, like: Any) -> Any:
    """Returns shapes, dtypes and shardings before some of them are quantised."""

    def leaf(like: Any) -> Any:
        if not is_quantized(like):
            return like
        return jax.ShapeDtypeStruct(like.shape, lora.read_dtype, sharding=like.qvalue.sharding)

    return jax.tree.map(leaf, like, is_leaf=is_quantized)


def restore_frozen(
    opened: tuple[Checkpoints, int],
    config: ModelConfig,
    lora: LoraConfig,
    like: Any,
    hashed: HashInParts | None = None,
) -> Any:
    """Reads whole weights from a checkpoint.

    Args:
      opened: The checkpoints, and the step.
      config: The sizes.
      lora: The adapters.
      like: From `abstract_frozen`.
      hashed: The weights are added to it as read, before they are quantised.

    Raises:
      UserError: As in `Checkpoints.restore`.
    """
    checkpoints, step = opened
    rounded = _rounding(config, lora, like)

    def each(path: Any, leaf: jax.Array) -> Any:
        if hashed is not None:
            hashed.add_stacked(path, leaf)
        return rounded(path, leaf)

    floats = as_read(lora, like)
    return checkpoints.restore(step, {"params": floats}, each=each)["params"]


def load_frozen(folder: ModelFolder, config: ModelConfig, lora: LoraConfig, like: Any) -> Any:
    """Loads the weights of a folder, merged if they are adapters themselves.

    Merged weights are all in memory as floats before they are quantised.

    Args:
      folder: The folder.
      config: The sizes.
      lora: The adapters.
      like: From `abstract_frozen`.

    Raises:
      UserError: As in `load_params`.
    """
    checkpoints, step = folder.open_checkpoint()
    if recorded(checkpoints, step) is None:
        return restore_frozen((checkpoints, step), config, lora, like)
    merged = load_params(folder, as_read(lora, like), step=step)
    return jax.tree_util.tree_map_with_path(_rounding(config, lora, like), merged)


def _rounding(config: ModelConfig, lora: LoraConfig, like: Any) -> Callable[[Any, jax.Array], Any]:
    """A function of path and weight that quantises what has an adapter, sharded like `like`."""
    dims = block_dims(config, lora)

    def rounded(path: Any, leaf: jax.Array) -> Any:
        names = _names(path)
        if names not in dims:
            return leaf
        wanted = functools.reduce(lambda tree, name: tree[name], names, like)
        compiled = jax.jit(
            quantize,
            static_argnums=(1, 2),
            out_shardings=jax.tree.map(lambda part: part.sharding, wanted),
        )
        found = jax.block_until_ready(compiled(leaf, dims[names], lora.base_dtype))
        leaf.delete()
        return found

    return rounded


def _names(path: Any) -> tuple[str, ...]:
    return tuple(key.key for key in path)
