"""Our tensors and those of a Hugging Face folder: the table of a family, read both ways.

Every tensor is there once on either side. What differs is its name, the order of its dims, and that
we keep the heads apart (`D N H`) where Hugging Face joins them with their width (`NH D`).
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Shaped

from parrot_jax.model.families import tensor_names
from parrot_jax.model.model_config import ModelConfig

_BAND = 256
"""Rows that are transposed at a time: they stay in the cache."""

_CACHE_LINE = 64
"""Bytes. jax takes an array on the host as it is where it begins at a multiple of these."""


class Tensor(NamedTuple):
    """One tensor under both its names and in both its shapes."""

    ours: str
    """Name in a checkpoint, e.g. `layers.07.attention.q`."""
    theirs: str
    """Name in a Hugging Face folder."""
    our_shape: tuple[int, ...]
    their_shape: tuple[int, ...]
    split_shape: tuple[int, ...]
    """Theirs with the joined dims apart."""
    order: tuple[int, ...]
    """For each of our dims, which of `split_shape` it is."""
    whole_dim: int | None
    """Which of our dims is the width of a head, which is never cut."""

    def to_ours(self, theirs: Shaped[np.ndarray, "..."]) -> Shaped[np.ndarray, "..."]:
        """Their array in our order of dims, contiguous."""
        return _turned(theirs.reshape(self.split_shape), self.order)

    def to_theirs(self, ours: Shaped[np.ndarray, "..."]) -> Shaped[np.ndarray, "..."]:
        """Our array in their order of dims, contiguous."""
        order = tuple(int(dim) for dim in np.argsort(self.order))
        return _turned(ours, order).reshape(self.their_shape)

    def their_slice(self, index: Sequence[slice]) -> tuple[slice, ...]:
        """Which part of their array holds a part of ours.

        Args:
          index: One slice with step 1 for each of our dims; the width of heads is never cut.

        Returns:
          One slice for each of their dims; what is read there has the part's elements and, seen
          through `part`, its order.
        """
        bounds = {dim: index[at].indices(self.our_shape[at])[:2] for at, dim in
                  enumerate(self.order)}  # fmt: skip
        slices, dim = [], 0
        for size in self.their_shape:
            first, last = bounds[dim]
            width, dim = self.split_shape[dim], dim + 1
            if width != size:  # the heads, joined with the width of one
                head = self.split_shape[dim]
                if bounds[dim] != (0, head):
                    raise ValueError(f"{self.ours}: the head dim is split at {bounds[dim]}")
                first, last, dim = first * head, last * head, dim + 1
            slices.append(slice(first, last))
        return tuple(slices)

    def part(self, index: Sequence[slice]) -> "Tensor":
        """The tensor as if there were only this part of it; `index` is that of `their_slice`."""
        our_shape = tuple(
            len(range(*cut.indices(size))) for cut, size in zip(index, self.our_shape, strict=True)
        )
        split = [0] * len(our_shape)
        for at, dim in enumerate(self.order):
            split[dim] = our_shape[at]
        theirs = tuple(cut.stop - cut.start for cut in self.their_slice(index))
        return self._replace(our_shape=our_shape, their_shape=theirs, split_shape=tuple(split))


def tensors(config: ModelConfig) -> list[Tensor]:
    """All tensors of a model, layer by layer, in the order in which a forward pass reads them.

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
    """How a layer is written in the names of a checkpoint."""
    return f"{layer:02d}"


def _shapes(
    their_dims: Sequence[str], our_dims: Sequence[str], sizes: dict[str, int]
) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], tuple[int, ...], int | None]:
    """All of a `Tensor` but its names, from a row of the table."""
    split = "".join(their_dims)
    return (
        tuple(sizes[letter] for letter in our_dims),
        tuple(math.prod(sizes[letter] for letter in joined) for joined in their_dims),
        tuple(sizes[letter] for letter in split),
        tuple(split.index(letter) for letter in our_dims),
        our_dims.index("H") if "H" in our_dims else None,
    )


def _turned(array: Shaped[np.ndarray, "..."], order: Sequence[int]) -> Any:
    """`array.transpose(order)`, contiguous; `order` is a rotation, as all of the table are.

    That makes it one matrix transposed, whatever its dims. numpy alone would read it column by
    column, one element of each line of the cache: five times slower than band by band. Each band is
    copied first, to rows one line longer: rows of 2**n bytes would all want the same few lines.
    """
    cut = order[0]
    if tuple(order) != (*range(cut, array.ndim), *range(cut)):
        raise ValueError(f"{tuple(order)} is not a rotation of the dims")
    if cut == 0:
        return np.ascontiguousarray(array)
    rows, columns = math.prod(array.shape[:cut]), math.prod(array.shape[cut:])
    # What moves is bytes: numpy's own loops are slow for bfloat16.
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
