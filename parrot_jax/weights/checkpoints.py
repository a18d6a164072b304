"""Checkpoints: one array a layer and tensor on disk, atomic, written while training goes on.

In memory the layers are stacked, which the scan needs; on disk they are apart, which converters,
exports and unrolled models need, and which keeps the largest tensor small. A kill in the middle of
a save leaves the checkpoint before it.

A device that trains has no room for a second copy of the state, 73 GiB of LLaMA2-13B in bfloat16.
So layers are cut out of their leaves some at a time, copied to the host and forgotten, and leaves
are read and stacked some at a time: beside the state, `_BATCH_BYTES` of a device are taken, or one
leaf where that is more. The host takes a copy of what its devices hold, until it is written.

A converter holds no whole model: it saves `LazyArray`s, which are made when their turn comes, and
reads one array at a time.
"""

import asyncio
import functools
import logging
import math
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from jax.sharding import NamedSharding, PartitionSpec, Sharding
from jax.tree_util import DictKey, tree_flatten_with_path
from jaxtyping import Shaped

from parrot_jax.core.errors import (
    DiskFullError,
    UserError,
    disk_full_is_a_user_error,
    is_disk_full,
)
from parrot_jax.core.files import AnyPath
from parrot_jax.weights.exports import checkpoint_identity
from parrot_jax.weights.names import layer_key


def _is_news(record: logging.LogRecord) -> bool:
    """Whether a log record says more than the error that `wait` or the next `save` will raise."""
    error = record.exc_info[1] if record.exc_info else None
    return not is_disk_full(error or RuntimeError(record.getMessage()))


# orbax warns of each absent optional file, and its tasks each report a full disk once more.
logging.getLogger("absl").setLevel(logging.ERROR)
for _name in ("absl", "asyncio"):
    logging.getLogger(_name).addFilter(_is_news)

_STACKED = "layers"

_HOST_MEMORY = "pinned_host"
"""Where the moments live if they are offloaded."""

_BATCH_BYTES = 2**30
"""Of one device: what is cut out of leaves, or read to make leaves of, at a time."""


class _Uncounted:
    """Lets orbax write any number of bytes at a time.

    Its own counter belongs to one event loop, and every call of `serialize` writes in another;
    with none at all, it would write a whole call as one transaction.
    """

    async def wait_for_bytes(self, requested_bytes: int) -> None:
        """Returns at once."""

    async def release_bytes(self, requested_bytes: int) -> None:
        """Counts nothing."""


class _Part:
    """One array of a checkpoint, still in its leaf."""

    def __init__(self, leaf: Any, layer: int | None) -> None:
        """A layer of a stacked leaf, or of its description; None = all of one not stacked."""
        self.leaf, self.layer = leaf, layer
        self.shape = leaf.shape if layer is None else leaf.shape[1:]
        self.dtype = leaf.dtype
        self.sharding = _on_device(leaf.sharding)
        if layer is not None and isinstance(self.sharding, NamedSharding):
            self.sharding = self.sharding.update(spec=PartitionSpec(*self.sharding.spec[1:]))

    @property
    def nbytes(self) -> int:
        """Its size, over all devices."""
        return math.prod(self.shape) * self.dtype.itemsize


class _PartHandler(ocp.type_handlers.ArrayHandler):
    """Writes parts as arrays; copies them to the host a batch at a time."""

    def __init__(self) -> None:
        """Without the file of shardings: every batch would write it anew, and nothing reads it."""
        super().__init__(enable_write_sharding_file=False)

    async def serialize(self, values: Any, infos: Any, args: Any = None) -> Any:
        by_leaf: dict[int, list[int]] = {}
        for place, part in enumerate(values):
            by_leaf.setdefault(id(part.leaf), []).append(place)
        # In the same order in every process, and each leaf's parts together.
        places = [place for group in by_leaf.values() for place in group]
        arrays = _cut_out([values[place] for place in places])
        futures = []
        for batch in _batches([_device_bytes(values[place]) for place in places]):
            cut = [next(arrays) for _ in places[batch]]
            # It returns when they are copied to the host, but what it has started keeps them.
            futures += await super().serialize(
                cut,
                [infos[place].replace(byte_limiter=_Uncounted()) for place in places[batch]],
                [args[place] for place in places[batch]],
            )
            for place, array in zip(places[batch], cut, strict=True):
                if array is not values[place].leaf:
                    array.delete()
        return futures


class LazyArray:
    """An array that a save makes when its turn comes, and forgets when it is written."""

    def __init__(self, shape: tuple[int, ...], dtype: Any, make: Callable[[], jax.Array]) -> None:
        """Describes what `make` will return; it is called once, in a thread."""
        self.shape, self.dtype, self.make = shape, np.dtype(dtype), make

    @property
    def nbytes(self) -> int:
        """Its size."""
        return math.prod(self.shape) * self.dtype.itemsize


_AHEAD = 2
"""Lazy arrays that are made, each in a thread, while those before them are written."""

_WRITTEN_AT_ONCE = 2
"""While one is waiting for the disk, the other is copied."""


class _LazyHandler(ocp.type_handlers.ArrayHandler):
    """Writes lazy arrays as arrays, a few of them in memory at a time."""

    async def serialize(self, values: Any, infos: Any, args: Any = None) -> Any:
        made = [asyncio.create_task(asyncio.to_thread(value.make)) for value in values[:_AHEAD]]
        writing: list[Any] = []
        for number, (info, arg) in enumerate(zip(infos, args, strict=True)):
            array = await made.pop(0)
            if len(writing) == _WRITTEN_AT_ONCE:
                for future in writing.pop(0):
                    await asyncio.to_thread(future.result)
            info = info.replace(byte_limiter=_Uncounted())
            writing.append(await super().serialize([array], [info], [arg]))
            del array
            if number + _AHEAD < len(values):
                make = values[number + _AHEAD].make
                made.append(asyncio.create_task(asyncio.to_thread(make)))
        return [future for futures in writing for future in futures]

    def memory_size(self, values: Any) -> Any:
        return [(value.nbytes, value.nbytes) for value in values]


class StoredArray(NamedTuple):
    """What is known of an array without reading it."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]


class Checkpoints:
    """The checkpoints of one run folder."""

    def __init__(
        self, folder: AnyPath, *, keep: int | None = None, read_only: bool = False
    ) -> None:
        """Opens or makes the folder, and removes what a killed save left.

        Args:
          folder: Holds one numbered folder a checkpoint.
          keep: How many of the newest to keep; None = all.
          read_only: Make and remove nothing: another process may be saving here.
        """
        # A text, as orbax reads it: its own kind of path knows buckets, ours is none to it.
        self._folder = str(folder.absolute())
        self._manager = ocp.CheckpointManager(
            self._folder,
            item_handlers={item: _item_handler() for item in ("params", "optimizer")},
            options=ocp.CheckpointManagerOptions(
                max_to_keep=keep,
                create=not read_only,
                cleanup_tmp_directories=not read_only,
                read_only=read_only,
            ),
        )
        self._reader = ocp.Checkpointer(ocp.PyTreeCheckpointHandler())

    def latest_step(self) -> int | None:
        """Step of the newest whole checkpoint, or None."""
        return self._manager.latest_step()

    def save(self, step: int, params: Any, optimizer: Any) -> None:
        """Starts a save; returns when the arrays are copied, before they are on the disk.

        Args:
          step: Updates done.
          params: The weights; layers stacked under the key `layers`.
          optimizer: Everything else that training needs; its trees have the weights' names.

        Raises:
          DiskFullError: There was no room for this save or for the one before it.
        """
        self.wait()
        _check_room(self._folder, sum(leaf.nbytes for leaf in jax.tree.leaves((params, optimizer))))
        with disk_full_is_a_user_error(f"a checkpoint in {self._folder}"):
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    params=ocp.args.PyTreeSave(_parts(params)),
                    optimizer=ocp.args.PyTreeSave(_parts(optimizer)),
                ),
            )

    def identity(self, step: int) -> str:
        """64 hex digits of a checkpoint: of the moment in which it was saved, and of its shapes.

        Raises:
          UserError: There is no such checkpoint.
        """
        return checkpoint_identity(self._at(step))

    def stored(self, step: int) -> dict[str, StoredArray]:
        """The weights of a checkpoint by their names on disk.

        Raises:
          UserError: There is no such checkpoint.
        """
        found: Any = ocp.StandardCheckpointer().metadata(f"{self._at(step)}/params")
        return {
            name: StoredArray(tuple(array.shape), np.dtype(array.dtype))
            for name, array in found.item_metadata.items()
        }

    def read(self, step: int, name: str) -> Shaped[np.ndarray, "..."]:
        """One array of the weights, whole and on the host, as it is stored."""
        args = ocp.args.PyTreeRestore(
            item={name: 0},
            restore_args={name: ocp.RestoreArgs(restore_type=np.ndarray)},
            partial_restore=True,
        )
        return self._reader.restore(f"{self._folder}/{step}/params", args=args)[name]

    def wait(self) -> None:
        """Returns when every started save is on the disk.

        Raises:
          DiskFullError: There was no room.
        """
        with disk_full_is_a_user_error(f"a checkpoint in {self._folder}"):
            self._manager.wait_until_finished()

    def restore(self, step: int, like: Mapping[str, Any]) -> dict[str, Any]:
        """Reads items of a checkpoint straight onto their devices.

        Args:
          step: Which checkpoint.
          like: `params`, or both `params` and `optimizer`: trees of arrays or
            `jax.ShapeDtypeStruct` with shardings, which the result equals in shape and placement.

        Raises:
          UserError: A tensor is missing, unknown or has another shape; the text names them.
        """
        wanted = {item: _abstract_layers(tree) for item, tree in like.items()}
        for item, arrays in wanted.items():
            self._check_shapes(step, item, arrays)
        return {
            item: self._restore_item(step, item, tree, wanted[item]) for item, tree in like.items()
        }

    def close(self) -> None:
        """Waits and lets go of the folder."""
        self.wait()
        self._manager.close()

    def _restore_item(
        self, step: int, item: str, like: Any, wanted: Mapping[str, jax.ShapeDtypeStruct]
    ) -> Any:
        leaves, treedef = tree_flatten_with_path(like)
        joined: list[jax.Array] = []
        for batch in _batches([_device_bytes(leaf) for _, leaf in leaves]):
            names = [name for path, leaf in leaves[batch] for name, _ in _names(path, leaf)]
            parts = {name: wanted[name] for name in names}
            args = ocp.args.PyTreeRestore(
                item=parts,
                restore_args=ocp.checkpoint_utils.construct_restore_args(parts),
                partial_restore=True,
            )
            arrays = self._manager.restore(step, args=ocp.args.Composite(**{item: args}))[item]
            joined += [_join(arrays, path, leaf) for path, leaf in leaves[batch]]
        return treedef.unflatten(joined)

    def _at(self, step: int) -> str:
        steps = self._manager.all_steps()
        if step not in steps:
            there = ", ".join(map(str, steps)) or "none"
            raise UserError(f"there is no checkpoint {step} in {self._folder}, but {there}.")
        return f"{self._folder}/{step}"

    def _check_shapes(self, step: int, item: str, wanted: Mapping[str, Any]) -> None:
        folder = f"{self._folder}/{step}/{item}"
        stored: Any = ocp.StandardCheckpointer().metadata(folder).item_metadata
        problems = [f"{name} is missing" for name in sorted(wanted.keys() - stored.keys())]
        problems += [f"{name} is unknown" for name in sorted(stored.keys() - wanted.keys())]
        problems += [
            f"{name} is {list(stored[name].shape)}, not {list(wanted[name].shape)}"
            for name in sorted(wanted.keys() & stored.keys())
            if tuple(stored[name].shape) != tuple(wanted[name].shape)
        ]
        if problems:
            more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
            raise UserError(
                f"the checkpoint {folder} is of another model: {'; '.join(problems[:3])}{more}; "
                "give the model sizes it was trained with."
            )


def save_lazily(folder: AnyPath, step: int, arrays: Mapping[str, LazyArray]) -> None:
    """Saves weights that do not fit into memory; returns when all is on the disk.

    Args:
      folder: That of the checkpoints; what a killed save left there is removed.
      step: The number of the checkpoint; one that is there is replaced.
      arrays: By their names on disk, see `names.tensors`. Four at most stand in memory at once.

    Raises:
      DiskFullError: There was no room.
    """
    handler = ocp.PyTreeCheckpointHandler(
        type_handler_registry=ocp.type_handlers.create_type_handler_registry(
            (LazyArray, _LazyHandler())
        ),
        # Weights hardly shrink, and trying takes longer than writing them.
        use_compression=False,
    )
    at = str(folder.absolute())
    with disk_full_is_a_user_error(f"a checkpoint in {folder}"):
        manager = ocp.CheckpointManager(
            at,
            item_handlers={"params": handler},
            options=ocp.CheckpointManagerOptions(
                cleanup_tmp_directories=True, enable_async_checkpointing=False
            ),
        )
        _check_room(at, sum(array.nbytes for array in arrays.values()))
        if step in manager.all_steps():
            manager.delete(step)  # of one that was killed before it could say that it is whole
        manager.save(step, args=ocp.args.Composite(params=ocp.args.PyTreeSave(dict(arrays))))
        manager.close()


def _check_room(folder: str, needed: int) -> None:
    if "://" in folder:
        return  # a bucket has room
    free = shutil.disk_usage(folder).free
    if jax.process_count() == 1 and free < needed:
        raise DiskFullError(
            f"no room left on the disk for a checkpoint in {folder}: it takes {needed:,} bytes "
            f"and {free:,} are free; free some space and run again."
        )


def _item_handler() -> ocp.PyTreeCheckpointHandler:
    handler = _PartHandler()
    return ocp.PyTreeCheckpointHandler(
        type_handler_registry=ocp.type_handlers.create_type_handler_registry(
            (_Part, handler), (jax.Array, handler)
        ),
        # It would save 7 to 27 % of the disk, and take twice the time.
        use_compression=False,
        # XLA lets a process pin 64 GB for its GPUs (XLA_PJRT_GPU_HOST_MEMORY_LIMIT_GB), less than
        # some states take.
        enable_pinned_host_transfer=False,
    )


def _parts(tree: Any) -> dict[str, _Part]:
    """The tree as `name: array`, stacked leaves as one array a layer."""
    return {
        name: _Part(leaf, layer)
        for path, leaf in tree_flatten_with_path(tree)[0]
        for name, layer in _names(path, leaf)
    }


def _cut_out(parts: Sequence[_Part]) -> Iterator[Any]:
    """The arrays of parts, on the device; those of one leaf follow each other.

    A leaf in the memory of the host comes to the device as a whole.
    """
    leaf = whole = None
    for part in parts:
        if part.leaf is not leaf:
            del whole
            leaf = whole = part.leaf
            # Put where it is already, it would share the memory that the handler gives back.
            if leaf.sharding.memory_kind == _HOST_MEMORY:
                whole = jax.device_put(leaf, _on_device(leaf.sharding))
        yield whole if part.layer is None else _layer_of(part.sharding)(whole, np.int32(part.layer))


@functools.cache
def _layer_of(sharding: Sharding) -> Callable[..., jax.Array]:
    # The layer is an argument: one program for all layers of all leaves of a shape.
    return jax.jit(
        lambda leaf, layer: jax.lax.dynamic_index_in_dim(leaf, layer, keepdims=False),
        out_shardings=sharding,
    )


def _join(arrays: dict[str, jax.Array], path: tuple[Any, ...], like: Any) -> jax.Array:
    """The inverse of `_cut_out`: takes the parts of a leaf, and puts it where `like` is."""
    parts = [arrays.pop(name) for name, _ in _names(path, like)]
    if _is_stacked(path):
        leaf = _stack(like.sharding)(parts)
    else:
        leaf = jax.device_put(parts[0], like.sharding)
    # Until it is there, the parts are as well.
    return jax.block_until_ready(leaf)


@functools.cache
def _stack(sharding: Sharding) -> Callable[..., jax.Array]:
    return jax.jit(jnp.stack, out_shardings=sharding)


def _on_device(sharding: Sharding) -> Sharding:
    at_host = sharding.memory_kind == _HOST_MEMORY
    return sharding.with_memory_kind("device") if at_host else sharding


def _device_bytes(array: Any) -> int:
    """What a device holds of an array."""
    return math.prod(array.sharding.shard_shape(array.shape)) * array.dtype.itemsize


def _batches(sizes: Sequence[int]) -> Iterator[slice]:
    """Runs of neighbours of `_BATCH_BYTES` at most, or of one."""
    start, total = 0, 0
    for place, size in enumerate(sizes):
        if place > start and total + size > _BATCH_BYTES:
            yield slice(start, place)
            start, total = place, 0
        total += size
    if sizes:
        yield slice(start, len(sizes))


def _abstract_layers(tree: Any) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes and placements of what `_parts` would give."""
    return {
        name: jax.ShapeDtypeStruct(part.shape, part.dtype, sharding=part.sharding)
        for name, part in _parts(tree).items()
    }


def _names(path: tuple[Any, ...], leaf: Any) -> list[tuple[str, int | None]]:
    """The names on disk of a leaf, e.g. `layers.07.attention.q`, each with its layer."""
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
