"""Settings of LoRA adapters, and the weights they are added to. Loads no jax."""

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from parrot_jax.core.errors import UserError
from parrot_jax.model.families import family_of
from parrot_jax.model.model_config import ModelConfig

_LARGEST_RANK = 10**4


@dataclass(frozen=True, kw_only=True)
class LoraConfig:
    """Low-rank adapters of the layers' linear modules; all other weights are frozen.

    A module computes x W + (alpha / rank) dropout(x) A B (arXiv:2106.09685).

    Raises:
      UserError: A number is out of its range.
    """

    rank: int = 16
    """Columns of A and rows of B, r."""

    alpha: float = 32.0
    """The product of the adapter is multiplied by alpha / rank."""

    targets: tuple[str, ...] | None = None
    """The modules with an adapter, by Hugging Face's names: `q_proj`, `k_proj`, `v_proj`, `o_proj`,
    `gate_proj`, `up_proj`, `down_proj`. Null = all."""

    dropout: float = 0.0
    """Share of the adapters' inputs that is dropped in training, in [0, 1)."""

    base_dtype: Literal["float32", "bfloat16", "int8", "nf4"] = "bfloat16"
    """Type of the frozen weights in memory. With `int8` and `nf4` (4 bits), the weights with an
    adapter are quantised in blocks of 64, all others are bfloat16; needs the extra `qlora`.
    `param_dtype` is the type of the adapters."""

    def __post_init__(self) -> None:
        if type(self.rank) is not int or not 1 <= self.rank <= _LARGEST_RANK:
            raise UserError(
                f"lora.rank is {self.rank!r}; it must be a whole number from 1 to "
                f"{_LARGEST_RANK:,}."
            )
        if not (_is_number(self.alpha) and 0 < self.alpha <= sys.float_info.max):
            raise UserError(f"lora.alpha is {self.alpha!r}; it must be finite and above 0.")
        if not (_is_number(self.dropout) and 0 <= self.dropout < 1):
            raise UserError(f"lora.dropout is {self.dropout!r}; it must be in [0, 1).")

    @property
    def scale(self) -> float:
        """The factor of the adapters' products."""
        return self.alpha / self.rank

    @property
    def is_quantized(self) -> bool:
        """Whether the weights with an adapter are quantised."""
        return self.base_dtype in ("int8", "nf4")

    @property
    def read_dtype(self) -> str:
        """Float type in which the frozen weights are read, before some of them are quantised."""
        return "bfloat16" if self.is_quantized else self.base_dtype


class Target(NamedTuple):
    """A weight with an adapter; dims are letters of `ModelConfig.sizes`."""

    path: tuple[str, ...]
    """Our name in a layer, e.g. `("attention", "q")`."""
    module: str
    """Hugging Face's name in a layer, e.g. `self_attn.q_proj`."""
    dims: tuple[str, ...]
    """Of the weight."""
    in_dims: tuple[str, ...]
    out_dims: tuple[str, ...]


def targets_of(config: ModelConfig, lora: LoraConfig) -> list[Target]:
    """Lists the weights of a layer that have an adapter, in the order of the family's table.

    >>> [target.path[-1] for target in targets_of(ModelConfig(), LoraConfig())]
    ['q', 'k', 'v', 'o', 'gate', 'up', 'down']

    Raises:
      UserError: `lora.targets` has an unknown module, one twice, or none.
    """
    found = _linear_modules(config)
    if lora.targets is None:
        return found
    names = [target.module.split(".")[-1] for target in found]
    unknown = [name for name in lora.targets if name not in names]
    if unknown or not lora.targets or len(set(lora.targets)) < len(lora.targets):
        fault = ""
        if unknown:
            fault = f", but {', '.join(map(repr, unknown))} cannot have an adapter"
        raise UserError(
            f"lora.targets is {list(lora.targets)}{fault}; list one or more of {', '.join(names)}, "
            "each once, or set it to null for all."
        )
    return [target for target, name in zip(found, names, strict=True) if name in lora.targets]


def _linear_modules(config: ModelConfig) -> list[Target]:
    """The matrices of the family; Hugging Face has the dims of the output first."""
    found = []
    for ours, theirs, their_dims, our_dims in family_of(config).layer_tensors:
        if len(their_dims.split()) == 2 and theirs.endswith(".weight"):
            dims = tuple(our_dims.split())
            outs, ins = their_dims.split()
            found.append(
                Target(
                    tuple(ours.split(".")),
                    theirs.removesuffix(".weight"),
                    dims,
                    tuple(dim for dim in dims if dim in ins),
                    tuple(dim for dim in dims if dim in outs),
                )
            )
    return found


def num_adapter_parameters(config: ModelConfig, lora: LoraConfig) -> int:
    """Returns the number of trained weights.

    >>> num_adapter_parameters(ModelConfig(), LoraConfig(rank=8))  # LLaMA-2 7B
    19988480
    """

    def width(dims: Sequence[str]) -> int:
        return math.prod(config.sizes[dim] for dim in dims)

    per_layer = sum(width(one.in_dims) + width(one.out_dims) for one in targets_of(config, lora))
    return config.num_hidden_layers * lora.rank * per_layer


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
