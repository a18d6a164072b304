"""The mesh, and the table from logical axes of arrays to mesh axes.

The model names logical axes (`embed`, `heads`, ...) and knows no mesh; this file alone maps them to
the mesh axes `data` (copies of the weights), `fsdp` (weights split, gathered when used) and
`tensor` (heads and MLP split). jax is loaded only when a mesh is made, so configs may import this.
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
"""The mesh axes that split the rows of a batch."""

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
        # The scale of a norm: small, and added to every row, so every device keeps it whole.
        "norm": None,
    }
)
"""Logical axis to mesh axis; None = every device holds that dim whole."""


@dataclass(frozen=True, kw_only=True)
class MeshConfig:
    """How many devices each mesh axis takes; one of them may be -1 = all that are left.

    Raises:
      UserError: A size is neither positive nor -1, or more than one is -1.
    """

    data: int = 1
    """Copies of the weights, each with its own rows of the batch."""
    fsdp: int = -1
    """Parts the weights and optimizer state are split into; each part also has its own rows."""
    tensor: int = 1
    """Parts that heads, MLP and vocabulary are split into; these share their rows."""

    def __post_init__(self) -> None:
        sizes = {axis: getattr(self, axis) for axis in MESH_AXES}
        for axis, size in sizes.items():
            if size < 1 and size != -1:
                raise UserError(f"mesh.{axis} is {size}; it must be 1 or more, or -1 for the rest.")
        if list(sizes.values()).count(-1) > 1:
            raise UserError(f"mesh {sizes} has -1 more than once; only one axis can be the rest.")

    def sizes(self, num_devices: int) -> tuple[int, int, int]:
        """The sizes of `data`, `fsdp` and `tensor` on `num_devices` devices.

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
      A mesh whose axes are left to the compiler (Auto): arrays carry shardings, code names none.

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
        # On a torus of 4 x 4, an axis of 8 needs a side of the torus cut in two.
        arranged = mesh_utils.create_device_mesh(sizes, devices, allow_split_physical_axes=True)
        return Mesh(arranged, MESH_AXES, axis_types=types)


def array_sharding(mesh: Mesh, *logical_axes: str | None) -> NamedSharding:
    """The sharding of an array whose dims are the given logical axes, by `RULES`.

    `array_sharding(mesh, "batch", "seq")` is a batch of tokens, `array_sharding(mesh)` is held
    whole by every device.
    """
    from jax.sharding import NamedSharding, PartitionSpec

    return NamedSharding(
        mesh, PartitionSpec(*(RULES[axis] if axis else None for axis in logical_axes))
    )


def num_batch_shards(mesh: Mesh) -> int:
    """Parts that the rows of a batch are split into; the batch size must be a multiple of it."""
    return math.prod(mesh.shape[axis] for axis in BATCH_AXES)


def param_shardings(abstract: Any, logical_axes: Any, mesh: Mesh) -> Any:
    """Gives every parameter its sharding.

    Args:
      abstract: Tree of arrays or `jax.ShapeDtypeStruct`.
      logical_axes: The same tree with a tuple of logical axes, one per dim, at each leaf.
      mesh: Where the parameters will live.

    Returns:
      The same tree of `NamedSharding`.

    Raises:
      UserError: A dim does not divide by its mesh axis; the parameter is named.
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
                    f"does not divide into {parts} parts; set mesh.{'*'.join(mesh_axes)} to a "
                    f"divisor of {size}."
                )
        return array_sharding(mesh, *axes)

    return jax.tree_util.tree_map_with_path(one, abstract, logical_axes)
