"""Reads a model in Hugging Face's format, `config.json` and safetensors, a slice at a time."""

import json
import math
import mmap
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
from jaxtyping import Shaped
from safetensors import SafetensorError, safe_open

from parrot_jax.core.errors import UserError
from parrot_jax.core.files import open_input, read_json
from parrot_jax.core.paths import file_in
from parrot_jax.model.frequencies import frequencies
from parrot_jax.model.hf_config import from_hf
from parrot_jax.model.model_config import ModelConfig
from parrot_jax.weights.dtypes import SAFETENSORS_NAMES
from parrot_jax.weights.exports import check_hash, known_hashes
from parrot_jax.weights.names import Tensor, tensors

DTYPES: dict[str, np.dtype[Any]] = {
    "float32": np.dtype(np.float32),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float16": np.dtype(np.float16),
}
"""numpy dtypes by name."""

INDEX = "model.safetensors.index.json"
_SINGLE = "model.safetensors"
_MAX_CONFIG_BYTES = 10**7
_MAX_SHOWN = 20
"""Limit on the tensors that an error names."""

_EXPONENTS = {"float32": 0x7F800000, "bfloat16": 0x7F80, "float16": 0x7C00}
"""Masks of the exponent bits, which are all set in NaN and infinity only."""

_AT_ONCE = 2**24
"""Elements checked at a time."""

_DTYPE_OF = {name: dtype for dtype, name in SAFETENSORS_NAMES.items()}


class _Stored(NamedTuple):
    """One tensor in a file."""

    name: str
    file: Path
    shape: tuple[int, ...]
    dtype: str
    """safetensors' name, e.g. BF16."""
    offset: int
    """In bytes, from the start of the file."""

    def read(self) -> Shaped[np.ndarray, "..."]:
        """The whole tensor, as a view of the file."""
        # One mmap per tensor: pages that were read count as this process's memory until the map is
        # closed, and a file may be larger than the memory. `safe_open` would copy.
        with open_input(self.file, "rb") as file:
            bytes_ = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        dtype = DTYPES[_DTYPE_OF[self.dtype]]
        return np.frombuffer(bytes_, dtype, math.prod(self.shape), self.offset).reshape(self.shape)


def read_tensors(file: Path) -> dict[str, _Stored]:
    """Reads the header of a safetensors file: its tensors by name.

    Raises:
      UserError: It is truncated or not safetensors, or a dtype is not one of `DTYPES`.
    """
    stored = {one.name: one for one in _read_header(file)}
    for one in stored.values():
        if one.dtype not in _DTYPE_OF:
            raise UserError(
                f"{file}: {_shown(one.name)} has dtype {one.dtype}, not one of "
                f"{', '.join(_DTYPE_OF)}."
            )
    return stored


class HfFolder:
    """The weights of one folder; reads only headers until `read` is called.

    Attributes:
      path: The folder.
      config: The model config.
      tensors: All tensors of the model.
      bos_token_id: From `config.json` or `generation_config.json`; None = not set.
      eos_token_id: From the same files; empty = not set.
    """

    def __init__(self, path: Path | str) -> None:
        """Checks that the folder has exactly the tensors that its `config.json` describes.

        Raises:
          UserError: A file is missing, truncated or not safetensors, or tensors are missing,
            unknown or have another shape or dtype; the message lists them.
        """
        self.path = Path(path)
        self.config = _read_config(file_in(self.path, "config.json"))
        self.bos_token_id, self.eos_token_id = _special_ids(self.path)
        self.tensors = tensors(self.config)
        stored = [stored for file in _files(self.path) for stored in _read_header(file)]
        self._stored = {each.name: each for each in stored}
        self._check(Counter(each.name for each in stored))

    def check_files(self) -> None:
        """Compares files with their known SHA-256; reads them completely.

        Hashes come from the record of a parrot_jax export or from file names in the hub's cache.
        Other folders have no hashes and pass.

        Raises:
          UserError: A file has changed, or the record of the export is damaged.
        """
        known = known_hashes(self.path)
        for file in {stored.file for stored in self._stored.values()}:
            target = file.resolve()
            if target.parent.name == "blobs" and re.fullmatch("[0-9a-f]{64}", target.name):
                known.setdefault(file, target.name)
        with ThreadPoolExecutor(4) as threads:
            for _ in threads.map(check_hash, sorted(known), [known[f] for f in sorted(known)]):
                pass  # iterating raises a check's error

    def dtype_of(self, tensor: Tensor) -> str:
        """Returns the stored dtype of a tensor, a key of `DTYPES`."""
        return _DTYPE_OF[self._stored[tensor.theirs].dtype]

    def read(
        self, tensor: Tensor, index: Sequence[slice] | None = None
    ) -> Shaped[np.ndarray, "..."]:
        """Reads a tensor, or a slice of it, in our order of dims and its stored dtype.

        Args:
          tensor: One of `tensors`.
          index: One slice with step 1 for each of our dims; None = the whole tensor. Only the
            bytes of the slice are read.
        """
        if index is None:
            index = tuple(slice(0, size) for size in tensor.our_shape)
        part = self._get(tensor.theirs, tensor.their_slice(index))
        return tensor.part(index).to_ours(part)

    def _get(self, name: str, index: tuple[slice, ...]) -> Shaped[np.ndarray, "..."]:
        return self._stored[name].read()[index]

    def _check(self, counts: Counter[str]) -> None:
        shapes = {name: stored.shape for name, stored in self._stored.items()}
        wanted = {tensor.theirs: tensor.their_shape for tensor in self.tensors}
        derived = {name for name in shapes.keys() - wanted.keys() if self._is_derived(name)}
        missing = [f"{name} is missing" for name in wanted if name not in shapes]
        unknown = [
            f"{_shown(name)} is unknown" for name in sorted(shapes.keys() - wanted.keys() - derived)
        ]
        misshaped = [
            f"{name} is {list(shapes[name])}, not {list(shape)}"
            for name, shape in wanted.items()
            if name in shapes and shapes[name] != shape
        ]
        mistyped = [
            f"{name} has dtype {self._stored[name].dtype}, not one of {', '.join(_DTYPE_OF)}"
            for name in wanted
            if name in shapes and self._stored[name].dtype not in _DTYPE_OF
        ]
        twice = [
            f"{_shown(name)} is in {count} files" for name, count in counts.items() if count > 1
        ]
        problems = missing + unknown + misshaped + mistyped + twice
        if problems:
            more = len(problems) - _MAX_SHOWN
            raise UserError(
                f"the tensors in {self.path} do not match its config.json: "
                f"{'; '.join(problems[:_MAX_SHOWN])}{f'; and {more:,} more' if more > 0 else ''}."
            )

    def _is_derived(self, name: str) -> bool:
        """Whether a tensor is redundant, as in old folders: RoPE frequencies or a tied LM head."""
        config = self.config
        if name.startswith("model.layers.") and name.endswith(".self_attn.rotary_emb.inv_freq"):
            stored = self._get(name, (slice(None),)).astype(np.float32)
            ours = frequencies(config.head_width, config.rope_theta, config.rope_scaling)
            return stored.shape == ours.shape and np.allclose(stored, ours, rtol=1e-2)
        if name == "lm_head.weight" and config.tie_word_embeddings:
            embed = "model.embed_tokens.weight"
            whole = (slice(None), slice(None))
            return embed in self._stored and np.array_equal(
                self._get(name, whole), self._get(embed, whole)
            )
        return False


def cast_finite(
    array: Shaped[np.ndarray, "..."], dtype: np.dtype[Any], what: str, advice: str
) -> Shaped[np.ndarray, "..."]:
    """Casts an array; rejects values that are NaN or infinite in the new dtype.

    Args:
      array: Contiguous.
      dtype: One of `DTYPES`.
      what: Describes the array in the error.
      advice: What to do about it, for the error.

    Raises:
      UserError: Some values are not finite; the message has their count.
    """
    with np.errstate(over="ignore"):
        array = array.astype(dtype, copy=False)
    exponent = _EXPONENTS[dtype.name]
    bits = array.reshape(-1).view(f"u{array.itemsize}")
    bad = sum(
        np.count_nonzero((bits[first : first + _AT_ONCE] & exponent) == exponent)
        for first in range(0, len(bits), _AT_ONCE)
    )
    if bad:
        raise UserError(f"{what}: {bad:,} of {array.size:,} values are NaN or infinite; {advice}.")
    return array


def _read_config(path: Path) -> ModelConfig:
    return from_hf(_object(path, read_json(path, max_bytes=_MAX_CONFIG_BYTES)), str(path))


def _object(path: Path, values: Any) -> dict[str, Any]:
    if not isinstance(values, dict):
        raise UserError(f"{path} must be a JSON object, not {type(values).__name__}.")
    return values


def _special_ids(folder: Path) -> tuple[int | None, tuple[int, ...]]:
    """Returns the BOS and EOS ids; `generation_config.json` takes precedence over `config.json`."""
    bos, eos = None, ()
    for name in ("config.json", "generation_config.json"):
        path = file_in(folder, name)
        values = _object(path, read_json(path)) if path.exists() else {}
        bos = _ids(values.get("bos_token_id"), path) or bos
        eos = _ids(values.get("eos_token_id"), path) or eos
    return (bos[0] if bos else None), eos


def _ids(value: Any, path: Any) -> tuple[int, ...]:
    found = value if isinstance(value, list) else [] if value is None else [value]
    if not all(type(each) is int and -1 <= each < 2**31 for each in found) or len(found) > 1000:
        raise UserError(f"{path}: {ascii(value)[:80]} is not a token id or a list of token ids.")
    return tuple(each for each in found if each >= 0)


def _shown(name: str) -> str:
    """Returns a tensor's name, which may be any text, safe for a one-line error."""
    return name if name.isprintable() and len(name) <= 100 else f"{ascii(name)[:100]}.."


def _files(folder: Path) -> list[Path]:
    """Returns the safetensors files of a folder, after checking that all exist."""
    index, single = file_in(folder, INDEX), file_in(folder, _SINGLE)
    if index.exists() and single.exists():
        raise UserError(
            f"{folder} has both {_SINGLE} and {INDEX}, and libraries differ in which they read; "
            "delete the wrong one."
        )
    if index.exists():
        values = read_json(index)
        places = values.get("weight_map") if isinstance(values, dict) else None
        names = _file_names(places)
        if not names:
            raise UserError(
                f"{index} is not an index of safetensors files: it has no `weight_map` from tensor "
                "names to file names; download it again."
            )
        files = [file_in(folder, name) for name in sorted(names)]
        absent = [file.name for file in files if not file.exists()]
        if absent:
            raise UserError(
                f"{index} names {len(absent)} files that do not exist: "
                f"{', '.join(map(_shown, absent[:_MAX_SHOWN]))}; download them again."
            )
        return files
    if single.exists():
        return [single]
    if sorted(folder.glob("*.bin")) or sorted(folder.glob("*.pth")):
        raise UserError(
            f"{folder} has weights as pickles (.bin, .pth), which can run any code when loaded; "
            "use a folder with safetensors, or make one with transformers: "
            "AutoModelForCausalLM.from_pretrained(FOLDER).save_pretrained(NEW_FOLDER)."
        )
    raise UserError(f"{folder} has neither {_SINGLE} nor {INDEX}; check the path.")


def _file_names(places: Any) -> set[str]:
    """Returns the file names in an index's `weight_map`; empty if it is not valid."""
    names = list(places.values()) if isinstance(places, dict) else []
    if not all(isinstance(name, str) and name.endswith(".safetensors") for name in names):
        return set()
    return set(names)


def _read_header(file: Path) -> Iterator[_Stored]:
    """Yields the tensors in a file's header.

    Source: the format description at https://github.com/huggingface/safetensors.
    """
    try:
        with safe_open(file, framework="np"):
            pass  # validates the header and the file's length
    except (SafetensorError, OSError) as error:
        raise UserError(
            f"{file} is truncated or not a safetensors file ({error}); download it again."
        ) from None
    with open_input(file, "rb") as opened:
        size = int.from_bytes(opened.read(8), "little")
        header = json.loads(opened.read(size))
    for name, entry in header.items():
        if name != "__metadata__":
            offset = 8 + size + entry["data_offsets"][0]
            yield _Stored(name, file, tuple(entry["shape"]), entry["dtype"], offset)
