"""Checkpoints: one array per layer and tensor on disk, atomic, written during training.

In memory the layers are stacked, which the scan needs; on disk they are apart, which converters,
exports and unrolled models need, and which keeps the largest tensor small. A kill in the middle of
a save leaves the checkpoint before it.

A device that trains has no room for a second copy of the state, 73 GiB of LLaMA2-13B in bfloat16.
So layers are cut out of their leaves some at a time, copied to the host and forgotten, and leaves
are read and stacked some at a time: beside the state, `BATCH_BYTES` of a device are taken, or one
leaf where that is more. The host takes a copy of what its devices hold, until it is written.

A converter holds no whole model: it saves as `lazy_arrays.py` does, and reads one array at a time.

What is read is what was written (`arrays.py`), or a `DamagedCheckpointError`. Each checkpoint says
which model and which tokenizer it was made with.
"""

import json
import sys
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from jax.tree_util import tree_flatten_with_path
from jaxtyping import Shaped

from parrot_jax.core.errors import UserError, disk_full_is_a_user_error
from parrot_jax.core.files import check_room
from parrot_jax.core.paths import AnyPath, as_path
from parrot_jax.distributed import any_process
from parrot_jax.weights import arrays as on_disk
from parrot_jax.weights.damage import Unreadable, reading
from parrot_jax.weights.exports import checkpoint_identity
from parrot_jax.weights.layers import abstract_parts, join, names_of, parts_of


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
        # A text, as orbax reads it: it does not accept our path type.
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
            raise self._damage(step, f"{path} is missing or has changed") from None

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
        if jax.process_count() == 1:
            needed = sum(leaf.nbytes for leaf in jax.tree.leaves((params, optimizer)))
            check_room(as_path(self._folder), needed, "a checkpoint")
        with disk_full_is_a_user_error(f"a checkpoint in {self._folder}"):
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    params=ocp.args.PyTreeSave(parts_of(params)),
                    optimizer=ocp.args.PyTreeSave(parts_of(optimizer)),
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
        except Unreadable as error:
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
            with reading():
                return ocp.PyTreeCheckpointHandler().restore(folder, args=args)[name]
        except Unreadable as error:
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
        except Unreadable as error:
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
        wanted = {item: abstract_parts(tree) for item, tree in like.items()}
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
            names = [name for path, leaf in leaves[batch] for name, _ in names_of(path, leaf)]
            parts = {name: wanted[name] for name in names}
            args = ocp.args.PyTreeRestore(
                item=parts,
                restore_args=ocp.checkpoint_utils.construct_restore_args(parts),
                partial_restore=True,
            )
            # Not through the manager: it waits for all processes, also where one of them fails.
            with reading():
                arrays = handler.restore(folder, args=args)
            joined += [join(arrays, path, leaf) for path, leaf in leaves[batch]]
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
          Unreadable: That cannot be told any more.
        """
        folder = f"{self._folder}/{step}/{item}"
        with reading():
            found: Any = on_disk.item_handler().metadata(epath.Path(folder))
            if not found:
                raise Unreadable(f"{folder} does not list its arrays")
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
            raise Unreadable(found)  # its record says that it is of this model
        raise UserError(
            f"the checkpoint {self._folder}/{step}/{item} is of another model: {found}; give the "
            "model sizes it was trained with."
        )

    def _damage(self, step: int, reason: str) -> DamagedCheckpointError:
        """The error that names the damage and the checkpoint to return to."""
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
