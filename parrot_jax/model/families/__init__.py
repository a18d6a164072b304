"""Model families by name. A family has a layer, tensor names and limits. Loads no jax.

A new family is a folder like `llama/` and an entry in `FAMILIES`. If its layer differs from
LLaMA's, as that of `qwen2/`, it needs:

- `layer.py`: a `blocks.DecoderLayer` that creates and uses the new weights, with logical axes of
  `sharding.RULES`.
- `layer_tensors`: a row for each new tensor, so that checkpoints and conversions include it.
- `allowed` and `hf_values`: the values of `config.json` that it supports and exports.
- `sliding_window`, if its attention can have one.
- For new settings of the mathematics: a field of `ModelConfig`, read and written by `hf_config.py`.
  All families share the embedding, the final norm, the head, and the attention between the two
  methods of a layer.
- No row in `refused.py`.
- If the tokenizer is not SentencePiece's: a file in `data/tokenizers`.

`tests/test_extending.py` has an example.
"""

import math
from collections.abc import Iterator

from parrot_jax.core.errors import UserError
from parrot_jax.model.families.family import Family, TensorNames
from parrot_jax.model.families.llama import LLAMA
from parrot_jax.model.families.mistral import MISTRAL
from parrot_jax.model.families.olmo2 import OLMO2
from parrot_jax.model.families.qwen2 import QWEN2
from parrot_jax.model.families.qwen3 import QWEN3
from parrot_jax.model.model_config import ModelConfig

FAMILIES: dict[str, Family] = {
    family.name: family for family in (LLAMA, MISTRAL, OLMO2, QWEN2, QWEN3)
}
"""Families by `ModelConfig.family`."""

_FIRST: tuple[TensorNames, ...] = (("embed", "model.embed_tokens.weight", "V D", "V D"),)
_LAST: tuple[TensorNames, ...] = (
    ("norm", "model.norm.weight", "D", "D"),
    ("lm_head", "lm_head.weight", "V D", "D V"),
)


def family_of(config: ModelConfig) -> Family:
    """Returns the family of a model.

    Raises:
      UserError: The family is unknown, or the model has a sliding window and its family has none.
    """
    if config.family not in FAMILIES:
        raise UserError(f"model.family is {config.family!r}; it must be {', '.join(FAMILIES)}.")
    family = FAMILIES[config.family]
    if config.sliding_window is not None and family.sliding_window == "no":
        able = [name for name, each in FAMILIES.items() if each.sliding_window != "no"]
        raise UserError(
            f"model.sliding_window is {config.sliding_window}, but the family {family.name} has no "
            f"sliding window; set it to null, or model.family to {', '.join(able)}."
        )
    return family


def tensor_names(config: ModelConfig) -> Iterator[TensorNames]:
    """Yields all tensors of a model in the order in which a forward pass reads them.

    Our names number the layers with at least two digits, so that they sort.
    """
    yield from _FIRST
    for layer in range(config.num_hidden_layers):
        for ours, theirs, their_dims, our_dims in family_of(config).layer_tensors:
            names = f"layers.{layer:02d}.{ours}", f"model.layers.{layer}.{theirs}"
            yield (*names, their_dims, our_dims)
    yield from _LAST[: 1 if config.tie_word_embeddings else 2]


def num_parameters(config: ModelConfig) -> int:
    """Returns the number of weights, including embedding and head.

    >>> num_parameters(ModelConfig())  # LLaMA-2 7B
    6738415616
    """
    return sum(
        math.prod(config.sizes[letter] for letter in our_dims.split())
        for *_, our_dims in tensor_names(config)
    )
