"""Frozen weights in 4 or 8 bits under adapters (QLoRA, arXiv:2305.14314), with the library qwix.

A quantised weight is a `qwix.QArray`: whole numbers in its shape, and scales. The last input dim of
each matrix is split into blocks, and each block of each output has a scale, from its largest
absolute value. `int8` spaces the values evenly, `nf4` has 16 values that suit normal distributions.

    down [L, F, D]   qvalue [L, F, D]   scale [L, F / 64, D] float32
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array

from parrot_jax.core.errors import UserError
from parrot_jax.model.einsum import einsum
from parrot_jax.model.layered import OutputsFirst
from parrot_jax.model.lora_config import LoraConfig, targets_of
from parrot_jax.model.model_config import ModelConfig

LARGEST_BLOCK = 64
"""Most weights that share a scale, as in the paper."""


def load_qwix() -> Any:
    """Imports qwix, an optional dependency.

    Raises:
      UserError: It is not installed.
    """
    try:
        import qwix  # pyright: ignore[reportMissingImports] - an extra
    except ImportError as error:
        raise UserError(
            f"lora.base_dtype int8 and nf4 need the package qwix ({error}): "
            "`pip install 'parrot-jax[qlora]'`."
        ) from None
    return qwix


def is_quantized(weight: Any) -> bool:
    """Whether a weight is a `QArray`; never loads qwix."""
    return hasattr(weight, "qvalue")


def block_size(dim: int) -> int:
    """Returns the weights in a block: 64, or the largest divisor of the dim below it.

    >>> [block_size(dim) for dim in (13824, 96, 32)]
    [64, 48, 32]
    """
    return next(size for size in range(LARGEST_BLOCK, 0, -1) if dim % size == 0)


def block_dims(config: ModelConfig, lora: LoraConfig) -> dict[tuple[str, ...], int]:
    """Returns which weights are quantised, by path, and which of their dims is split into blocks.

    >>> block_dims(ModelConfig(), LoraConfig(base_dtype="nf4", targets=("q_proj", "o_proj")))
    {('layers', 'attention', 'q'): 1, ('layers', 'attention', 'o'): 2}
    >>> block_dims(ModelConfig(), LoraConfig(base_dtype="bfloat16"))
    {}

    Raises:
      UserError: As in `targets_of`.
    """
    if not lora.is_quantized:
        return {}
    # The first dim is that of the stacked layers. The heads of `o` and their widths are one input
    # of the matrix; blocks of the width never cross heads.
    return {
        ("layers", *target.path): 1 + target.dims.index(target.in_dims[-1])
        for target in targets_of(config, lora)
    }


def quantize(weight: Array, block_dim: int, qtype: str) -> Any:  # QArray
    """Rounds a stacked weight to `int8` or `nf4`.

    Rounds a layer at a time, which bounds the extra memory. The result is the same on every mesh.

    Args:
      weight: [L, ...], of any float type.
      block_dim: From `block_dims`.
      qtype: `int8` or `nf4`.

    Raises:
      UserError: qwix is not installed.
    """
    qwix = load_qwix()
    dim = block_dim - 1

    def one(layer: Array) -> Any:
        outputs = [other for other in range(layer.ndim) if other != dim]
        return qwix.quantize(
            layer.astype(jnp.float32),
            qtype,
            channelwise_axes=outputs,
            tiled_axes={dim: block_size(layer.shape[dim])},
        )

    return jax.lax.map(one, weight)


def dequantized(weight: Any, dtype: DTypeLike) -> Array:
    """Returns the weight that a `QArray` stands for; computed in float32, then cast."""
    qvalue, scale = weight.qvalue, weight.scale
    # `qwix.dequantize` flattens the array, which would gather the shards of a mesh.
    values = (
        _nf4_values()[qvalue.astype(jnp.int32)]
        if weight.qtype == "nf4"
        else qvalue.astype(jnp.float32)
    )
    split, spread = [], []
    for blocks, size in zip(scale.shape, qvalue.shape, strict=True):
        split += [blocks, size // blocks]
        spread += [blocks, 1]
    whole = values.reshape(split) * scale.reshape(spread)
    return whole.reshape(qvalue.shape).astype(dtype)


def _nf4_values() -> Array:
    """The 16 values of NF4, in [-1, 1]."""
    qwix = load_qwix()
    numbers = jnp.arange(16).astype(jnp.uint4)
    return qwix.dequantize(qwix.QArray(numbers, jnp.ones(1), qtype="nf4"))


def product(equation: str, x: Array, weight: Any) -> Array:
    """An einsum with a weight, cast to the dtype of `x`.

    Args:
      equation: Of x and W, e.g. `BTD,DF->BTF`.
      x: Activations.
      weight: An array; or a `QArray` or `OutputsFirst`, which get no gradient.
    """
    if isinstance(weight, OutputsFirst):
        return weight.apply(equation, x)
    if is_quantized(weight):
        return _frozen_product(equation, x, weight)
    return einsum(equation, x, weight.astype(x.dtype))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _frozen_product(equation: str, x: Array, weight: Any) -> Array:
    return jnp.einsum(equation, x, dequantized(weight, x.dtype))


# The backward pass dequantises again. Without this, `remat: none` would keep the dequantised
# weights of all layers for it.
def _forward(equation: str, x: Array, weight: Any) -> tuple[Array, Any]:
    return _frozen_product(equation, x, weight), weight


def _backward(equation: str, weight: Any, d_output: Array) -> tuple[Array, None]:
    operands, output_dims = equation.split("->")
    x_dims, weight_dims = operands.split(",")
    whole = dequantized(weight, d_output.dtype)
    return jnp.einsum(f"{output_dims},{weight_dims}->{x_dims}", d_output, whole), None


_frozen_product.defvjp(_forward, _backward)
