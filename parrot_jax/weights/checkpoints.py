"""Checkpoints: one array a layer and tensor on disk, atomic, written while training goes on.

In memory the layers are stacked, which the scan needs; on disk they are apart, which converters,
exports and unrolled models need, and which keeps the largest tensor small. A kill in the middle of
a save leaves the checkpoint before it.

A device that trains has no room for a second copy of the state, 73 GiB of LLaMA2-13B in bfloat16.
So layers are cut out of their leaves some at a time, copied to the host and forgotten, and leaves
are read and stacked some at a time: beside the state, `BATCH_BYTES` of a device are taken, or one
leaf where that is more. The host takes a copy of what its devices hold, until it is written.

A converter holds no whole model: it saves `LazyArray`s, which are made when their turn comes, and
reads one array at a time.

What is read is what was written (`arrays.py`), or a `DamagedCheckpointError`. Each checkpoint says
which model and which tokenizer it was made with.
"""

import contextlib
import errno
import functools
import json
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from jax.sharding import Sharding
from jax.tree_util import DictKey, tree_flatten_with_path
from jaxtyping import Shaped

from parrot_jax.core.errors import (
    DiskFullError,
    ParrotError,
    UserError,
    disk_full_is_a_user_error,
)
from parrot_jax.core.files import AnyPath, as_path
from parrot_jax.distributed import any_process
from parrot_jax.weights import arrays as on_disk
from parrot_jax.weights.arrays import LazyArray, Part
from parrot_jax.weights.exports import checkpoint_identity
from parrot_jax.weights.names import layer_key

_STACKED = "layers"

_NOT_DAMAGE = (
    "PERMISSION_DENIED",
    "UNAUTHENTICATED",
    "UNAVAILABLE",
    "DEADLINE_EXCEEDED",
    "ABORTED",
    "CANCELLED",
    "RESOURCE_EXHAUSTED",
)
"""How TensorStore's errors begin that say nothing of what is stored."""

_OF_THIS_PROCESS = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EACCES, errno.EPERM)
"""Of the system's errors those that would come with any bytes: its limits and rights."""

_MAX_REASON_CHARS = 300


class DamagedCheckpointError(UserError):
    """A checkpoint does not hold what was written into it."""


class StoredArray(NamedTuple):
    """What is known of an array without reading it."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]


class Checkpoints:
    """The checkpoints of one run folder."""

    def __init__(
        self,
        folder: AnyPath,
        *,
        keep: int | None = None,
        read_only: bool = False,
        made_of: Mapping[str, Any] | None = None,
    ) -> None:
        """Opens or makes the folder, and removes what a killed save left.

        Args:
          folder: Holds one numbered folder a checkpoint.
          keep: How many of the newest to keep; None = all.
          read_only: Make and remove nothing: another process may be saving here.
          made_of: What belongs to the weights that will be saved, see `made_of`.
        """
        # A text, as orbax reads it: its own kind of path knows buckets, ours is none to it.
        self._folder = str(folder.absolute())
        self._manager = ocp.CheckpointManager(
            self._folder,
            item_handlers={item: on_disk.item_handler() for item in ("params", "optimizer")},
            options=ocp.CheckpointManagerOptions(
                max_to_keep=keep,
                create=not read_only,
                cleanup_tmp_directories=not read_only,
                read_only=read_only,
            ),
        )
        self._made_of = dict(made_of or {})
        self._damaged: set[int] = set()
        self._noted: set[int] = set()

    def latest_step(self) -> int | None:
        """Step of the newest whole checkpoint that was not found to be damaged, or None."""
        steps = set(self._manager.all_steps()) - self._damaged
        return max(steps, default=None)

    def made_of(self, step: int) -> dict[str, Any]:
        """What belongs to the weights: `model`, the sizes; `tokenizer`, its fingerprint.

        Empty where the checkpoint was saved before this was noted.

        Raises:
          UserError: There is no such checkpoint, or it is damaged.
        """
        path = as_path(f"{self._at(step)}/_CHECKPOINT_METADATA")
        try:
            return dict(json.loads(path.read_text(encoding="utf-8"))["custom_metadata"] or {})
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            raise self._damage(step, f"{path} is missing or not what was written") from None

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
        for damaged in self._damaged & set(self._manager.all_steps()):
            self._manager.delete(damaged)  # or it would be kept, and the newest, for good
        _check_room(self._folder, sum(leaf.nbytes for leaf in jax.tree.leaves((params, optimizer))))
        with disk_full_is_a_user_error(f"a checkpoint in {self._folder}"):
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    params=ocp.args.PyTreeSave(_parts(params)),
                    optimizer=ocp.args.PyTreeSave(_parts(optimizer)),
                ),
                custom_metadata=self._made_of,
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
          UserError: There is no such checkpoint, or it is damaged.
        """
        self._at(step)
        try:
            return self._description(step, "params")
        except _Unreadable as error:
            raise self._damage(step, str(error)) from None

    def read(self, step: int, name: str) -> Shaped[np.ndarray, "..."]:
        """One array of the weights, whole and on the host, as it is stored.

        Raises:
          DamagedCheckpointError: It is not what was written.
        """
        args = ocp.args.PyTreeRestore(
            item={name: 0},
            restore_args={name: ocp.RestoreArgs(restore_type=np.ndarray)},
            partial_restore=True,
        )
        folder = epath.Path(f"{self._folder}/{step}/params")
        try:
            with _reading():
                return ocp.PyTreeCheckpointHandler().restore(folder, args=args)[name]
        except _Unreadable as error:
            raise self._damage(step, str(error)) from None

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
          DamagedCheckpointError: It is not what was written; raised in all processes where one
            of them found it so.
        """
        self._at(step)
        restored, reason = None, None
        try:
            restored = self._restore(step, like)
        except _Unreadable as error:
            # The error itself is let go of: it holds the arrays that were read before it.
            reason = str(error)
        if any_process(reason is not None):
            del restored
            raise self._damage(step, reason or "another process could not read its part")
        return restored or {}

    def close(self) -> None:
        """Waits and lets go of the folder."""
        self.wait()
        self._manager.close()

    def _restore(self, step: int, like: Mapping[str, Any]) -> dict[str, Any]:
        wanted = {item: _abstract_layers(tree) for item, tree in like.items()}
        for item, arrays in wanted.items():
            self._check_shapes(step, item, arrays)
        return {
            item: self._restore_item(step, item, tree, wanted[item]) for item, tree in like.items()
        }

    def _restore_item(
        self, step: int, item: str, like: Any, wanted: Mapping[str, jax.ShapeDtypeStruct]
    ) -> Any:
        leaves, treedef = tree_flatten_with_path(like)
        handler, folder = on_disk.item_handler(), epath.Path(f"{self._folder}/{step}/{item}")
        joined: list[jax.Array] = []
        for batch in on_disk.batches([on_disk.device_bytes(leaf) for _, leaf in leaves]):
            names = [name for path, leaf in leaves[batch] for name, _ in _names(path, leaf)]
            parts = {name: wanted[name] for name in names}
            args = ocp.args.PyTreeRestore(
                item=parts,
                restore_args=ocp.checkpoint_utils.construct_restore_args(parts),
                partial_restore=True,
            )
            # Not through the manager: it waits for all processes, also where one of them fails.
            with _reading():
                arrays = handler.restore(folder, args=args)
            joined += [_join(arrays, path, leaf) for path, leaf in leaves[batch]]
        return treedef.unflatten(joined)

    def _at(self, step: int) -> str:
        steps = self._manager.all_steps()
        if step not in steps:
            there = ", ".join(map(str, steps)) or "none"
            raise UserError(f"there is no checkpoint {step} in {self._folder}, but {there}.")
        return f"{self._folder}/{step}"

    def _description(self, step: int, item: str) -> dict[str, StoredArray]:
        """The arrays of an item by their names.

        Raises:
          _Unreadable: That cannot be told any more.
        """
        folder = f"{self._folder}/{step}/{item}"
        with _reading():
            found: Any = on_disk.item_handler().metadata(epath.Path(folder))
            if not found:
                raise _Unreadable(f"{folder} does not say which arrays it holds")
            self._note_checksums(step, folder)
            return {
                name: StoredArray(tuple(array.shape), np.dtype(array.dtype))
                for name, array in found.items()
            }

    def _note_checksums(self, step: int, folder: str) -> None:
        """Says it, once, where a checkpoint has none: earlier versions saved without."""
        described = json.loads(as_path(f"{folder}/_METADATA").read_text(encoding="utf-8"))
        if not described.get("use_zarr3") and step not in self._noted:
            self._noted.add(step)
            print(
                f"checkpoint {self._folder}/{step} was saved without checksums: damage in it "
                "would not be seen",
                file=sys.stderr,
            )

    def _check_shapes(self, step: int, item: str, wanted: Mapping[str, Any]) -> None:
        stored = self._description(step, item)
        problems = [f"{name} is missing" for name in sorted(wanted.keys() - stored.keys())]
        problems += [f"{name} is unknown" for name in sorted(stored.keys() - wanted.keys())]
        problems += [
            f"{name} is {list(stored[name].shape)}, not {list(wanted[name].shape)}"
            for name in sorted(wanted.keys() & stored.keys())
            if stored[name].shape != tuple(wanted[name].shape)
        ]
        if not problems:
            return
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        found = f"{'; '.join(problems[:3])}{more}"
        if self._made_of and self.made_of(step) == self._made_of:
            raise _Unreadable(found)  # it says itself that it is of this model
        raise UserError(
            f"the checkpoint {self._folder}/{step}/{item} is of another model: {found}; give the "
            "model sizes it was trained with."
        )

    def _damage(self, step: int, reason: str) -> DamagedCheckpointError:
        """The error that says what is damaged and where to go back to."""
        self._damaged.add(step)
        before = self.latest_step()
        way = (
            f"The newest of the others is {before}: `parrot train` goes back to it by itself; for "
            f"anything else move {self._folder}/{step} away first."
            if before is not None
            else "There is no other: put a copy in its place, or delete its folder and make it "
            "again."
        )
        return DamagedCheckpointError(
            f"checkpoint {self._folder}/{step} is damaged: {reason}. {way}"
        )


class _Unreadable(Exception):  # noqa: N818
    """What is stored makes no sense."""


@contextlib.contextmanager
def _reading() -> Iterator[None]:
    """Nothing but reading stands in this block, so only that can find a checkpoint damaged.

    Raises:
      _Unreadable: What is stored could not be read; the text says why, in one line.
    """
    try:
        yield
    except Exception as error:
        raise _Unreadable(_reason(error)) from None


def _reason(error: Exception) -> str:
    """What a failed read says of the checkpoint, in one line.

    Raises:
      Exception: `error` itself, where it says nothing of what is stored.
      UserError: The storage could not be asked.
    """
    chain: list[BaseException] = [error]
    while (cause := chain[-1].__cause__) is not None:
        chain.append(cause)
    # A warning comes here where warnings are made errors; none of them is of what was read.
    others = (ParrotError, MemoryError, Warning, jax.errors.JaxRuntimeError)
    if any(isinstance(e, others) for e in chain):
        raise error
    text = " ".join(str(chain[-1]).split())[:_MAX_REASON_CHARS] or type(chain[-1]).__name__
    number = chain[-1].errno if isinstance(chain[-1], OSError) else None
    if number in _OF_THIS_PROCESS or text.startswith(_NOT_DAMAGE):
        raise UserError(
            f"cannot read a checkpoint: {text}; check your rights, the network, and how many files "
            "a process may have open."
        )
    return text.rstrip(".")


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
      arrays: By their names on disk, see `names.tensors`. Four at most stand in memory at once.
      made_of: What belongs to the weights, see `Checkpoints.made_of`.

    Raises:
      DiskFullError: There was no room.
    """
    at = str(folder.absolute())
    with disk_full_is_a_user_error(f"a checkpoint in {folder}"):
        manager = ocp.CheckpointManager(
            at,
            item_handlers={"params": on_disk.lazy_item_handler()},
            options=ocp.CheckpointManagerOptions(
                cleanup_tmp_directories=True, enable_async_checkpointing=False
            ),
        )
        _check_room(at, sum(array.nbytes for array in arrays.values()))
        if step in manager.all_steps():
            manager.delete(step)  # of one that was killed before it could say that it is whole
        manager.save(
            step,
            args=ocp.args.Composite(params=ocp.args.PyTreeSave(dict(arrays))),
            custom_metadata=dict(made_of or {}),
        )
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


def _parts(tree: Any) -> dict[str, Part]:
    """The tree as `name: array`, stacked leaves as one array a layer."""
    return {
        name: Part(leaf, layer)
        for path, leaf in tree_flatten_with_path(tree)[0]
        for name, layer in _names(path, leaf)
    }


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
