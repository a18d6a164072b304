"""A checkpoint of arrays that are made one after another, so that no whole model is in memory.

Converters save so: they read a tensor from its folder when its turn comes.
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


class _LazyHandler(CheckedHandler):
    """Writes lazy arrays as arrays, a few of them in memory at a time."""

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
    """Writes trees of `LazyArray`s."""
    return make_handler((LazyArray, _LazyHandler()))


def save_lazily(
    folder: AnyPath,
    step: int,
    arrays: Mapping[str, LazyArray],
    made_of: Mapping[str, Any] | None = None,
) -> None:
    """Saves weights that do not fit into memory; returns when all is on the disk.

    Args:
      folder: That of the checkpoints; what a killed save left there is removed.
      step: The number of the checkpoint; one that is there is replaced.
      arrays: By their names on disk, see `names.tensors`. At most four are in memory at once.
      made_of: What belongs to the weights, see `Checkpoints.made_of`.

    Raises:
      DiskFullError: There was no room.
    """
    at = str(folder.absolute())
    with disk_full_is_a_user_error(f"a checkpoint in {folder}"):
        manager = ocp.CheckpointManager(
            at,
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
