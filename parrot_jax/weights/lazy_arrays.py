"""Saves a checkpoint whose arrays are created one after another, never all in memory.

Converters use this: they read each tensor from the source only when it is about to be written.
"""

import asyncio
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from parrot_jax.core.errors import disk_full_is_a_user_error
from parrot_jax.core.files import check_room
from parrot_jax.core.paths import AnyPath
from parrot_jax.weights.arrays import (
    CheckedHandler,
    Uncounted,
    make_handler,
    until_all_ended,
)


class LazyArray:
    """An array that a save creates just before writing it and frees afterwards."""

    def __init__(self, shape: tuple[int, ...], dtype: Any, make: Callable[[], jax.Array]) -> None:
        """Describes the array that `make` returns; `make` is called once, in a thread."""
        self.shape, self.dtype, self.make = shape, np.dtype(dtype), make

    @property
    def nbytes(self) -> int:
        """Bytes of the array."""
        return math.prod(self.shape) * self.dtype.itemsize


_AHEAD = 2
"""Arrays being created, each in a thread, while earlier ones are written."""

_WRITTEN_AT_ONCE = 2
"""Arrays being written: one is copied while the other waits for the disk."""


class _LazyHandler(CheckedHandler):
    """Writes lazy arrays, with a few in memory at a time."""

    async def serialize(self, values: Any, infos: Any, args: Any = None) -> Any:
        return await until_all_ended(self._serialize(values, infos, args))

    async def _serialize(self, values: Any, infos: Any, args: Any) -> Any:
        made = [asyncio.create_task(asyncio.to_thread(value.make)) for value in values[:_AHEAD]]
        writing: list[Any] = []
        for number, (info, arg) in enumerate(zip(infos, args, strict=True)):
            array = await made.pop(0)
            if len(writing) == _WRITTEN_AT_ONCE:
                for future in writing.pop(0):
                    await asyncio.to_thread(future.result)
            info = info.replace(byte_limiter=Uncounted())
            writing.append(await super().serialize([array], [info], [arg]))
            del array
            if number + _AHEAD < len(values):
                make = values[number + _AHEAD].make
                made.append(asyncio.create_task(asyncio.to_thread(make)))
        return [future for futures in writing for future in futures]

    def memory_size(self, values: Any) -> Any:
        return [(value.nbytes, value.nbytes) for value in values]


def _item_handler() -> ocp.PyTreeCheckpointHandler:
    """Returns a handler that writes trees of `LazyArray`s."""
    return make_handler((LazyArray, _LazyHandler()))


def save_lazily(
    folder: AnyPath,
    step: int,
    arrays: Mapping[str, LazyArray],
    made_of: Mapping[str, Any] | None = None,
) -> None:
    """Saves weights that do not fit into memory; returns when all are on disk.

    Args:
      folder: Folder of the checkpoints; leftovers of an interrupted save are removed.
      step: The checkpoint's step; an existing one is replaced.
      arrays: By their names on disk, see `names.tensors`. At most four are in memory at once.
      made_of: Stored with the checkpoint, see `Checkpoints.made_of`.

    Raises:
      DiskFullError: The disk is full.
    """
    with disk_full_is_a_user_error(f"a checkpoint in {folder}"):
        manager = ocp.CheckpointManager(
            str(folder.absolute()),
            item_handlers={"params": _item_handler()},
            options=ocp.CheckpointManagerOptions(
                cleanup_tmp_directories=True, enable_async_checkpointing=False
            ),
        )
        needed = sum(array.nbytes for array in arrays.values())
        check_room(folder.absolute(), needed, "a checkpoint")
        if step in manager.all_steps():
            manager.delete(step)  # left by an interrupted save
        manager.save(
            step,
            args=ocp.args.Composite(params=ocp.args.PyTreeSave(dict(arrays))),
            custom_metadata=dict(made_of or {}),
        )
        manager.close()
