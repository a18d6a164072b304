"""Converts safetensors to a checkpoint, with a few tensors in memory at a time; also adapters."""

from collections import Counter
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Shaped

from parrot_jax.core.errors import UserError
from parrot_jax.core.logs import progress
from parrot_jax.weights.adapters import Adapter, base_on_disk, described
from parrot_jax.weights.dtypes import Dtype
from parrot_jax.weights.hf_folder import DTYPES, HfFolder, cast_finite
from parrot_jax.weights.lazy_arrays import LazyArray, save_lazily
from parrot_jax.weights.model_folder import ConvertedConfig, ModelFolder, made_of
from parrot_jax.weights.names import Tensor
from parrot_jax.weights.peft_folder import PeftFolder

_IF_NOT_FINITE = (
    "the folder is damaged, its training diverged, or --dtype has too small a range: use another "
    "copy or another --dtype"
)


def hf_to_flax(
    source: HfFolder,
    out: Path | str,
    *,
    dtype: Dtype | None,
    origin: str,
    tokenizer: str | None = None,
) -> ConvertedConfig:
    """Writes the checkpoint of a folder for `init_from` of a training config.

    Each process reads and writes only its own devices' shards.

    Args:
      source: The folder to read.
      out: The output folder; an interrupted conversion is restarted.
      dtype: Dtype to store; None = the source's.
      origin: Where the source comes from, for `config.yaml`.
      tokenizer: Fingerprint of the tokenizer that belongs to the weights; None = unknown.

    Returns:
      The contents of `config.yaml`. Save it last: without it nothing loads.

    Raises:
      UserError: `out` already has a model, the source is float16 and `dtype` is None, or a weight
        is NaN or infinite.
      DiskFullError: The disk is full.
    """
    folder = ModelFolder(out)
    if folder.config_path.exists():
        raise UserError(f"{out} already has a model; choose another folder, or delete it first.")
    stored = {tensor.ours: dtype or source.dtype_of(tensor) for tensor in source.tensors}
    if "float16" in stored.values():
        raise UserError(
            f"{source.path} is in float16, which training does not support: set --dtype float32 "
            "(exact, twice the size) or --dtype bfloat16 (same size, 3 bits less precision)."
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


def peft_to_flax(
    source: PeftFolder, base: ModelFolder, out: Path | str, *, origin: str
) -> ConvertedConfig:
    """Writes adapters as a checkpoint that is used with its base, like that of a run.

    Args:
      source: The folder to read.
      base: The converted base, or a run, with whole weights.
      out: The output folder; an interrupted conversion is restarted.
      origin: Where the source comes from, for `config.yaml`.

    Returns:
      The contents of `config.yaml`. Save it last: without it nothing loads.

    Raises:
      UserError: `out` already has a model, the base has no whole weights, or a weight is NaN or
        infinite.
      DiskFullError: The disk is full.
    """
    folder, model = ModelFolder(out), base.load_model()
    if folder.config_path.exists():
        raise UserError(f"{out} already has a model; choose another folder, or delete it first.")
    of_base = base_on_disk(base.path, base.open_checkpoint(), model, source.lora)
    tokenizer = base.tokenizer_fingerprint()

    def lazy(tensor: Tensor) -> LazyArray:
        def make() -> jax.Array:
            array = cast_finite(
                source.read(tensor), DTYPES["float32"], f"{tensor.theirs} of {source.path}",
                _IF_NOT_FINITE,
            )  # fmt: skip
            return jax.make_array_from_callback(
                tensor.our_shape, jax.sharding.SingleDeviceSharding(jax.devices()[0]),
                lambda index: array[index],
            )  # fmt: skip

        return LazyArray(tensor.our_shape, DTYPES["float32"], make)

    save_lazily(
        folder.checkpoints,
        0,
        {tensor.ours: lazy(tensor) for tensor in source.tensors},
        made_of(model, tokenizer) | described(Adapter(source.lora, of_base)),
    )
    ids = base.source_ids()
    ends = ids.get("eos_token_id", ())
    return ConvertedConfig(
        converted_from=origin,
        dtype="float32",
        tokenizer=tokenizer,
        bos_token_id=ids.get("bos_token_id"),
        eos_token_id=tuple(ends) if isinstance(ends, list | tuple) else (ends,),
        init_from=str(base.path),
        model=model,
    )


def spread(tensor: Tensor, mesh: Mesh) -> NamedSharding:
    """Shards the largest dim that is divisible by the size of a one-axis mesh; else replicates."""
    sizes = [
        0 if dim == tensor.whole_dim or size % mesh.size else size
        for dim, size in enumerate(tensor.our_shape)
    ]
    spec: list[str | None] = [None] * len(sizes)
    if any(sizes):
        spec[sizes.index(max(sizes))] = mesh.axis_names[0]
    return NamedSharding(mesh, PartitionSpec(*spec))
