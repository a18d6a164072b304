"""Maps our tensors to Hugging Face's and back, from the table of the model family.

Tensors correspond one to one. They differ in name and in the order of dims, and we keep heads and
head width as two dims (`D N H`) where Hugging Face joins them (`NH D`).
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Shaped

from parrot_jax.model.families import tensor_names
from parrot_jax.model.model_config import ModelConfig

_BAND = 256
"""Rows transposed at a time, so that they stay in the CPU cache."""

_CACHE_LINE = 64
"""Bytes. jax uses a host array without a copy if it is aligned to this."""


class Tensor(NamedTuple):
    """One tensor, with both names and both shapes."""

    ours: str
    """Name in a checkpoint, e.g. `layers.07.attention.q`."""
    theirs: str
    """Name in a Hugging Face folder."""
    our_shape: tuple[int, ...]
    their_shape: tuple[int, ...]
    split_shape: tuple[int, ...]
    """Their shape with joined dims split."""
    order: tuple[int, ...]
    """For each of our dims, its index in `split_shape`."""
    whole_dim: int | None
    """Index of the head width in our dims, which is never sliced; None = no such dim."""

    def to_ours(self, theirs: Shaped[np.ndarray, "..."]) -> Shaped[np.ndarray, "..."]:
        """Converts their array to our order of dims, contiguous."""
        return _turned(theirs.reshape(self.split_shape), self.order)

    def to_theirs(self, ours: Shaped[np.ndarray, "..."]) -> Shaped[np.ndarray, "..."]:
        """Converts our array to their order of dims, contiguous."""
        order = tuple(int(dim) for dim in np.argsort(self.order))
        return _turned(ours, order).reshape(self.their_shape)

    def their_slice(self, index: Sequence[slice]) -> tuple[slice, ...]:
        """Returns the slice of their array that holds a slice of ours.

        Args:
          index: One slice with step 1 for each of our dims; the head width must be whole.

        Returns:
          One slice for each of their dims. `part(index).to_ours` converts the result.
        """
        bounds = {dim: index[at].indices(self.our_shape[at])[:2] for at, dim in
                  enumerate(self.order)}  # fmt: skip
        slices, dim = [], 0
        for size in self.their_shape:
            first, last = bounds[dim]
            width, dim = self.split_shape[dim], dim + 1
            if width != size:  # heads joined with the head width
                head = self.split_shape[dim]
                if bounds[dim] != (0, head):
                    raise ValueError(f"{self.ours}: the head dim is split at {bounds[dim]}")
                first, last, dim = first * head, last * head, dim + 1
            slices.append(slice(first, last))
        return tuple(slices)

    def part(self, index: Sequence[slice]) -> "Tensor":
        """Returns the tensor with the shapes of a slice; `index` is as in `their_slice`."""
        our_shape = tuple(
            len(range(*cut.indices(size))) for cut, size in zip(index, self.our_shape, strict=True)
        )
        split = [0] * len(our_shape)
        for at, dim in enumerate(self.order):
            split[dim] = our_shape[at]
        theirs = tuple(cut.stop - cut.start for cut in self.their_slice(index))
        return self._replace(our_shape=our_shape, their_shape=theirs, split_shape=tuple(split))


def tensors(config: ModelConfig) -> list[Tensor]:
    """Lists all tensors of a model in the order in which the forward pass uses them.

    >>> tiny = ModelConfig(vocab_size=7, hidden_size=8, intermediate_size=3, num_hidden_layers=1,
    ...                    num_attention_heads=4, num_key_value_heads=2)
    >>> q = tensors(tiny)[2]
    >>> q.ours, q.our_shape, q.theirs, q.their_shape
    ('layers.00.attention.q', (8, 4, 2), 'model.layers.0.self_attn.q_proj.weight', (8, 8))
    """
    return [
        Tensor(ours, theirs, *_shapes(their_dims.split(), our_dims.split(), config.sizes))
        for ours, theirs, their_dims, our_dims in tensor_names(config)
    ]


def layer_key(layer: int) -> str:
    """Formats a layer's index for names in a checkpoint."""
    return f"{layer:02d}"


def layer_of(name: str) -> tuple[tuple[str, ...], int | None]:
    """Splits a name in a checkpoint into its keys without the layer, and the layer.

    >>> layer_of("layers.07.attention.q"), layer_of("norm")
    ((('layers', 'attention', 'q'), 7), (('norm',), None))
    """
    keys = name.split(".")
    if "layers" not in keys:
        return tuple(keys), None
    at = keys.index("layers") + 1
    return (*keys[:at], *keys[at + 1 :]), int(keys[at])


def disk_name(keys: Sequence[str], layer: int) -> str:
    """Joins keys and a layer to a name in a checkpoint; the inverse of `layer_of`.

    >>> disk_name(["lora", "layers", "attention", "q", "a"], 7)
    'lora.layers.07.attention.q.a'
    """
    at = list(keys).index("layers") + 1
    return ".".join([*keys[:at], layer_key(layer), *keys[at:]])


def _shapes(
    their_dims: Sequence[str], our_dims: Sequence[str], sizes: dict[str, int]
) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], tuple[int, ...], int | None]:
    """Returns the fields of a `Tensor` after its names, from a row of the table."""
    split = "".join(their_dims)
    return (
        tuple(sizes[letter] for letter in our_dims),
        tuple(math.prod(sizes[letter] for letter in joined) for joined in their_dims),
        tuple(sizes[letter] for letter in split),
        tuple(split.index(letter) for letter in our_dims),
        our_dims.index("H") if "H" in our_dims else None,
    )


def _turned(array: Shaped[np.ndarray, "..."], order: Sequence[int]) -> Any:
    """Returns `array.transpose(order)`, contiguous; `order` must be a rotation.

    A rotation of dims is a matrix transpose. numpy reads the matrix column by column, one element
    per cache line, which is five times slower than transposing a band of rows at a time. Each band
    is first copied to rows that are one cache line longer: rows of 2**n bytes would all map to the
    same few cache sets.
    """
    cut = order[0]
    if tuple(order) != (*range(cut, array.ndim), *range(cut)):
        raise ValueError(f"{tuple(order)} is not a rotation of the dims")
    if cut == 0:
        return np.ascontiguousarray(array)
    rows, columns = math.prod(array.shape[:cut]), math.prod(array.shape[cut:])
    # View as unsigned integers: numpy copies bfloat16 slowly.
    bits = array.reshape(rows, columns).view(f"u{array.itemsize}")
    out = _empty_aligned(rows * columns, bits.dtype).reshape(columns, rows)
    band = np.empty((_BAND, columns + _CACHE_LINE // bits.itemsize), bits.dtype)[:, :columns]
    for first in range(0, rows, _BAND):
        part = band[: min(_BAND, rows - first)]
        part[:] = bits[first : first + _BAND]
        out[:, first : first + _BAND] = part.T
    return out.view(array.dtype).reshape([array.shape[dim] for dim in order])


def _empty_aligned(size: int, dtype: np.dtype[Any]) -> Shaped[np.ndarray, " size"]:
    raw = np.empty(size * dtype.itemsize + _CACHE_LINE, np.uint8)
    first = -raw.ctypes.data % _CACHE_LINE
    return raw[first : first + size * dtype.itemsize].view(dtype)
