"""Compares a Hugging Face folder with a checkpoint, tensor by tensor, by hash."""

import hashlib
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Shaped

from parrot_jax.core.errors import UserError
from parrot_jax.core.logs import progress
from parrot_jax.weights.hf_folder import DTYPES, HfFolder
from parrot_jax.weights.model_folder import ModelFolder, check_same_model


@dataclass
class Comparison:
    """The result of `verify`: Hugging Face names of tensors."""

    identical: list[str] = field(default_factory=list)
    """Equal values, possibly in different dtypes."""
    rounded: list[str] = field(default_factory=list)
    """Equal after rounding the checkpoint's values to the folder's dtype."""
    different: list[str] = field(default_factory=list)
    """Not equal."""

    def summary(self) -> str:
        """Returns one line of counts, then one line for each tensor that differs."""
        total = len(self.identical) + len(self.rounded) + len(self.different)
        lines = [f"{len(self.identical):,} of {total:,} tensors are identical"]
        if self.rounded:
            lines[0] += f", {len(self.rounded):,} after rounding to the folder's dtype"
        lines += [f"  {name} differs" for name in self.different]
        return "\n".join(lines)


def verify(source: HfFolder, folder: ModelFolder, *, step: int | None = None) -> Comparison:
    """Compares all tensors; two are in memory at a time.

    Args:
      source: A folder in Hugging Face's format.
      folder: A run or a converted model.
      step: Which checkpoint; None = the newest.

    Raises:
      UserError: The model configs differ, or there is no such checkpoint.
    """
    check_same_model(folder.path, source.config)
    checkpoints, step = folder.open_weights(step)
    stored, found = checkpoints.stored(step), Comparison()
    absent = [tensor.ours for tensor in source.tensors if tensor.ours not in stored]
    if absent:
        raise UserError(f"checkpoint {step} of {folder.path} lacks {', '.join(absent)}.")
    with progress("tensors", total=len(source.tensors)) as advance:
        for tensor in source.tensors:
            theirs, ours = source.read(tensor), checkpoints.read(step, tensor.ours)
            kind = found.different
            # float32 represents all values of bfloat16 and float16.
            if _hash(theirs.astype(np.float32)) == _hash(ours.astype(np.float32)):
                kind = found.identical
            elif _hash(ours.astype(DTYPES[source.dtype_of(tensor)])) == _hash(theirs):
                kind = found.rounded
            kind.append(tensor.theirs)
            advance()
    return found


def _hash(array: Shaped[np.ndarray, "..."]) -> bytes:
    """Returns the SHA-256 of shape and bytes."""
    digest = hashlib.sha256(repr(array.shape).encode())
    digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return digest.digest()
