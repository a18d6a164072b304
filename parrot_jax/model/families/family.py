"""A model family: its layer, the names of its tensors, and the config values it supports."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

TensorNames = tuple[str, str, str, str]
"""Our name, Hugging Face's name, their dims, our dims. Dims are letters of `ModelConfig.sizes`;
letters without a space between them are merged into one dim."""


@dataclass(frozen=True, kw_only=True)
class Family:
    """Decoders that differ only in sizes. All families share embedding, final norm and head."""

    name: str
    """`model_type` of a `config.json`."""
    architecture: str
    """The class of transformers that loads it."""
    layer: Callable[[], type[Any]]
    """Returns the class of its layers, a `blocks.DecoderLayer`. A function, so that importing the
    family does not load jax."""
    layer_tensors: Sequence[TensorNames]
    """The tensors of a layer, in the order in which a forward pass reads them. Our names are
    prefixed with e.g. `layers.07.`, Hugging Face's with `model.layers.7.`."""
    allowed: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    """Keys of a `config.json` and their supported values; the first is named in errors. Any other
    value is rejected. None = the key may be absent."""
    sliding_window: Literal["no", "yes", "switched"] = "no"
    """Whether its layers may have a sliding window. `switched`: only if the `config.json` has
    `use_sliding_window`, and in the layers from `max_window_layers` on."""
    hf_values: Mapping[str, Any] = field(default_factory=dict)
    """Keys with fixed values in an exported `config.json`."""
