"""What FSDP and tensor parallelism should send in a step, and what that means for the MFU.

The formula is a prediction from the mesh and the sizes of the model. `collectives.py` counts what a
compiled program really sends; docs/scaling.md compares the two.
"""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from parrot_jax.core.errors import UserError
from parrot_jax.model.decoder import abstract_params, logical_axes
from parrot_jax.model.model_config import ModelConfig
from parrot_jax.sharding import RULES
from parrot_jax.train.chips import flops_per_token
from parrot_jax.train.train_config import TrainConfig

_FLOAT32 = 4


class Sent(NamedTuple):
    """Bytes that a device sends in a step. A ring of g devices sends (g - 1) / g of an array."""

    layer_gathers: float
    """The weights of the layers, in each micro-batch once forward and once backward, in the type
    of the computation."""
    embedding_gathers: float
    """The embedding in float32, from all devices, in each micro-batch."""
    head_gathers: float
    """The output projection in the type of the computation, in each micro-batch."""
    layer_gradients: float
    """Reduce-scattered in the type of the computation."""
    outer_gradients: float
    """Those of embedding and output projection, reduce-scattered in float32. All devices along
    `tensor` have the same rows, and each makes the whole gradient of the embedding."""
    norm_gradients: float
    """All-reduced in float32, which takes twice the bytes."""
    activations: float
    """Tensor parallelism: all-reduces of [rows, T, D]. In each layer two forward, two backward, and
    one more if the forward pass is repeated; one for the gradient of the last hidden states."""

    @property
    def total(self) -> float:
        """The sum."""
        return sum(self)


def sent_by_formula(config: TrainConfig, sizes: tuple[int, int, int]) -> Sent:
    """Predicts what a device sends in a step.

    Left out are sums of scalars and, with tensor parallelism, the statistics of the softmax.

    Args:
      config: The run, without adapters.
      sizes: Of `data`, `fsdp` and `tensor`; `data` must be 1.

    Raises:
      UserError: `data` is not 1.

    Source: ZeRO, arXiv:1910.02054, section 7, for three passes over the weights; Megatron-LM,
      arXiv:1909.08053, section 3, for the all-reduces of a layer.
    """
    data, fsdp, tensor = sizes
    if data != 1:
        raise UserError(f"the formula is for mesh.data 1, not {data}; use fsdp and tensor only.")
    micro_batches = config.accumulation_steps(fsdp)
    compute_bytes = jnp.dtype(config.compute_dtype).itemsize
    share = (fsdp - 1) / fsdp
    layers = embedding = head = norms = 0.0
    for name, size, axes in _parameters(config.model):
        mesh_axes = {RULES[axis] for axis in axes}
        part = size / (tensor if "tensor" in mesh_axes else 1)
        if "fsdp" not in mesh_axes:
            norms += part
        elif name == "embed":
            embedding += size
        elif name == "lm_head":
            head += part
        else:
            layers += part
    if config.model.tie_word_embeddings:
        head = embedding / tensor
    width = config.model.hidden_size
    tokens = config.batch_rows // micro_batches // fsdp * config.data.row_tokens
    reduces = config.model.num_hidden_layers * (5 if config.remat == "full" else 4) + 1
    one_reduce = 2 * (tensor - 1) / tensor * tokens * width * compute_bytes
    in_micro_batch = Sent(
        layer_gathers=2 * share * layers * compute_bytes,
        embedding_gathers=(1 - 1 / (fsdp * tensor)) * embedding * _FLOAT32,
        head_gathers=share * head * compute_bytes,
        layer_gradients=share * layers * compute_bytes,
        outer_gradients=share * (embedding + head) * _FLOAT32,
        norm_gradients=2 * share * norms * _FLOAT32,
        activations=reduces * one_reduce,
    )
    return Sent(*(micro_batches * each for each in in_micro_batch))


def _parameters(model: ModelConfig) -> Iterator[tuple[str, int, tuple[str, ...]]]:
    """First name, number of elements and logical axes of each parameter."""
    shapes: Any = jax.tree_util.tree_leaves_with_path(abstract_params(model))
    is_axes = lambda node: isinstance(node, tuple)  # noqa: E731
    axes = jax.tree.leaves(logical_axes(model), is_leaf=is_axes)
    for (path, leaf), each in zip(shapes, axes, strict=True):
        yield path[0].key, math.prod(leaf.shape), each


def computed_flops_per_token(model: ModelConfig, row_tokens: int, remat: str) -> float:
    """FLOPs per token that the chips really do: those of the MFU, and what is recomputed.

    `full` repeats the forward pass of the layers, a third of their FLOPs; `dots` repeats that of
    attention; `attention` and `none` repeat no product. The output projection is never repeated.
    """
    counted = flops_per_token(model, row_tokens)
    head = 6 * model.vocab_size * model.hidden_size
    # Linear in the row length, so the difference is the share of attention.
    attention = flops_per_token(model, 2 * row_tokens) - counted
    repeated = {"full": counted - head, "dots": attention}.get(remat, 0)
    return counted + repeated / 3


def least_tokens(sent_per_micro_batch: float, flops: float, peak: float, links: float) -> float:
    """Tokens per device and micro-batch from which computing takes as long as sending.

    Args:
      sent_per_micro_batch: Bytes, independent of the number of tokens.
      flops: FLOPs per token, with recomputation.
      peak: FLOP/s of the device, at the share that it reaches.
      links: Bytes per second.
    """
    return sent_per_micro_batch * peak / (links * flops)
