"""A LLaMA as Hugging Face keeps it: `config.json` and safetensors, read a slice at a time."""

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
"""numpy's types by their names."""

INDEX = "model.safetensors.index.json"
_SINGLE = "model.safetensors"
_MAX_CONFIG_BYTES = 10**7
_MAX_SHOWN = 20
"""Tensors that an error names."""

_EXPONENTS = {"float32": 0x7F800000, "bfloat16": 0x7F80, "float16": 0x7C00}
"""The bits that all are set in NaN and infinity."""

_AT_ONCE = 2**24
"""Numbers that are checked at a time."""

_DTYPE_OF = {name: dtype for dtype, name in SAFETENSORS_NAMES.items()}


class _Stored(NamedTuple):
    """One tensor in a file."""

    name: str
    file: Path
    shape: tuple[int, ...]
    dtype: str
    """As safetensors writes it, e.g. BF16."""
    offset: int
    """Bytes from the beginning of the file."""


class HfFolder:
    """The weights of one folder; nothing but headers is read until `read` is called.

    Attributes:
      path: The folder.
      config: The sizes.
      tensors: All tensors of these sizes.
      bos_token_id: From its config; None = not set.
      eos_token_id: From its config; empty = not set.
    """

    def __init__(self, path: Path | str) -> None:
        """Checks that exactly the tensors of its `config.json` are there.

        Raises:
          UserError: A file is missing, cut off or no safetensors, or a tensor is missing, unknown
            or of another shape or type; the text lists all of them.
        """
        self.path = Path(path)
        self.config = _read_config(file_in(self.path, "config.json"))
        self.bos_token_id, self.eos_token_id = _special_ids(self.path)
        self.tensors = tensors(self.config)
        stored = [stored for file in _files(self.path) for stored in _read_header(file)]
        self._stored = {each.name: each for each in stored}
        self._check(Counter(each.name for each in stored))

    def check_files(self) -> None:
        """Compares the bytes of the files with what is known of them; reads them all.

        An export of ours has the hashes of its weights, config and tokenizer in its record, and the
        cache of the hub names files by theirs. Of other folders nothing is known.

        Raises:
          UserError: A file is not what it was, or the record of the export is damaged.
        """
        known = known_hashes(self.path)
        for file in {stored.file for stored in self._stored.values()}:
            target = file.resolve()
            if target.parent.name == "blobs" and re.fullmatch("[0-9a-f]{64}", target.name):
                known.setdefault(file, target.name)
        with ThreadPoolExecutor(4) as threads:
            for _ in threads.map(check_hash, sorted(known), [known[f] for f in sorted(known)]):
                pass  # raises what a check raises

    def dtype_of(self, tensor: Tensor) -> str:
        """The type that a tensor is stored in, a key of `DTYPES`."""
        return _DTYPE_OF[self._stored[tensor.theirs].dtype]

    def read(
        self, tensor: Tensor, index: Sequence[slice] | None = None
    ) -> Shaped[np.ndarray, "..."]:
        """Reads a tensor, or a part of it, in our order of dims and in the type it is stored in.

        Args:
          tensor: One of `tensors`.
          index: One slice with step 1 for each of our dims; None = the whole. Only the bytes of
            the part are read.
        """
        if index is None:
            index = tuple(slice(0, size) for size in tensor.our_shape)
        part = self._get(tensor.theirs, tensor.their_slice(index))
        return tensor.part(index).to_ours(part)

    def _get(self, name: str, index: tuple[slice, ...]) -> Shaped[np.ndarray, "..."]:
        # Mapped anew for each tensor: what was read counts as memory of this process as long as
        # its map is there, and a file may be larger than all memory. The library would copy.
        stored = self._stored[name]
        with open_input(stored.file, "rb") as file:
            bytes_ = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        dtype = DTYPES[_DTYPE_OF[stored.dtype]]
        values = np.frombuffer(bytes_, dtype, math.prod(stored.shape), stored.offset)
        return values.reshape(stored.shape)[index]

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
            f"{name} has type {self._stored[name].dtype}, not one of {', '.join(_DTYPE_OF)}"
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
                f"the tensors in {self.path} are not those that its config.json describes: "
                f"{'; '.join(problems[:_MAX_SHOWN])}{f'; and {more:,} more' if more > 0 else ''}."
            )

    def _is_derived(self, name: str) -> bool:
        """Whether a tensor says only what the others say: old folders keep such copies."""
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
    """The array in a type; refuses numbers that are NaN or infinite in it.

    Args:
      array: Contiguous.
      dtype: One of `DTYPES`.
      what: What the array is, for the error.
      advice: What to do.

    Raises:
      UserError: There are some; the message has their number.
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
        raise UserError(f"{what}: {bad:,} of {array.size:,} numbers are NaN or infinite; {advice}.")
    return array


def _read_config(path: Path) -> ModelConfig:
    return from_hf(_object(path, read_json(path, max_bytes=_MAX_CONFIG_BYTES)), str(path))


def _object(path: Path, values: Any) -> dict[str, Any]:
    if not isinstance(values, dict):
        raise UserError(f"{path} holds {type(values).__name__}, not an object.")
    return values


def _special_ids(folder: Path) -> tuple[int | None, tuple[int, ...]]:
    """The ids that open and end a text; what generation is told goes before what the model is."""
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
        raise UserError(f"{path}: {ascii(value)[:80]} is not a token id.")
    return tuple(each for each in found if each >= 0)


def _shown(name: str) -> str:
    """The name of a tensor, which may be any text, in an error."""
    return name if name.isprintable() and len(name) <= 100 else f"{ascii(name)[:100]}.."


def _files(folder: Path) -> list[Path]:
    """The safetensors files of a folder, all of which are there."""
    index, single = file_in(folder, INDEX), file_in(folder, _SINGLE)
    if index.exists() and single.exists():
        raise UserError(
            f"{folder} holds {_SINGLE} and {INDEX}: libraries differ in which of them they read; "
            "remove the one that is not meant."
        )
    if index.exists():
        values = read_json(index)
        places = values.get("weight_map") if isinstance(values, dict) else None
        names = _file_names(places)
        if not names:
            raise UserError(
                f"{index} is not an index of safetensors files: it has no `weight_map` from "
                "tensors to "
                "names of files."
            )
        files = [file_in(folder, name) for name in sorted(names)]
        absent = [file.name for file in files if not file.exists()]
        if absent:
            raise UserError(
                f"{index} names {len(absent)} files that are not there: "
                f"{', '.join(map(_shown, absent[:_MAX_SHOWN]))}; download them again."
            )
        return files
    if single.exists():
        return [single]
    if sorted(folder.glob("*.bin")) or sorted(folder.glob("*.pth")):
        raise UserError(
            f"{folder} holds weights as pickles (.bin, .pth), which can run any code when they are "
            "read; take a folder with safetensors, or make one with transformers: "
            "AutoModelForCausalLM.from_pretrained(FOLDER).save_pretrained(NEW_FOLDER)."
        )
    raise UserError(f"{folder} has neither {_SINGLE} nor {INDEX}; check the path.")


def _file_names(places: Any) -> set[str]:
    """The files that an index names; empty if it is not an index."""
    names = list(places.values()) if isinstance(places, dict) else []
    if not all(isinstance(name, str) and name.endswith(".safetensors") for name in names):
        return set()
    return set(names)


def _read_header(file: Path) -> Iterator[_Stored]:
    """What a file holds.

    Source: the format as https://github.com/huggingface/safetensors describes it.
    """
    try:
        with safe_open(file, framework="np"):
            pass  # sees that the header is one, and that the file holds all that it promises
    except (SafetensorError, OSError) as error:
        raise UserError(
            f"{file} is cut off or no safetensors file ({error}); download it again."
        ) from None
    with open_input(file, "rb") as opened:
        size = int.from_bytes(opened.read(8), "little")
        header = json.loads(opened.read(size))
    for name, entry in header.items():
        if name != "__metadata__":
            offset = 8 + size + entry["data_offsets"][0]
            yield _Stored(name, file, tuple(entry["shape"]), entry["dtype"], offset)
