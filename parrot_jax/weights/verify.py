"""Are these the same weights? A Hugging Face folder and a checkpoint, tensor by tensor, by hash."""

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
    """What was found, by Hugging Face's names."""

    identical: list[str] = field(default_factory=list)
    """Equal in every bit, or stored in two types of which one holds all values of the other."""
    rounded: list[str] = field(default_factory=list)
    """Equal once the checkpoint's values are rounded to the folder's type."""
    different: list[str] = field(default_factory=list)
    """Not equal."""

    def summary(self) -> str:
        """One line, and one for each tensor that differs."""
        total = len(self.identical) + len(self.rounded) + len(self.different)
        lines = [f"{len(self.identical):,} of {total:,} tensors are identical"]
        if self.rounded:
            lines[0] += f", {len(self.rounded):,} after rounding to the folder's type"
        lines += [f"  {name} differs" for name in self.different]
        return "\n".join(lines)


def verify(source: HfFolder, folder: ModelFolder, *, step: int | None = None) -> Comparison:
    """Compares all tensors; two of them are in memory at a time.

    Args:
      source: A folder in Hugging Face's form.
      folder: A run, or what was converted.
      step: Which checkpoint of it; None = the newest.

    Raises:
      UserError: The sizes differ, or there is no such checkpoint.
    """
    check_same_model(folder.path, source.config)
    checkpoints, step = folder.open_checkpoint(step)
    stored, found = checkpoints.stored(step), Comparison()
    absent = [tensor.ours for tensor in source.tensors if tensor.ours not in stored]
    if absent:
        raise UserError(f"checkpoint {step} of {folder.path} lacks {', '.join(absent)}.")
    with progress("tensors", total=len(source.tensors)) as advance:
        for tensor in source.tensors:
            theirs, ours = source.read(tensor), checkpoints.read(step, tensor.ours)
            kind = found.different
            if _hash(theirs.astype(np.float32)) == _hash(ours.astype(np.float32)):
                kind = found.identical
            elif _hash(ours.astype(DTYPES[source.dtype_of(tensor)])) == _hash(theirs):
                kind = found.rounded
            kind.append(tensor.theirs)
            advance()
    return found


def _hash(array: Shaped[np.ndarray, "..."]) -> bytes:
    """SHA-256 of shape and bytes; numbers are compared in float32, which holds all of the types."""
    digest = hashlib.sha256(repr(array.shape).encode())
    digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return digest.digest()
