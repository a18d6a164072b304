"""The mesh, and the mapping from logical axes of arrays to mesh axes.

The model only names logical axes (`embed`, `heads`, ...); this file maps them to the mesh axes
`data` (replicated weights), `fsdp` (sharded weights, gathered when used) and `tensor` (sharded
heads and MLP). jax is imported only to make a mesh, so configs may import this file.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from parrot_jax.core.errors import UserError

if TYPE_CHECKING:
    from jax.sharding import Mesh, NamedSharding

MESH_AXES = ("data", "fsdp", "tensor")

BATCH_AXES = ("data", "fsdp")
"""The mesh axes that the rows of a batch are sharded over."""

RULES: Mapping[str, str | tuple[str, ...] | None] = MappingProxyType(
    {
        "batch": BATCH_AXES,
        "seq": None,
        "embed": "fsdp",
        "mlp": "tensor",
        "heads": "tensor",
        "kv_heads": "tensor",
        "head_dim": None,
        "vocab": "tensor",
        "layers": None,
        # The narrow dim of an adapter.
        "rank": None,
        # The scale of a norm is small and used for every row, so it is replicated.
        "norm": None,
    }
)
"""Logical axis to mesh axis; None = the dim is not sharded."""


@dataclass(frozen=True, kw_only=True)
class MeshConfig:
    """The size of each mesh axis in devices; one of them may be -1 = the remaining devices.

    Raises:
      UserError: A size is neither positive nor -1, or more than one is -1.
    """

    data: int = 1
    """Data parallelism: copies of the weights, each with its own rows of the batch."""
    fsdp: int = -1
    """FSDP: shards of the weights and the optimizer state; each shard also has its own rows."""
    tensor: int = 1
    """Tensor parallelism: shards of the heads, the MLP and the vocabulary, with the same rows."""

    def __post_init__(self) -> None:
        sizes = {axis: getattr(self, axis) for axis in MESH_AXES}
        for axis, size in sizes.items():
            if size < 1 and size != -1:
                raise UserError(
                    f"mesh.{axis} is {size}; it must be 1 or more, or -1 for the remaining devices."
                )
        if list(sizes.values()).count(-1) > 1:
            raise UserError(
                f"mesh {sizes} has -1 more than once; only one axis can take the remaining devices."
            )

    def sizes(self, num_devices: int) -> tuple[int, int, int]:
        """Returns the sizes of `data`, `fsdp` and `tensor` on `num_devices` devices.

        >>> MeshConfig(tensor=2).sizes(8)
        (1, 4, 2)

        Raises:
          UserError: The sizes do not multiply to `num_devices`.
        """
        sizes = [getattr(self, axis) for axis in MESH_AXES]
        given = math.prod(size for size in sizes if size != -1)
        if -1 in sizes and num_devices % given == 0:
            sizes[sizes.index(-1)] = num_devices // given
        if math.prod(sizes) != num_devices:
            asked = ", ".join(f"{axis}={getattr(self, axis)}" for axis in MESH_AXES)
            raise UserError(
                f"mesh {asked} does not fit {num_devices} devices; choose sizes whose product is "
                f"{num_devices}, with -1 for at most one of them."
            )
        return (sizes[0], sizes[1], sizes[2])


def make_mesh(config: MeshConfig, devices: Sequence[Any] | None = None) -> Mesh:
    """Arranges devices in the three axes `data`, `fsdp`, `tensor`.

    Args:
      config: The sizes.
      devices: The `jax.Device`s to use; None = all devices of all processes.

    Returns:
      A mesh of Auto axes: the compiler propagates the shardings of the arrays.

    Raises:
      UserError: The sizes do not multiply to the number of devices.
    """
    import jax
    from jax.experimental import mesh_utils
    from jax.sharding import AxisType, Mesh

    devices = jax.devices() if devices is None else list(devices)
    sizes, types = config.sizes(len(devices)), (AxisType.Auto,) * 3
    try:
        return jax.make_mesh(sizes, MESH_AXES, types, devices=devices)
    except NotImplementedError:
        # E.g. on a 4 x 4 torus, an axis of 8 must split a side of the torus.
        arranged = mesh_utils.create_device_mesh(sizes, devices, allow_split_physical_axes=True)
        return Mesh(arranged, MESH_AXES, axis_types=types)


def array_sharding(mesh: Mesh, *logical_axes: str | None) -> NamedSharding:
    """Returns the sharding of an array whose dims are the given logical axes, by `RULES`.

    `array_sharding(mesh, "batch", "seq")` is for a batch of tokens; `array_sharding(mesh)`
    replicates.
    """
    from jax.sharding import NamedSharding, PartitionSpec

    return NamedSharding(
        mesh, PartitionSpec(*(RULES[axis] if axis else None for axis in logical_axes))
    )


def num_batch_shards(mesh: Mesh) -> int:
    """Returns the number of shards of a batch's rows; it must divide the batch size."""
    return math.prod(mesh.shape[axis] for axis in BATCH_AXES)


def param_shardings(abstract: Any, logical_axes: Any, mesh: Mesh) -> Any:
    """Returns the sharding of every parameter.

    Args:
      abstract: Tree of arrays or `jax.ShapeDtypeStruct`.
      logical_axes: The same tree with a tuple of logical axes, one per dim, at each leaf.
      mesh: The mesh to shard over.

    Returns:
      The same tree of `NamedSharding`.

    Raises:
      UserError: A dim is not divisible by its mesh axis; the message names the parameter.
    """
    import jax

    def one(path: tuple[Any, ...], array: Any, axes: tuple[str | None, ...]) -> NamedSharding:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        if len(axes) != len(array.shape):
            raise ValueError(f"{name} has shape {array.shape} but logical axes {axes}")
        for size, axis in zip(array.shape, axes, strict=True):
            rule = RULES[axis] if axis else None
            mesh_axes = () if rule is None else (rule,) if isinstance(rule, str) else rule
            parts = math.prod(mesh.shape[mesh_axis] for mesh_axis in mesh_axes)
            if size % parts:
                raise UserError(
                    f"parameter {name} of shape {tuple(array.shape)}: its dim {axis!r} of {size} "
                    f"is not divisible by {parts}; set mesh.{'*'.join(mesh_axes)} to a divisor of "
                    f"{size}."
                )
        return array_sharding(mesh, *axes)

    return jax.tree_util.tree_map_with_path(one, abstract, logical_axes)
