"""Hugging Face in: safetensors to a checkpoint, a few tensors in memory at a time."""

from collections import Counter
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Shaped

from parrot_jax.core.errors import UserError
from parrot_jax.core.logs import progress
from parrot_jax.weights.dtypes import Dtype
from parrot_jax.weights.hf_folder import DTYPES, HfFolder, cast_finite
from parrot_jax.weights.lazy_arrays import LazyArray, save_lazily
from parrot_jax.weights.model_folder import ConvertedConfig, ModelFolder, made_of
from parrot_jax.weights.names import Tensor

_IF_NOT_FINITE = (
    "the folder is damaged, its training diverged, or --dtype holds less than its type: take "
    "another copy or another --dtype"
)


def hf_to_flax(
    source: HfFolder,
    out: Path | str,
    *,
    dtype: Dtype | None,
    origin: str,
    tokenizer: str | None = None,
) -> ConvertedConfig:
    """Writes the checkpoint of a folder that `init_from` of a training config takes.

    Each process reads the bytes of its own devices' parts and writes these.

    Args:
      source: What to read.
      out: The output folder; an interrupted conversion is restarted.
      dtype: Type to store; None = that of the source.
      origin: Where the source comes from, for the record.
      tokenizer: Fingerprint of the tokenizer that belongs to the weights; None = not known.

    Returns:
      What to save as `config.yaml`, which must come last: without it nothing loads.

    Raises:
      UserError: The folder holds something else, the source is float16 and `dtype` is None, or a
        number is NaN or infinite.
      DiskFullError: The disk is full.
    """
    folder = ModelFolder(out)
    if folder.config_path.exists():
        raise UserError(f"{out} already has a model; choose another folder, or delete it first.")
    stored = {tensor.ours: dtype or source.dtype_of(tensor) for tensor in source.tensors}
    if "float16" in stored.values():
        raise UserError(
            f"{source.path} is in float16, which no training uses: give --dtype float32 (exact, "
            "twice the size) or --dtype bfloat16 (the same size, but 3 bits less of each number)."
        )
    mesh = jax.make_mesh((jax.device_count(),), ("fsdp",))
    with progress("tensors", total=len(source.tensors)) as advance:

        def lazy(tensor: Tensor) -> LazyArray:
            target = DTYPES[stored[tensor.ours]]

            def make() -> jax.Array:
                advance()
                return jax.make_array_from_callback(tensor.our_shape, spread(tensor, mesh), part)

            def part(index: Any) -> Shaped[np.ndarray, "..."]:
                what = f"{tensor.theirs} of {source.path}"
                return cast_finite(source.read(tensor, index), target, what, _IF_NOT_FINITE)

            return LazyArray(tensor.our_shape, target, make)

        save_lazily(
            folder.checkpoints,
            0,
            {tensor.ours: lazy(tensor) for tensor in source.tensors},
            made_of(source.config, tokenizer),
        )
    ((most, _),) = Counter(stored.values()).most_common(1)
    return ConvertedConfig(
        converted_from=origin,
        dtype=most,
        tokenizer=tokenizer,
        bos_token_id=source.bos_token_id,
        eos_token_id=source.eos_token_id,
        model=source.config,
    )


def spread(tensor: Tensor, mesh: Mesh) -> NamedSharding:
    """Splits the largest dim that divides over all devices of a mesh of one axis; else none."""
    sizes = [
        0 if dim == tensor.whole_dim or size % mesh.size else size
        for dim, size in enumerate(tensor.our_shape)
    ]
    spec: list[str | None] = [None] * len(sizes)
    if any(sizes):
        spec[sizes.index(max(sizes))] = mesh.axis_names[0]
    return NamedSharding(mesh, PartitionSpec(*spec))
