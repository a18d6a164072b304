"""Weights for generation on a CPU: a tuple of layers, whose matrices have their outputs first.

A decode step multiplies a few rows with every weight once, so memory bounds it. Two things that
accelerators do well cost XLA's CPU backend more than the products themselves:

- A loop over stacked layers copies each layer's weights and cache out of their stacks. With a tuple
  of layers, the loop is unrolled, and nothing is copied.
- A product with few rows is up to twice as fast if the weight is the first operand and is read in
  its order, so the weights are transposed once.
"""

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array

from parrot_jax.model.lora_config import LoraConfig, Target, targets_of
from parrot_jax.model.model_config import ModelConfig

_FEW_ROWS = 64
"""With more rows, the activations come first: their result need not be transposed."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class OutputsFirst:
    """A weight of one layer; `blocks.linear` takes it in place of an array."""

    weight: Array
    """Its output dims, then its input dims; e.g. q is [N, H, D]."""

    def apply(self, equation: str, x: Array, dtype: DTypeLike | None = None) -> Array:
        """Returns the product with activations.

        Args:
          equation: Of x and the weight as it was, e.g. `BTD,DNH->BTNH`.
          x: Activations.
          dtype: Of sums and result; None = of `x`.
        """
        operands, result = equation.split("->")
        rows_and_ins, dims = operands.split(",")
        outs = "".join(dim for dim in dims if dim not in rows_and_ins)
        ins = "".join(dim for dim in dims if dim in rows_and_ins)
        rows = "".join(dim for dim in rows_and_ins if dim not in ins)
        weight = self.weight.astype(x.dtype)
        product = functools.partial(jnp.einsum, preferred_element_type=dtype or x.dtype)
        if x.size > _FEW_ROWS * weight[(0,) * len(outs)].size:
            return product(f"{rows_and_ins},{outs}{ins}->{result}", x, weight)
        found = product(f"{outs}{ins},{rows_and_ins}->{outs}{rows}", weight, x)
        return jnp.einsum(f"{outs}{rows}->{result}", found)


def is_layered(params: Mapping[str, Any]) -> bool:
    """Whether the layers are a tuple of trees, not a tree of stacked arrays."""
    return isinstance(params["layers"], tuple)


@functools.partial(jax.jit, static_argnums=(0, 2))
def layered(config: ModelConfig, params: Mapping[str, Any], dtype: DTypeLike) -> dict[str, Any]:
    """Casts the weights and stores them for generation on a CPU; takes as much memory again.

    Args:
      config: The sizes.
      params: The tree of parameters, stacked, without adapters.
      dtype: The compute dtype.

    Returns:
      The tree that `prefill` and `decode` take, too. `lm_head` is there also if it is tied.
    """
    params = jax.tree.map(lambda weight: weight.astype(dtype), params)
    targets = {target.path: target for target in targets_of(config, LoraConfig())}

    def stored(path: tuple[Any, ...], stack: Array) -> Any:
        target = targets.get(tuple(key.key for key in path))
        return stack if target is None else OutputsFirst(_outputs_first(target, stack))

    stacks = jax.tree_util.tree_map_with_path(stored, params["layers"])
    layers = tuple(
        jax.tree.map(lambda stack, index=index: stack[index], stacks)
        for index in range(config.num_hidden_layers)
    )
    head = params["lm_head"].T if "lm_head" in params else params["embed"]
    return {**params, "layers": layers, "lm_head": OutputsFirst(head)}


def _outputs_first(target: Target, stack: Array) -> Array:
    """[L, *dims] to [L, *output dims, *input dims]."""
    order = [target.dims.index(dim) for dim in (*target.out_dims, *target.in_dims)]
    return stack.transpose(0, *(1 + place for place in order))
