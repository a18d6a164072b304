"""What a model family is: its layer, the names of its tensors, and what it does not support."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

TensorNames = tuple[str, str, str, str]
"""Our name, Hugging Face's name, their dims, our dims. Dims are letters of `ModelConfig.sizes`;
letters without a space between them are joined to one dim."""


@dataclass(frozen=True, kw_only=True)
class Family:
    """Decoders that differ in sizes alone. Embedding, final norm and head are common to all."""

    name: str
    """`model_type` of a `config.json`."""
    architecture: str
    """The class of transformers that loads it."""
    layer: Callable[[], type[Any]]
    """Gives the class of its layers, a `blocks.DecoderLayer`. A function, so that the family is
    known without jax."""
    layer_tensors: Sequence[TensorNames]
    """The tensors of a layer, in the order in which a forward pass reads them. The names follow
    `layers.7.` on our side and `model.layers.7.` on theirs."""
    allowed: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    """Keys of a `config.json` and the values they may have; the first is named in errors. Any other
    value is refused. None = the key may be absent."""
    hf_values: Mapping[str, Any] = field(default_factory=dict)
    """Keys with fixed values in the `config.json` that is written."""
