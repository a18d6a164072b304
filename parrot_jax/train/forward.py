"""`Forward`: how an objective or an evaluation runs the model.

It is passed to them together with the weights and the batch.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, PRNGKeyArray

from parrot_jax.model import decoder
from parrot_jax.model.attention import Backend
from parrot_jax.model.lora import Dropout, scaled
from parrot_jax.model.lora_config import LoraConfig
from parrot_jax.model.model_config import ModelConfig
from parrot_jax.sharding import array_sharding, num_batch_shards

Batch = Mapping[str, Any]
"""`tokens`, `loss_weights`, `segment_ids`, `positions`: each [rows, T], or
[micro-batches, rows, T] with gradient accumulation."""


_DROPOUT = 0x64726F70
"""Separates the keys of dropout from those of rounding."""


class Forward(NamedTuple):
    """How to run the model; all fields but `dropout_key` are static under jit."""

    model: ModelConfig
    compute_dtype: Any
    attention: Backend
    remat: str
    loss_tile: int
    packed: bool = True
    """Whether rows may hold several segments; if not, attention needs no segment mask."""
    unroll_layers: int = 1
    mesh: Mesh | None = None
    lora: LoraConfig | None = None
    """The adapters among the weights."""
    dropout_key: PRNGKeyArray | None = None
    """Of the adapters' dropout; None outside of training = no dropout."""

    @property
    def row_shards(self) -> int:
        """Number of mesh parts that share the rows."""
        return 1 if self.mesh is None else num_batch_shards(self.mesh)

    def hidden(self, params: Any, batch: Batch) -> Float[Array, "B T D"]:
        """Output of the final norm for each position."""
        dropout = None
        if self.lora is not None and self.dropout_key is not None:
            dropout = Dropout(self.lora.dropout, self.dropout_key)
        return decoder.hidden_states(
            self.model,
            scaled(params, self.lora),
            batch["tokens"],
            # In an unpacked row, padding comes after the only segment: causal attention hides it.
            batch["segment_ids"] if self.packed else None,
            batch["positions"],
            compute_dtype=self.compute_dtype,
            attention=self.attention,
            remat=self.remat,
            unroll=self.unroll_layers,
            mesh=self.mesh,
            dropout=dropout,
        )

    def with_dropout(self, key: PRNGKeyArray, micro_batch: int | Int[Array, ""]) -> "Forward":
        """The same with dropout, if the adapters have any, drawn again for each micro-batch."""
        if self.lora is None or not self.lora.dropout:
            return self
        key = jax.random.fold_in(jax.random.fold_in(key, micro_batch), _DROPOUT)
        return self._replace(dropout_key=key)

    def unembedding(self, params: Any) -> Float[Array, "D V"]:
        """The output projection, from hidden states to logits.

        Gathered over `fsdp` here, once: the loss visits its tokens in tiles, and GPU and TPU
        programs would gather it again for each tile.
        """
        head = decoder.unembedding(params)
        if self.mesh is None:
            return head
        sharding = array_sharding(self.mesh, None, "vocab")
        return jax.lax.with_sharding_constraint(head, sharding)


def next_tokens(batch: Batch) -> tuple[Int[Array, "B T"], Float[Array, "B T"]]:
    """Shifts the targets by one; nothing else does: position t predicts the token at t + 1.

    A segment starts with BOS, which has loss weight 0, so no position predicts the next segment.

    Returns:
      Targets and their loss weights; the last column has weight 0.
    """
    targets = jnp.roll(batch["tokens"], -1, axis=1)
    weights = jnp.roll(batch["loss_weights"], -1, axis=1).at[:, -1].set(0.0)
    return targets, weights
