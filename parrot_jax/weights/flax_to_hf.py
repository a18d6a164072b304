"""Converts a checkpoint, or its adapters, to safetensors, with a few tensors in memory at a time.

The order of writing makes interruption safe: the record of the export, the shards (each atomic),
the index, and last `config.json`, without which nothing loads.
"""

import hashlib
import json
import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Shaped

from parrot_jax.core.errors import UserError, disk_full_is_a_user_error
from parrot_jax.core.files import atomic_write, check_room, hash_file, read_json, write_json
from parrot_jax.core.logs import console, progress
from parrot_jax.model.hf_config import to_hf
from parrot_jax.model.model_config import ModelConfig
from parrot_jax.weights.adapters import recorded
from parrot_jax.weights.dtypes import SAFETENSORS_NAMES, Dtype
from parrot_jax.weights.exports import RECORD, read_record
from parrot_jax.weights.hf_folder import DTYPES, INDEX, cast_finite
from parrot_jax.weights.model_folder import ModelFolder
from parrot_jax.weights.names import Tensor, tensors
from parrot_jax.weights.peft_folder import CONFIG, WEIGHTS, adapter_tensors, config_text

MAX_SHARD_BYTES = 4 * 10**9
"""Limit on the bytes of weights in one file."""

_HASHED = (INDEX, "tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
"""Files that are hashed besides the shards and `config.json`. The model card and
`generation_config.json` are not, so that users can edit them."""

_THREADS = 2

_IF_NOT_FINITE = "export it as bfloat16 or float32, or another checkpoint (--step)"


class Shard(NamedTuple):
    """One safetensors file."""

    name: str
    tensors: tuple[Tensor, ...]


def flax_to_hf(
    folder: ModelFolder,
    out: Path | str,
    *,
    dtype: Dtype | None = None,
    step: int | None = None,
    tokenizer: str | None = None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> Dtype:
    """Writes the weights of a checkpoint; keeps shards that an interrupted export has written.

    Call `write_hf_config` afterwards: without `config.json` nothing loads.

    Args:
      folder: A run or a converted model.
      out: The output folder; an interrupted export of the same checkpoint is resumed.
      dtype: Dtype to write; None = the dtype of most tensors of the checkpoint.
      step: Which checkpoint; None = the newest.
      tokenizer: Fingerprint of the tokenizer that will be exported too, or None.
      max_shard_bytes: Limit on the bytes of weights in a file; a larger tensor gets its own file.

    Returns:
      The dtype that was written.

    Raises:
      UserError: There is no such checkpoint, it is damaged, `out` has other files, or a weight is
        not finite in this dtype.
      DiskFullError: The disk is full.
    """
    out = Path(out)
    checkpoints, step = folder.open_weights(step)
    stored = checkpoints.stored(step)
    if dtype is None:
        dtype = _most_common([array.dtype for array in stored.values()])
        wider = [name for name, array in stored.items()
                 if array.dtype.itemsize > DTYPES[dtype].itemsize]  # fmt: skip
        if wider:
            console.print(
                f"{len(wider):,} tensors, such as {wider[0]}, are rounded to {dtype}, the dtype of "
                "most tensors; --dtype float32 keeps them exact"
            )
    shards = plan_shards(tensors(folder.load_model()), DTYPES[dtype], max_shard_bytes)
    record = {
        "checkpoint": checkpoints.identity(step),
        "dtype": dtype,
        "tokenizer": tokenizer,
        "shards": {shard.name: [tensor.theirs for tensor in shard.tensors] for shard in shards},
    }
    with disk_full_is_a_user_error(f"the export in {out}"):
        hashes = _claim(out, record)
        left = [shard for shard in shards
                if shard.name not in hashes or not (out / shard.name).exists()]  # fmt: skip
        if len(left) < len(shards):
            console.print(f"resuming {out}: {len(shards) - len(left)} of {len(shards)} files")
        needed = sum(_nbytes(tensor, DTYPES[dtype]) for shard in left for tensor in shard.tensors)
        check_room(out, needed, "the export")
        names = [tensor for shard in left for tensor in shard.tensors]

        def read(tensor: Tensor) -> Shaped[np.ndarray, "..."]:
            ours = checkpoints.read(step, tensor.ours)
            what = f"{tensor.ours} as {dtype}"
            return tensor.to_theirs(cast_finite(ours, DTYPES[dtype], what, _IF_NOT_FINITE))

        with (
            progress("tensors", total=len(names)) as advance,
            ThreadPoolExecutor(_THREADS) as threads,
        ):
            arrays = _ahead(threads, read, names)
            for shard in left:
                hashes[shard.name] = _write_shard(out / shard.name, shard, dtype, arrays, advance)
                write_json(out / RECORD, record | {"sha256": hashes})
        if len(shards) > 1:
            _write_index(out, shards, DTYPES[dtype])
    return dtype


def flax_to_peft(
    folder: ModelFolder,
    out: Path | str,
    *,
    base: str,
    dtype: Dtype | None = None,
    step: int | None = None,
    tokenizer: str | None = None,
) -> Dtype:
    """Writes the adapters of a checkpoint in peft's format.

    Call `write_peft_config` afterwards: without `adapter_config.json` nothing loads.

    Args:
      folder: A run with adapters.
      out: The output folder; an interrupted export of the same checkpoint is resumed.
      base: A folder or hub repository of the base, in Hugging Face's format.
      dtype: Dtype to write; None = the dtype of the adapters.
      step: Which checkpoint; None = the newest.
      tokenizer: Fingerprint of the tokenizer that will be exported too, or None.

    Returns:
      The dtype that was written.

    Raises:
      UserError: The checkpoint has no adapters; or as in `flax_to_hf`.
      DiskFullError: The disk is full.
    """
    out = Path(out)
    checkpoints, step = folder.open_checkpoint(step)
    adapter = recorded(checkpoints, step)
    if adapter is None:
        raise UserError(
            f"{folder.path} has whole weights, not adapters; export them without --peft."
        )
    if dtype is None:
        dtype = _most_common([array.dtype for array in checkpoints.stored(step).values()])
    shard = Shard(WEIGHTS, tuple(adapter_tensors(folder.load_model(), adapter.lora)))
    record = {
        "checkpoint": checkpoints.identity(step),
        "dtype": dtype,
        "tokenizer": tokenizer,
        "base": base,
        "shards": {WEIGHTS: [tensor.theirs for tensor in shard.tensors]},
    }

    def read(tensor: Tensor) -> Shaped[np.ndarray, "..."]:
        ours = checkpoints.read(step, tensor.ours)
        return tensor.to_theirs(
            cast_finite(ours, DTYPES[dtype], f"{tensor.ours} as {dtype}", _IF_NOT_FINITE)
        )

    with disk_full_is_a_user_error(f"the export in {out}"):
        _claim(out, record)
        check_room(out, sum(_nbytes(one, DTYPES[dtype]) for one in shard.tensors), "the export")
        with progress("tensors", total=len(shard.tensors)) as advance:
            digest = _write_shard(out / WEIGHTS, shard, dtype, map(read, shard.tensors), advance)
        write_json(out / RECORD, record | {"sha256": {WEIGHTS: digest}})
    return dtype


def write_peft_config(folder: ModelFolder, out: Path | str, base: str, step: int) -> None:
    """Writes `adapter_config.json`, last of all files of an export of adapters."""
    out = Path(out)
    adapter = recorded(folder.open_checkpoint(step)[0], step)
    assert adapter is not None
    text = config_text(folder.load_model(), adapter.lora, base)
    hashes = {name: hash_file(out / name) for name in _HASHED if (out / name).exists()}
    hashes[CONFIG] = hashlib.sha256(text.encode()).hexdigest()
    record = read_json(out / RECORD)
    write_json(out / RECORD, record | {"sha256": record["sha256"] | hashes})
    with atomic_write(out / CONFIG) as file:
        file.write(text)


def write_hf_config(
    out: Path | str, config: ModelConfig, dtype: Dtype, ids: Mapping[str, int | list[int] | None]
) -> None:
    """Writes `generation_config.json` and, last of all files of an export, `config.json`.

    Before `config.json`, adds the hashes of config, index and tokenizer files to the record.

    Args:
      out: The folder with all other files of the export.
      config: The model config.
      dtype: The dtype of the weights.
      ids: `bos_token_id`, `eos_token_id` and others; None = unknown.
    """
    out = Path(out)
    write_json(out / "generation_config.json", dict(ids))
    # The name in transformers 4; version 5 calls it `dtype` and accepts this one too.
    values = to_hf(config) | dict(ids) | {"torch_dtype": dtype}
    text = json.dumps(values, indent=2, ensure_ascii=False) + "\n"
    hashes = {name: hash_file(out / name) for name in _HASHED if (out / name).exists()}
    hashes["config.json"] = hashlib.sha256(text.encode()).hexdigest()
    if (record := read_record(out)) is not None:
        shards = {name: record["sha256"][name] for name in record["shards"]}
        write_json(out / RECORD, record | {"sha256": shards | hashes})
    with atomic_write(out / "config.json") as file:
        file.write(text)


def plan_shards(all_tensors: Sequence[Tensor], dtype: np.dtype[Any], max_bytes: int) -> list[Shard]:
    """Assigns tensors to files in order; no file exceeds `max_bytes` unless one tensor does."""
    groups: list[list[Tensor]] = [[]]
    room = max_bytes
    for tensor in all_tensors:
        size = _nbytes(tensor, dtype)
        if groups[-1] and size > room:
            groups.append([])
            room = max_bytes
        groups[-1].append(tensor)
        room -= size
    if len(groups) == 1:
        return [Shard("model.safetensors", tuple(groups[0]))]
    return [
        Shard(f"model-{number:05d}-of-{len(groups):05d}.safetensors", tuple(group))
        for number, group in enumerate(groups, 1)
    ]


def _nbytes(tensor: Tensor, dtype: np.dtype[Any]) -> int:
    return int(np.prod(tensor.their_shape, dtype=np.int64)) * dtype.itemsize


def _most_common(dtypes: Sequence[np.dtype[Any]]) -> Dtype:
    names = [name for dtype in dtypes for name, known in DTYPES.items() if known == dtype]
    most: Any = max(set(names), key=names.count)
    return most


def _claim(out: Path, record: Mapping[str, Any]) -> dict[str, str]:
    """Writes the record into a new folder, or checks that the folder is of this export.

    Returns:
      SHA-256 of finished files by name.
    """
    if (out / RECORD).exists():
        found = read_json(out / RECORD)
        if isinstance(found, dict):
            hashes = found.pop("sha256", {})
            if found == record and isinstance(hashes, dict):
                for partial in out.glob("*.tmp-*"):
                    partial.unlink()  # left by an interrupted export
                return hashes
        raise UserError(
            f"{out} has an export of another checkpoint, dtype or tokenizer; choose another "
            "folder, or delete it first."
        )
    if out.exists() and any(out.iterdir()):
        raise UserError(f"{out} is not empty and not an export; choose another folder.")
    write_json(out / RECORD, record)
    return {}


def _ahead(
    threads: ThreadPoolExecutor, read: Callable[[Tensor], Any], names: Sequence[Tensor]
) -> Iterator[Shaped[np.ndarray, "..."]]:
    """Prefetches: reads the next tensors, one per thread, while the previous one is written."""
    reads: deque[Future[Any]] = deque()
    for tensor in names:
        reads.append(threads.submit(read, tensor))
        if len(reads) > _THREADS:
            yield reads.popleft().result()
    while reads:
        yield reads.popleft().result()


def _write_shard(
    path: Path,
    shard: Shard,
    dtype: Dtype,
    arrays: Iterator[Shaped[np.ndarray, "..."]],
    advance: Any,
) -> str:
    """Writes one file, a tensor at a time; safetensors' own writer needs all tensors in memory.

    Returns:
      SHA-256 of the file.

    Source: the format description at https://github.com/huggingface/safetensors.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for tensor in shard.tensors:
        end = offset + _nbytes(tensor, DTYPES[dtype])
        header[tensor.theirs] = {
            "dtype": SAFETENSORS_NAMES[dtype],
            "shape": list(tensor.their_shape),
            "data_offsets": [offset, end],
        }
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with atomic_write(path, "wb") as file:
        head = len(text).to_bytes(8, "little") + text
        digest = hashlib.sha256(head)
        file.write(head)
        for _ in shard.tensors:
            values = next(arrays).reshape(-1).view(np.uint8).data
            digest.update(values)
            file.write(values)
            if hasattr(os, "posix_fadvise"):  # not on macOS
                # Flush to disk now; otherwise the fsync at the end waits for the whole file.
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            advance()
    return digest.hexdigest()


def _write_index(out: Path, shards: Sequence[Shard], dtype: np.dtype[Any]) -> None:
    total = sum(_nbytes(tensor, dtype) for shard in shards for tensor in shard.tensors)
    places = {tensor.theirs: shard.name for shard in shards for tensor in shard.tensors}
    write_json(out / INDEX, {"metadata": {"total_size": total}, "weight_map": places})
