"""How arrays get onto the disk and back through orbax: a few at a time, each with a checksum.

Every array is stored in zarr's third format, whose chunks end with a CRC-32C of their bytes.
TensorStore makes it while it writes and checks it whenever it reads a chunk, in every process for
what its devices hold, also in a bucket. The tables of where the chunks are have their own. So what
is read is what was written, or an error.
"""

import asyncio
import functools
import logging
import math
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.sharding import NamedSharding, PartitionSpec, Sharding
from orbax.checkpoint._src.serialization import tensorstore_utils

from parrot_jax.core.errors import is_disk_full


def _is_news(record: logging.LogRecord) -> bool:
    """Filters log records that only repeat the raised error."""
    if "Failed to json parse" in str(record.msg):
        return False
    error = record.exc_info[1] if record.exc_info else None
    return not is_disk_full(error or RuntimeError(record.getMessage()))


# orbax warns of each absent optional file, and its tasks each report a full disk once more.
logging.getLogger("absl").setLevel(logging.ERROR)
for _name in ("absl", "asyncio"):
    logging.getLogger(_name).addFilter(_is_news)


def _with_checksums(global_shape: Any, chunk_shape: Any, use_compression: bool) -> dict[str, Any]:
    """Describes an array of zarr 3 whose chunks end with their CRC-32C.

    Source: https://zarr-specs.readthedocs.io/en/latest/v3/codecs/crc32c/index.html.
    """
    return {
        "shape": global_shape,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": chunk_shape}},
        # Weights hardly shrink: compression saves 7 to 27 % of the disk, and takes twice the time.
        "codecs": [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}],
    }


# orbax has no setting for it; a test sees that what is saved has checksums.
tensorstore_utils._build_zarr3_metadata = _with_checksums

_HOST_MEMORY = "pinned_host"
"""Where the moments live if they are offloaded."""

BATCH_BYTES = 2**30
"""Of one device: what is cut out of leaves, or read to make leaves of, at a time."""


class Uncounted:
    """Lets orbax write any number of bytes at a time.

    Its own counter belongs to one event loop, and every call of `serialize` writes in another;
    with none at all, it would write a whole call as one transaction.
    """

    async def wait_for_bytes(self, requested_bytes: int) -> None:
        """Returns at once."""

    async def release_bytes(self, requested_bytes: int) -> None:
        """Counts nothing."""


class ArrayPart:
    """One array of a checkpoint, still in its leaf."""

    def __init__(self, leaf: Any, layer: int | None) -> None:
        """A layer of a stacked leaf, or of its description; None = all of one not stacked."""
        self.leaf, self.layer = leaf, layer
        self.shape = leaf.shape if layer is None else leaf.shape[1:]
        self.dtype = leaf.dtype
        self.sharding = on_device(leaf.sharding)
        if layer is not None and isinstance(self.sharding, NamedSharding):
            self.sharding = self.sharding.update(spec=PartitionSpec(*self.sharding.spec[1:]))

    @property
    def nbytes(self) -> int:
        """Its size, over all devices."""
        return math.prod(self.shape) * self.dtype.itemsize


class CheckedHandler(ocp.type_handlers.ArrayHandler):
    """Reads arrays; where one is damaged, the error comes when nothing is being read any more."""

    async def metadata(self, infos: Any) -> Any:
        """Shapes and types of arrays."""
        return await until_all_ended(super().metadata(infos))

    async def deserialize(self, infos: Any, args: Any = None) -> Any:
        """The arrays."""
        return await until_all_ended(super().deserialize(infos, args))


async def until_all_ended(work: Awaitable[Any]) -> Any:
    """Waits for `work`; where it fails, for all tasks that it started as well."""
    before = asyncio.all_tasks()
    try:
        return await work
    except Exception:
        # Left alone, its other tasks would end after their loop, each with a traceback.
        if others := asyncio.all_tasks() - before:
            await asyncio.gather(*others, return_exceptions=True)
        raise


class _PartHandler(CheckedHandler):
    """Writes parts as arrays; copies them to the host a batch at a time."""

    def __init__(self) -> None:
        """Skips the file of shardings: every batch would rewrite it, and nothing reads it."""
        super().__init__(enable_write_sharding_file=False)

    async def serialize(self, values: Any, infos: Any, args: Any = None) -> Any:
        by_leaf: dict[int, list[int]] = {}
        for place, part in enumerate(values):
            by_leaf.setdefault(id(part.leaf), []).append(place)
        # In the same order in every process, and each leaf's parts together.
        places = [place for group in by_leaf.values() for place in group]
        arrays = cut_out([values[place] for place in places])
        futures = []
        for batch in batches([device_bytes(values[place]) for place in places]):
            cut = [next(arrays) for _ in places[batch]]
            # It returns when they are copied to the host, but what it has started keeps them.
            futures += await super().serialize(
                cut,
                [infos[place].replace(byte_limiter=Uncounted()) for place in places[batch]],
                [args[place] for place in places[batch]],
            )
            for place, array in zip(places[batch], cut, strict=True):
                if array is not values[place].leaf:
                    array.delete()
        return futures


def item_handler() -> ocp.PyTreeCheckpointHandler:
    """Writes trees of `ArrayPart`s and reads trees of arrays."""
    handler = _PartHandler()
    return make_handler((ArrayPart, handler), (jax.Array, handler))


def make_handler(*types: tuple[Any, Any]) -> ocp.PyTreeCheckpointHandler:
    """Reads and writes trees of these types, each with the handler of its arrays."""
    return ocp.PyTreeCheckpointHandler(
        type_handler_registry=ocp.type_handlers.create_type_handler_registry(*types),
        use_zarr3=True,
        # XLA lets a process pin 64 GB for its GPUs (XLA_PJRT_GPU_HOST_MEMORY_LIMIT_GB), less than
        # some states take.
        enable_pinned_host_transfer=False,
    )


def cut_out(parts: Sequence[ArrayPart]) -> Iterator[Any]:
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
                whole = jax.device_put(leaf, on_device(leaf.sharding))
        yield whole if part.layer is None else _layer_of(part.sharding)(whole, np.int32(part.layer))


@functools.cache
def _layer_of(sharding: Sharding) -> Callable[..., jax.Array]:
    # The layer is an argument: one program for all layers of all leaves of a shape.
    return jax.jit(
        lambda leaf, layer: jax.lax.dynamic_index_in_dim(leaf, layer, keepdims=False),
        out_shardings=sharding,
    )


def on_device(sharding: Sharding) -> Sharding:
    """The same placement, in the memory of the devices."""
    at_host = sharding.memory_kind == _HOST_MEMORY
    return sharding.with_memory_kind("device") if at_host else sharding


def device_bytes(array: Any) -> int:
    """What a device holds of an array."""
    return math.prod(array.sharding.shard_shape(array.shape)) * array.dtype.itemsize


def batches(sizes: Sequence[int]) -> Iterator[slice]:
    """Runs of neighbours of `BATCH_BYTES` at most, or of one."""
    start, total = 0, 0
    for place, size in enumerate(sizes):
        if place > start and total + size > BATCH_BYTES:
            yield slice(start, place)
            start, total = place, 0
        total += size
    if sizes:
        yield slice(start, len(sizes))
