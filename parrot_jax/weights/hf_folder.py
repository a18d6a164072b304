"""A LLaMA as Hugging Face keeps it: `config.json` and safetensors, read a slice at a time."""

import json
import math
import mmap
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
from jaxtyping import Shaped
from safetensors import SafetensorError, safe_open

from parrot_jax.core.errors import UserError
from parrot_jax.core.files import open_input
from parrot_jax.model.config import LlamaConfig
from parrot_jax.model.frequencies import frequencies
from parrot_jax.weights.dtypes import SAFETENSORS_NAMES
from parrot_jax.weights.names import Tensor, tensors

DTYPES: dict[str, np.dtype[Any]] = {
    "float32": np.dtype(np.float32),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float16": np.dtype(np.float16),
}
"""numpy's types by their names."""

INDEX = "model.safetensors.index.json"
_SINGLE = "model.safetensors"
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
    """

    def __init__(self, path: Path | str) -> None:
        """Checks that exactly the tensors of its `config.json` are there.

        Raises:
          UserError: A file is missing, cut off or no safetensors, or a tensor is missing, unknown
            or of another shape or type; the text lists all of them.
        """
        self.path = Path(path)
        self.config = LlamaConfig.from_hf(self.path / "config.json")
        self.tensors = tensors(self.config)
        stored = [stored for file in _files(self.path) for stored in _read_header(file)]
        self._stored = {each.name: each for each in stored}
        self._check(Counter(each.name for each in stored))

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
        unknown = [f"{name} is unknown" for name in sorted(shapes.keys() - wanted.keys() - derived)]
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
        twice = [f"{name} is in {count} files" for name, count in counts.items() if count > 1]
        problems = missing + unknown + misshaped + mistyped + twice
        if problems:
            raise UserError(
                f"the tensors in {self.path} are not those that its config.json describes: "
                f"{'; '.join(problems)}."
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


def _files(folder: Path) -> list[Path]:
    """The safetensors files of a folder, all of which are there."""
    if (folder / INDEX).exists():
        with open_input(folder / INDEX) as file:
            try:
                names = sorted(set(json.load(file)["weight_map"].values()))
            except (ValueError, KeyError, AttributeError, TypeError) as error:
                raise UserError(
                    f"{folder / INDEX} is no index of safetensors files: {error!r}."
                ) from None
        absent = [name for name in names if not (folder / name).is_file()]
        if absent:
            raise UserError(
                f"{folder / INDEX} names {len(absent)} files that are not there: "
                f"{', '.join(absent)}; download them again."
            )
        return [folder / name for name in names]
    if (folder / _SINGLE).exists():
        return [folder / _SINGLE]
    if sorted(folder.glob("*.bin")) or sorted(folder.glob("*.pth")):
        raise UserError(
            f"{folder} holds weights as pickles (.bin, .pth), which can run any code when they are "
            "read; take a folder with safetensors, or make one with transformers: "
            "AutoModelForCausalLM.from_pretrained(FOLDER).save_pretrained(NEW_FOLDER)."
        )
    raise UserError(f"{folder} holds no {_SINGLE} and no {INDEX}; check the path.")


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
