"""Checkpoints: one array per layer and tensor on disk, atomic, written during training.

In memory, layers are stacked for `scan`. On disk they are separate arrays, which
converters, exports and models with unrolled layers need; this also bounds the size of the largest
array. If a save is killed, the previous checkpoint remains.

Devices have no room for a second copy of the train state (73 GiB for LLaMA2-13B in bfloat16). So a
save slices a few layers out of their leaves, copies them to the host and frees them, and a restore
reads and stacks a few leaves at a time. Both need extra device memory: `BATCH_BYTES`, or the size
of the largest leaf if that is larger. A save also needs host memory for a copy of the state on the
host's devices.

Converters never hold a whole model: they save with `lazy_arrays.py` and read one array at a time.

A read returns what was written, or raises `DamagedCheckpointError`; see `arrays.py`. Each
checkpoint stores the model config and the tokenizer's fingerprint.
"""

import json
import sys
from collections.abc import Callable, Mapping
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

EachLeaf = Callable[[tuple[Any, ...], jax.Array], Any]
"""A function of a leaf's path and the leaf."""

_ELSEWHERE = "another process could not read its part"


class _UnreadableSomewhere(Unreadable):
    """Some process could not read its part, and all know it."""


class DamagedCheckpointError(UserError):
    """A checkpoint's files are missing or have changed since the save."""


class StoredArray(NamedTuple):
    """Shape and dtype of an array on disk."""

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
        """Opens or creates the folder, and removes what an interrupted save left.

        Args:
          folder: Has one numbered folder per checkpoint.
          keep: Number of newest checkpoints to keep; None = all.
          read_only: Creates and removes nothing, since another process may be saving here.
          made_of: Stored with every checkpoint; see the method `made_of`.
        """
        # A str, since orbax does not accept our path type.
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

    @property
    def folder(self) -> AnyPath:
        """The folder, absolute."""
        return as_path(self._folder)

    def latest_step(self) -> int | None:
        """Returns the step of the newest checkpoint not known to be damaged; None = no such."""
        steps = set(self._manager.all_steps()) - self._damaged
        return max(steps, default=None)

    def made_of(self, step: int) -> dict[str, Any]:
        """Returns `model` (the config) and `tokenizer` (its fingerprint) of a checkpoint.

        A checkpoint of adapters also has what `adapters.recorded` reads.

        Empty if an earlier version saved the checkpoint without them.

        Raises:
          UserError: There is no such checkpoint, or it is damaged.
        """
        path = as_path(f"{self._at(step)}/_CHECKPOINT_METADATA")
        try:
            return dict(json.loads(path.read_text(encoding="utf-8"))["custom_metadata"] or {})
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            raise self._damage(step, f"{path} is missing or has changed") from None

    def save(self, step: int, params: Any, optimizer: Any = None) -> None:
        """Starts a save; returns once the arrays are copied to the host, before they are written.

        Args:
          step: Number of optimizer updates so far.
          params: The weights, with layers stacked under the key `layers`.
          optimizer: The rest of the train state; its trees use the weights' names. None = nothing.

        Raises:
          DiskFullError: The disk is too full for this save, or was for the previous one.
        """
        self.wait()
        for damaged in self._damaged & set(self._manager.all_steps()):
            self._manager.delete(damaged)  # or it would stay the newest and count towards `keep`
        if jax.process_count() == 1:
            needed = sum(leaf.nbytes for leaf in jax.tree.leaves((params, optimizer)))
            check_room(as_path(self._folder), needed, "a checkpoint")
        with disk_full_is_a_user_error(f"a checkpoint in {self._folder}"):
            items = {"params": params} if optimizer is None else {
                "params": params, "optimizer": optimizer
            }  # fmt: skip
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    **{item: ocp.args.PyTreeSave(parts_of(tree)) for item, tree in items.items()}
                ),
                custom_metadata=self._made_of,
            )

    def identity(self, step: int) -> str:
        """Returns 64 hex digits that identify a checkpoint; see `checkpoint_identity`.

        Raises:
          UserError: There is no such checkpoint.
        """
        return checkpoint_identity(self._at(step))

    def step_of(self, identity: str, *, first: int) -> int | None:
        """Returns the step of the checkpoint with this identity; None = there is none.

        Args:
          identity: From `identity`.
          first: The step to look at first.
        """
        steps = sorted(self._manager.all_steps(), key=lambda step: step != first)
        return next((step for step in steps if self.identity(step) == identity), None)

    def also_made_of(self, more: Mapping[str, Any]) -> None:
        """Stores more with every later checkpoint, besides `made_of`."""
        self._made_of |= more

    def stored(self, step: int) -> dict[str, StoredArray]:
        """Returns shapes and dtypes of a checkpoint's weights, by their names on disk.

        Raises:
          UserError: There is no such checkpoint, or it is damaged.
        """
        self._at(step)
        try:
            return self._description(step, "params")
        except Unreadable as error:
            raise self._damage(step, str(error)) from None

    def read(self, step: int, name: str) -> Shaped[np.ndarray, "..."]:
        """Reads one whole array of the weights to the host, in its stored dtype.

        Raises:
          DamagedCheckpointError: The array is missing or has changed.
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
        """Waits until every started save is on disk.

        Raises:
          DiskFullError: The disk is full.
        """
        with disk_full_is_a_user_error(f"a checkpoint in {self._folder}"):
            self._manager.wait_until_finished()

    def restore(
        self, step: int, like: Mapping[str, Any], *, each: EachLeaf | None = None
    ) -> dict[str, Any]:
        """Reads items of a checkpoint straight onto their devices.

        Args:
          step: Which checkpoint.
          like: `params`, or both `params` and `optimizer`: trees of arrays or
            `jax.ShapeDtypeStruct` with the shapes and shardings of the result.
          each: Returns what to keep of a leaf; called before more leaves are read, in all
            processes together. None = keep it.

        Raises:
          UserError: Tensors are missing, unknown or have another shape; the message names them.
          DamagedCheckpointError: Some process could not read its part; raised in all processes.
        """
        self._at(step)
        restored, reason, is_known = None, None, False
        try:
            restored = self._restore(step, like, each)
        except Unreadable as error:
            # Keep only the text: the exception's traceback references the arrays read so far.
            reason, is_known = str(error), isinstance(error, _UnreadableSomewhere)
        if is_known or any_process(reason is not None):
            del restored
            raise self._damage(step, reason or _ELSEWHERE)
        return restored or {}

    def close(self) -> None:
        """Waits for started saves and closes the folder."""
        self.wait()
        self._manager.close()

    def _restore(self, step: int, like: Mapping[str, Any], each: EachLeaf | None) -> dict[str, Any]:
        wanted = {item: abstract_parts(tree) for item, tree in like.items()}
        for item, arrays in wanted.items():
            self._check_shapes(step, item, arrays)
        return {
            item: self._restore_item(step, item, tree, wanted[item], each)
            for item, tree in like.items()
        }

    def _restore_item(
        self,
        step: int,
        item: str,
        like: Any,
        wanted: Mapping[str, jax.ShapeDtypeStruct],
        each: EachLeaf | None,
    ) -> Any:
        leaves, treedef = tree_flatten_with_path(like)
        handler, folder = on_disk.item_handler(), epath.Path(f"{self._folder}/{step}/{item}")
        joined: list[Any] = []
        for batch in on_disk.batches([on_disk.device_bytes(leaf) for _, leaf in leaves]):
            names = [name for path, leaf in leaves[batch] for name, _ in names_of(path, leaf)]
            parts = {name: wanted[name] for name in names}
            args = ocp.args.PyTreeRestore(
                item=parts,
                restore_args=ocp.checkpoint_utils.construct_restore_args(parts),
                partial_restore=True,
            )
            # Not through the manager: it waits for all processes, which hangs if one fails.
            arrays, problem = {}, None
            try:
                with reading():
                    arrays = handler.restore(folder, args=args)
            except Unreadable as error:
                if each is None:
                    raise
                problem = str(error)
            # `each` may compute with all processes, which hangs if one does not take part.
            if each is not None and any_process(problem is not None):
                raise _UnreadableSomewhere(problem or _ELSEWHERE)
            for path, leaf in leaves[batch]:
                whole = join(arrays, path, leaf)
                joined.append(whole if each is None else each(path, whole))
        return treedef.unflatten(joined)

    def _at(self, step: int) -> str:
        steps = self._manager.all_steps()
        if step not in steps:
            there = ", ".join(map(str, steps)) or "none"
            raise UserError(f"there is no checkpoint {step} in {self._folder}, but {there}.")
        return f"{self._folder}/{step}"

    def _description(self, step: int, item: str) -> dict[str, StoredArray]:
        """Returns shapes and dtypes of an item's arrays by name.

        Raises:
          Unreadable: The metadata is damaged.
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
        """Warns, once, if a checkpoint has no checksums; earlier versions saved without them."""
        described = json.loads(as_path(f"{folder}/_METADATA").read_text(encoding="utf-8"))
        if not described.get("use_zarr3") and step not in self._noted:
            self._noted.add(step)
            print(
                f"checkpoint {self._folder}/{step} was saved without checksums: damage to it "
                "cannot be detected",
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
            raise Unreadable(found)  # its metadata names this model, so arrays were lost
        raise UserError(
            f"the checkpoint {self._folder}/{step}/{item} is of another model: {found}; set the "
            "model sizes it was trained with."
        )

    def _damage(self, step: int, reason: str) -> DamagedCheckpointError:
        """Marks a checkpoint as damaged; returns the error, which says what to use instead."""
        self._damaged.add(step)
        other = self.latest_step()
        advice = (
            f"The newest other checkpoint is {other}: `parrot train` resumes from it by itself; "
            f"for other commands, move {self._folder}/{step} away first."
            if other is not None
            else "There is no other checkpoint: restore its folder from a copy, or delete it and "
            "train or convert again."
        )
        return DamagedCheckpointError(
            f"checkpoint {self._folder}/{step} is damaged: {reason}. {advice}"
        )
