"""Writes and reads arrays through orbax: a few at a time, each with a checksum.

Arrays are stored as zarr v3; each chunk ends with a CRC-32C of its bytes. TensorStore computes it
on write and checks it on every read, locally and in buckets; each process checks the chunks of its
own devices. The chunk index has its own checksum. So a read returns what was written or fails.
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


# orbax warns about every absent optional file, and each of its tasks reports a full disk again.
logging.getLogger("absl").setLevel(logging.ERROR)
for _name in ("absl", "asyncio"):
    logging.getLogger(_name).addFilter(_is_news)


def _with_checksums(global_shape: Any, chunk_shape: Any, use_compression: bool) -> dict[str, Any]:
    """Returns zarr v3 metadata of an array whose chunks end with their CRC-32C.

    Source: https://zarr-specs.readthedocs.io/en/latest/v3/codecs/crc32c/index.html.
    """
    return {
        "shape": global_shape,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": chunk_shape}},
        # No compression: it saves only 7 to 27 % of the disk and takes twice the time.
        "codecs": [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}],
    }


# orbax has no setting for this; a test checks that saved arrays have checksums.
tensorstore_utils._build_zarr3_metadata = _with_checksums

_HOST_MEMORY = "pinned_host"
"""Memory kind of offloaded optimizer moments."""

BATCH_BYTES = 2**30
"""Bytes per device that are sliced out of leaves, or read and stacked into leaves, at a time."""


class Uncounted:
    """A byte limiter for orbax that never limits.

    orbax's own limiter is tied to one event loop, but every call of `serialize` runs in another.
    Without a limiter, orbax would write a whole call as one transaction.
    """

    async def wait_for_bytes(self, requested_bytes: int) -> None:
        """Returns at once."""

    async def release_bytes(self, requested_bytes: int) -> None:
        """Does nothing."""


class ArrayPart:
    """One array of a checkpoint, not yet sliced out of its leaf."""

    def __init__(self, leaf: Any, layer: int | None) -> None:
        """Refers to a layer of a stacked leaf, or to a whole leaf.

        Args:
          leaf: An array or a `jax.ShapeDtypeStruct`.
          layer: Index of the layer; None = the leaf is not stacked.
        """
        self.leaf, self.layer = leaf, layer
        self.shape = leaf.shape if layer is None else leaf.shape[1:]
        self.dtype = leaf.dtype
        self.sharding = on_device(leaf.sharding)
        if layer is not None and isinstance(self.sharding, NamedSharding):
            self.sharding = self.sharding.update(spec=PartitionSpec(*self.sharding.spec[1:]))

    @property
    def nbytes(self) -> int:
        """Bytes over all devices."""
        return math.prod(self.shape) * self.dtype.itemsize


class CheckedHandler(ocp.type_handlers.ArrayHandler):
    """Reads arrays; raises an error only after all reads have ended."""

    async def metadata(self, infos: Any) -> Any:
        """Returns shapes and dtypes of arrays."""
        return await until_all_ended(super().metadata(infos))

    async def deserialize(self, infos: Any, args: Any = None) -> Any:
        """Returns the arrays."""
        return await until_all_ended(super().deserialize(infos, args))


async def until_all_ended(work: Awaitable[Any]) -> Any:
    """Awaits `work`; if it fails, also waits for all tasks that it started."""
    before = asyncio.all_tasks()
    try:
        return await work
    except Exception:
        # Otherwise the other tasks outlive their event loop, and each prints a traceback.
        if others := asyncio.all_tasks() - before:
            await asyncio.gather(*others, return_exceptions=True)
        raise


class _PartHandler(CheckedHandler):
    """Writes parts as arrays; copies them to the host a batch at a time."""

    def __init__(self) -> None:
        """Turns off the sharding file: every batch would rewrite it, and nothing reads it."""
        super().__init__(enable_write_sharding_file=False)

    async def serialize(self, values: Any, infos: Any, args: Any = None) -> Any:
        by_leaf: dict[int, list[int]] = {}
        for place, part in enumerate(values):
            by_leaf.setdefault(id(part.leaf), []).append(place)
        # Same order in every process; parts of a leaf are adjacent, as `cut_out` needs.
        places = [place for group in by_leaf.values() for place in group]
        arrays = cut_out([values[place] for place in places])
        futures = []
        for batch in batches([device_bytes(values[place]) for place in places]):
            cut = [next(arrays) for _ in places[batch]]
            # Returns once the arrays are copied to the host, but its tasks keep references to the
            # device arrays, so delete these here.
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
    """Returns a handler that writes trees of `ArrayPart`s and reads trees of arrays."""
    handler = _PartHandler()
    return make_handler((ArrayPart, handler), (jax.Array, handler))


def make_handler(*types: tuple[Any, Any]) -> ocp.PyTreeCheckpointHandler:
    """Returns a handler for trees of these types, each with its array handler."""
    return ocp.PyTreeCheckpointHandler(
        type_handler_registry=ocp.type_handlers.create_type_handler_registry(*types),
        use_zarr3=True,
        # XLA limits a process to 64 GB of pinned memory (XLA_PJRT_GPU_HOST_MEMORY_LIMIT_GB), and
        # some states are larger.
        enable_pinned_host_transfer=False,
    )


def cut_out(parts: Sequence[ArrayPart]) -> Iterator[Any]:
    """Yields the arrays of parts, on the device; parts of one leaf must be adjacent.

    A leaf in host memory is copied to the device as a whole.
    """
    leaf = whole = None
    for part in parts:
        if part.leaf is not leaf:
            del whole
            leaf = whole = part.leaf
            # Only then: putting an array where it already is would share its memory, which the
            # handler deletes.
            if leaf.sharding.memory_kind == _HOST_MEMORY:
                whole = jax.device_put(leaf, on_device(leaf.sharding))
        yield whole if part.layer is None else _layer_of(part.sharding)(whole, np.int32(part.layer))


@functools.cache
def _layer_of(sharding: Sharding) -> Callable[..., jax.Array]:
    # The layer is an argument, so that all layers of all leaves of one shape share one program.
    return jax.jit(
        lambda leaf, layer: jax.lax.dynamic_index_in_dim(leaf, layer, keepdims=False),
        out_shardings=sharding,
    )


def on_device(sharding: Sharding) -> Sharding:
    """Returns the sharding with device memory instead of host memory."""
    at_host = sharding.memory_kind == _HOST_MEMORY
    return sharding.with_memory_kind("device") if at_host else sharding


def device_bytes(array: Any) -> int:
    """Returns the bytes of an array on one device."""
    return math.prod(array.sharding.shard_shape(array.shape)) * array.dtype.itemsize


def batches(sizes: Sequence[int]) -> Iterator[slice]:
    """Splits items into consecutive batches of at most `BATCH_BYTES`, or of one larger item."""
    start, total = 0, 0
    for place, size in enumerate(sizes):
        if place > start and total + size > BATCH_BYTES:
            yield slice(start, place)
            start, total = place, 0
        total += size
    if sizes:
        yield slice(start, len(sizes))
