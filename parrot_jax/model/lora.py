"""LoRA adapters: their arrays, their product, and merging them into the weights.

They are a tree beside the frozen weights, `params["lora"]`, with the layers stacked:

    lora: layers: attention: q: a [L, D, r]     b [L, r, N, H]
                             o: a [L, N, H, r]  b [L, r, D]
                  mlp:       up: a [L, D, r]    b [L, r, F]

and so on for every target. Training never adds A B to the weights: the gradient of the sum would
cost as much as training all of them.
"""

import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, PRNGKeyArray

from parrot_jax.model.einsum import einsum
from parrot_jax.model.lora_config import LoraConfig, Target, targets_of
from parrot_jax.model.model_config import ModelConfig
from parrot_jax.model.quantized import product

LORA = "lora"
"""The key of the adapters in a tree of parameters."""

_RANK = "r"
"""The letter of the rank in equations; dims are capital letters."""


class Dropout(NamedTuple):
    """Dropout of the adapters' inputs in one pass through the model."""

    rate: float
    key: PRNGKeyArray
    """Each layer and target gets a key of its own from it."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Adapted:
    """A weight of one layer with its adapter; `blocks.linear` takes it in place of the weight."""

    weight: Any
    """An array, or quantised; see `quantized.py`."""
    a: Array
    b: Array
    """B, times alpha / rank."""
    key: PRNGKeyArray | None
    """Of the dropout; None = no dropout."""
    dropout: float = field(default=0.0, metadata={"static": True})

    def apply(self, equation: str, x: Array) -> Array:
        """X W + dropout(x) A B, in the dtype of `x`.

        Args:
          equation: Of x and W, e.g. `BTD,DNH->BTNH`.
          x: Activations.
        """
        operands, out_dims = equation.split("->")
        x_dims, dims = operands.split(",")
        in_dims = "".join(dim for dim in dims if dim in x_dims)
        rows = "".join(dim for dim in x_dims if dim not in in_dims)
        inputs = x if self.key is None else dropped(x, self.key, self.dropout)
        low: Array = einsum(
            f"{x_dims},{in_dims}{_RANK}->{rows}{_RANK}", inputs, self.a.astype(x.dtype)
        )
        up_dims = "".join(dim for dim in dims if dim not in in_dims)
        up: Array = einsum(
            f"{rows}{_RANK},{_RANK}{up_dims}->{out_dims}", low, self.b.astype(x.dtype)
        )
        return product(equation, x, self.weight) + up


def dropped(x: Array, key: PRNGKeyArray, rate: float) -> Array:
    """Sets a random share of the elements to 0 and scales the others by 1 / (1 - rate)."""
    kept = jax.random.bernoulli(key, 1 - rate, x.shape)
    return jnp.where(kept, x / (1 - rate), jnp.zeros((), x.dtype))


def without_products_over(
    rank: int, policy: Callable[..., bool] | None
) -> Callable[..., bool] | None:
    """Narrows a remat policy: products over the rank, (x A) B, are never kept.

    They are as large as x W, with which they are summed, and cost next to nothing to repeat.
    """
    if policy is None:
        return None

    def narrowed(primitive: Any, *avals: Any, **params: Any) -> bool:
        if primitive is jax.lax.dot_general_p:
            (contracted, _), _ = params["dimension_numbers"]
            if [avals[0].shape[dim] for dim in contracted] == [rank]:
                return False
        return policy(primitive, *avals, **params)

    return narrowed


# ---- arrays -------------------------------------------------------------------------------------


def _tree(targets: list[Target], leaf: Callable[[int, Target], Any]) -> dict[str, Any]:
    """Builds the tree of adapters from a function of a target and its number."""
    layers: dict[str, Any] = {}
    for number, target in enumerate(targets):
        place = layers
        for name in target.path[:-1]:
            place = place.setdefault(name, {})
        place[target.path[-1]] = leaf(number, target)
    return {"layers": layers}


def abstract_adapters(config: ModelConfig, lora: LoraConfig) -> dict[str, Any]:
    """Returns the adapters' shapes, as float32.

    Raises:
      UserError: As in `targets_of`.
    """

    def shape(*dims: str) -> jax.ShapeDtypeStruct:
        sizes = config.sizes | {_RANK: lora.rank}
        return jax.ShapeDtypeStruct(tuple(sizes[dim] for dim in ("L", *dims)), jnp.float32)

    return _tree(
        targets_of(config, lora),
        lambda _, target: {
            "a": shape(*target.in_dims, _RANK), "b": shape(_RANK, *target.out_dims)
        },
    )  # fmt: skip


def adapter_axes(config: ModelConfig, lora: LoraConfig, weight_axes: Any) -> dict[str, Any]:
    """Returns the adapters' logical axes: each dim has that of the weight, the rank has none.

    Args:
      config: The sizes.
      lora: The adapters.
      weight_axes: Logical axes of all weights, from `decoder.logical_axes`.
    """

    def axes(_: int, target: Target) -> dict[str, tuple[str, ...]]:
        layers, *of_dims = _at(weight_axes["layers"], target.path)
        axis = dict(zip(target.dims, of_dims, strict=True))
        return {
            "a": (layers, *(axis[dim] for dim in target.in_dims), "rank"),
            "b": (layers, "rank", *(axis[dim] for dim in target.out_dims)),
        }

    return _tree(targets_of(config, lora), axes)


def init_adapters(
    config: ModelConfig,
    lora: LoraConfig,
    seed: int,
    shardings: Any = None,
    *,
    dtype: DTypeLike = "float32",
) -> dict[str, Any]:
    """Makes new adapters: A uniform in ±1 / sqrt(width of the input), as in peft; B zero.

    The values are the same on every mesh.

    Args:
      config: The sizes.
      lora: The adapters.
      seed: The random seed.
      shardings: Of each array; None = all on the default device.
      dtype: Of all arrays; the values are drawn in float32 and rounded.
    """
    shapes = abstract_adapters(config, lora)["layers"]

    def make(key: Array) -> dict[str, Any]:
        def leaf(number: int, target: Target) -> dict[str, Array]:
            like = _at(shapes, target.path)
            bound = 1 / math.sqrt(math.prod(config.sizes[dim] for dim in target.in_dims))
            random = jax.random.uniform(
                jax.random.fold_in(key, number), like["a"].shape, minval=-bound, maxval=bound
            )
            return {"a": random.astype(dtype), "b": jnp.zeros(like["b"].shape, dtype)}

        return _tree(targets_of(config, lora), leaf)

    return jax.jit(make, out_shardings=shardings)(jax.random.key(seed))


def scaled(params: Mapping[str, Any], lora: LoraConfig | None) -> dict[str, Any]:
    """Multiplies every B by alpha / rank, as the model wants it; other weights stay.

    Without `lora`, or for parameters without adapters, returns the parameters.
    """
    if lora is None or LORA not in params:
        return dict(params)

    def times(path: tuple[Any, ...], leaf: Array) -> Array:
        return leaf.astype(jnp.float32) * lora.scale if path[-1].key == "b" else leaf

    return {**params, LORA: jax.tree_util.tree_map_with_path(times, params[LORA])}


def with_adapters(
    layer: Mapping[str, Any], adapters: Mapping[str, Any], key: PRNGKeyArray | None, rate: float
) -> dict[str, Any]:
    """Replaces the weights of a layer that have adapters by `Adapted` ones.

    Args:
      layer: The weights of one layer.
      adapters: Its adapters, with scaled B.
      key: Of this layer's dropout; None = no dropout.
      rate: Of the dropout.
    """
    numbers = itertools.count()

    def visit(weights: Mapping[str, Any], of: Mapping[str, Any]) -> dict[str, Any]:
        found = dict(weights)
        for name, inner in sorted(of.items()):
            if inner.keys() == {"a", "b"}:
                mine = None if key is None else jax.random.fold_in(key, next(numbers))
                found[name] = Adapted(weights[name], inner["a"], inner["b"], mine, rate)
            else:
                found[name] = visit(weights[name], inner)
        return found

    return visit(layer, adapters)


def merged(target: Target, weight: Array, a: Array, b: Array, scale: float) -> Array:
    """Adds an adapter to its weight, in float32; one layer, or all layers stacked.

    Args:
      target: The weight's dims.
      weight: W.
      a: A.
      b: B, not scaled.
      scale: alpha / rank.
    """
    ins, outs, dims = ("".join(part) for part in (target.in_dims, target.out_dims, target.dims))
    added = jnp.einsum(
        f"...{ins}{_RANK},...{_RANK}{outs}->...{dims}",
        a.astype(jnp.float32),
        b.astype(jnp.float32),
        precision=jax.lax.Precision.HIGHEST,
    )
    return weight.astype(jnp.float32) + scale * added


def rank_of(adapters: Mapping[str, Any]) -> int:
    """Returns the rank of adapters: the last dim of any A, which sorts first."""
    return jax.tree.leaves(adapters)[0].shape[-1]


def _at(tree: Any, path: tuple[str, ...]) -> Any:
    for name in path:
        tree = tree[name]
    return tree
