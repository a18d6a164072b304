"""Adapters on disk: which weights they belong to, and both merged.

A checkpoint of a run with adapters has only these. It records their settings and their base, the
frozen weights: where they are, the identity of their checkpoint, and a hash of their bits. To use
such a checkpoint, the base is found, checked and merged with the adapters.
"""

from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh
from jax.typing import DTypeLike
from jaxtyping import Shaped

from parrot_jax.core.config import config_from_dict, config_to_dict
from parrot_jax.core.errors import UserError
from parrot_jax.core.logs import console
from parrot_jax.core.paths import AnyPath, as_path
from parrot_jax.model import decoder, lora
from parrot_jax.model.lora import LORA
from parrot_jax.model.lora_config import LoraConfig, Target, targets_of
from parrot_jax.model.model_config import ModelConfig
from parrot_jax.sharding import param_shardings
from parrot_jax.weights.checkpoints import Checkpoints, StoredArray
from parrot_jax.weights.fingerprints import HashInParts
from parrot_jax.weights.hf_folder import DTYPES
from parrot_jax.weights.names import disk_name, layer_of, tensors

OWN_BASE = "base"
"""Folder in a run with its base, if that was merged from another run's adapters."""


class Base(NamedTuple):
    """The frozen weights that adapters belong to."""

    path: str
    """Their folder, absolute."""
    step: int
    checkpoint: str
    """`Checkpoints.identity`: a checkpoint with the same identity has the same bits, or its
    checksums fail."""
    weights: str
    """`weights_hash` of the weights in `LoraConfig.read_dtype`; compared if the identity
    differs, e.g. after another conversion of the same weights."""


class Adapter(NamedTuple):
    """What a checkpoint of adapters records."""

    lora: LoraConfig
    base: Base


def described(adapter: Adapter) -> dict[str, Any]:
    """Returns what `recorded` reads, to be stored with a checkpoint."""
    return {"lora": config_to_dict(adapter.lora), "base": adapter.base._asdict()}


def recorded(checkpoints: Checkpoints, step: int) -> Adapter | None:
    """Reads what a checkpoint's adapters belong to; None = it has whole weights.

    Raises:
      UserError: There is no such checkpoint, or it is damaged.
    """
    made = checkpoints.made_of(step)
    if not made.get("lora"):
        return None
    lora_config = config_from_dict(LoraConfig, made["lora"], where=f"checkpoint {step}: lora")
    return Adapter(lora_config, Base(**made["base"]))


def abstract_adapters(
    config: ModelConfig, lora_config: LoraConfig, mesh: Mesh, dtype: DTypeLike = "float32"
) -> Any:
    """Returns shapes, dtypes and shardings of adapters; allocates nothing."""
    shapes = lora.abstract_adapters(config, lora_config)
    axes = lora.adapter_axes(config, lora_config, decoder.logical_axes(config))
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, dtype, sharding=sharding),
        shapes,
        param_shardings(shapes, axes, mesh),
    )


# ---- the base -----------------------------------------------------------------------------------


def open_base(
    model: ModelConfig, adapter: Adapter, folder: AnyPath, init_from: str | None
) -> tuple[Checkpoints, int]:
    """Finds the base of adapters and checks that it is unchanged.

    Args:
      model: The sizes.
      adapter: What the adapters belong to.
      folder: The folder with the adapters.
      init_from: Where its config says that the base is.

    Returns:
      The checkpoints of the base, and the step to read.

    Raises:
      UserError: The base has moved or changed.
    """
    base = adapter.base
    places = [folder / OWN_BASE, *map(as_path, [init_from] if init_from else []),
              as_path(base.path)]  # fmt: skip
    opened = []
    for place in {str(place.absolute()): place for place in places}.values():
        checkpoints = Checkpoints(place / "checkpoints", read_only=True)
        if (step := checkpoints.step_of(base.checkpoint, first=base.step)) is not None:
            return checkpoints, step
        if checkpoints.latest_step() is not None:
            opened.append((place, checkpoints))
    set_it = (
        f"set init_from to the folder where they are, in {folder}/config.yaml and in the config "
        "that you train with"
    )
    for place, checkpoints in opened:
        step = checkpoints.latest_step()
        assert step is not None
        console.print(f"checking whether {place} has the weights that {folder} was trained from")
        if _hash_on_disk(checkpoints, step, model, adapter.lora) == base.weights:
            return checkpoints, step
    if not opened:
        raise UserError(
            f"{folder} has adapters of the weights in {base.path}, which are not there any more; "
            f"move them back, or {set_it}."
        )
    raise UserError(
        f"{folder} has adapters of other weights than those in {opened[0][0]}: these have changed "
        f"since it was trained from their checkpoint {base.step}; restore that checkpoint, or "
        f"{set_it}."
    )


def base_on_disk(
    path: AnyPath, opened: tuple[Checkpoints, int], model: ModelConfig, lora_config: LoraConfig
) -> Base:
    """Describes whole weights as a base, reading each array once.

    Args:
      path: Their folder.
      opened: The checkpoints, and the step.
      model: The sizes.
      lora_config: The adapters that they will have.

    Raises:
      UserError: The folder has adapters itself.
    """
    checkpoints, step = opened
    found = _hash_on_disk(checkpoints, step, model, lora_config)
    if found is None:
        raise UserError(
            f"{path} has adapters itself, so it cannot be the base of others; merge it first: "
            f"`parrot convert flax-to-hf {path} HF`, then `parrot convert hf-to-flax HF BASE`."
        )
    return Base(str(path.absolute()), step, checkpoints.identity(step), found)


def _hash_on_disk(
    checkpoints: Checkpoints, step: int, model: ModelConfig, lora_config: LoraConfig
) -> str | None:
    """Returns the hash of a base's weights as read; None if it is of another model."""
    names = [tensor.ours for tensor in tensors(model)]
    if set(names) != set(checkpoints.stored(step)):
        return None
    found = HashInParts()
    for name in names:
        found.add(name, checkpoints.read(step, name).astype(DTYPES[lora_config.read_dtype]))
    return found.result()


# ---- merged -------------------------------------------------------------------------------------


def restore_merged(
    model: ModelConfig,
    adapter: Adapter,
    of_adapters: tuple[Checkpoints, int],
    of_base: tuple[Checkpoints, int],
    like: Any,
) -> Any:
    """Loads a base and its adapters, and merges them.

    The base is first rounded to `read_dtype`, as in training, but never quantised; the sums are
    float32.

    Args:
      model: The sizes.
      adapter: What the adapters belong to.
      of_adapters: Their checkpoints, and the step.
      of_base: Those of the base, from `open_base`.
      like: Shapes, dtypes and shardings of the weights.
    """
    # First, since a run that trains there will remove them; the base may take minutes.
    checkpoints, step = of_adapters
    mesh = jax.tree.leaves(like)[0].sharding.mesh
    wanted = {LORA: abstract_adapters(model, adapter.lora, mesh)}
    adapters = checkpoints.restore(step, {"params": wanted})["params"][LORA]["layers"]
    as_read = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(
            leaf.shape, adapter.lora.read_dtype, sharding=leaf.sharding
        ),
        like,
    )
    checkpoints, step = of_base
    params = checkpoints.restore(step, {"params": as_read})["params"]
    for target in targets_of(model, adapter.lora):
        place, mine, wanted = params["layers"], adapters, like["layers"]
        for name in target.path[:-1]:
            place, mine, wanted = place[name], mine[name], wanted[name]
        name = target.path[-1]
        merge = jax.jit(
            lambda weight, a, b, dtype=wanted[name].dtype, target=target: lora.merged(
                target, weight, a, b, adapter.lora.scale
            ).astype(dtype),
            out_shardings=wanted[name].sharding,
        )
        place[name] = merge(place[name], mine[name]["a"], mine[name]["b"])
    return jax.tree.map(lambda leaf, like: leaf.astype(like.dtype), params, like)


class MergedCheckpoint:
    """Reads adapters and their base as one checkpoint of whole weights, a tensor at a time."""

    def __init__(
        self,
        model: ModelConfig,
        adapter: Adapter,
        of_adapters: tuple[Checkpoints, int],
        of_base: tuple[Checkpoints, int],
    ) -> None:
        """Arguments as in `restore_merged`."""
        self._adapter = adapter
        self._adapters, self._step = of_adapters
        self._base, self._base_step = of_base
        self._targets = {target.path: target for target in targets_of(model, adapter.lora)}

    def identity(self, step: int) -> str:
        """As in `Checkpoints`; that of the adapters."""
        return self._adapters.identity(step)

    def stored(self, step: int) -> dict[str, StoredArray]:
        """As in `Checkpoints`: shapes and dtypes of the base."""
        return self._base.stored(self._base_step)

    def read(self, step: int, name: str) -> Shaped[np.ndarray, "..."]:
        """As in `Checkpoints`; float32 if the weight has an adapter, else in `read_dtype`."""
        array = self._base.read(self._base_step, name)
        array = array.astype(DTYPES[self._adapter.lora.read_dtype])
        (first, *path), layer = layer_of(name)
        target = self._targets.get(tuple(path)) if first == "layers" else None
        if target is None or layer is None:
            return array
        a, b = (self._adapters.read(step, adapter_name(target, layer, part)) for part in "ab")
        return merged_on_host(target, array, a, b, self._adapter.lora.scale)

    def close(self) -> None:
        """Closes both folders."""
        self._adapters.close()
        self._base.close()


def adapter_name(target: Target, layer: int, part: str) -> str:
    """Returns a name on disk, e.g. `lora.layers.07.attention.q.a`."""
    return disk_name((LORA, "layers", *target.path, part), layer)


def merged_on_host(
    target: Target,
    weight: Shaped[np.ndarray, "..."],
    a: Shaped[np.ndarray, "..."],
    b: Shaped[np.ndarray, "..."],
    scale: float,
) -> Shaped[np.ndarray, "..."]:
    """`lora.merged` of one layer, in numpy."""
    rank = b.shape[0]
    flat = a.astype(np.float32).reshape(-1, rank) @ b.astype(np.float32).reshape(rank, -1)
    product = flat.reshape(*a.shape[:-1], *b.shape[1:])
    order = [(*target.in_dims, *target.out_dims).index(dim) for dim in target.dims]
    return np.ascontiguousarray(
        weight.astype(np.float32) + np.float32(scale) * product.transpose(order)
    )
