"""Prefill of the key/value cache with prompts, and decoding of one more token per row."""

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from parrot_jax.model import attention as attention_backends
from parrot_jax.model.attention import Backend
from parrot_jax.model.cache import Cache, attend_to_cache, make_cache, write
from parrot_jax.model.decoder import (
    Params,
    embed_tokens,
    rms_norm,
    rotation_of,
    unembedding,
    visit_layers,
)
from parrot_jax.model.layered import is_layered
from parrot_jax.model.model_config import ModelConfig

Layer = Int[Array, ""] | int

_PROMPTS_AT_ONCE = 8
"""On a CPU, whose caches hold the activations of these."""


def prefill(
    config: ModelConfig,
    params: Params,
    tokens: Int[Array, "B T"],
    lengths: Int[Array, " B"],
    *,
    cache_length: int,
    compute_dtype: DTypeLike,
    backend: Backend,
    mesh: Mesh | None = None,
) -> tuple[Float[Array, "B V"], Cache]:
    """Runs right-padded prompts through the model and fills the cache.

    Args:
      config: The sizes.
      params: The tree of parameters, also `layered`.
      tokens: Prompts; no token of a row attends to the padding after its length.
      lengths: Tokens of each prompt, >= 1.
      cache_length: Slots in the cache, S; at least T.
      compute_dtype: Of activations and cache.
      backend: Attention backend; segment support is not needed.
      mesh: The mesh that rows and weights, except the embedding, are sharded over; None = one
        device.

    Returns:
      float32 logits after each row's last token, and the cache. Slots after a row's length hold
      padding, which `decode` overwrites before attending to it.
    """
    num_rows, length = tokens.shape
    if is_layered(params) and num_rows > _PROMPTS_AT_ONCE and num_rows % _PROMPTS_AT_ONCE == 0:
        parts = (num_rows // _PROMPTS_AT_ONCE, _PROMPTS_AT_ONCE)
        filled = jax.lax.map(
            lambda part: prefill(
                config, params, *part, cache_length=cache_length, compute_dtype=compute_dtype,
                backend=backend, mesh=mesh,
            ),
            (tokens.reshape(*parts, length), lengths.reshape(parts)),
        )  # fmt: skip
        return jax.tree.map(lambda array: array.reshape(num_rows, *array.shape[2:]), filled)
    positions = jnp.broadcast_to(jnp.arange(length)[None], tokens.shape)
    window = config.window_within(length)

    def attend(
        state: None, query: Array, key: Array, value: Array
    ) -> tuple[Array, None, tuple[Array, Array]]:
        attended = attention_backends.attend(
            query, key, value, None, backend=backend, window=window, mesh=mesh
        )
        return attended, state, (key, value)

    x = embed_tokens(params, tokens, compute_dtype)
    x, _, (keys, values) = visit_layers(
        config, params, x, rotation_of(config, positions), attend, None, mesh=mesh
    )
    last = x[jnp.arange(num_rows), lengths - 1][:, None]
    return _logits(config, params, last), make_cache(keys, values, cache_length)


def decode(
    config: ModelConfig,
    params: Params,
    tokens: Int[Array, " B"],
    positions: Int[Array, " B"],
    cache: Cache,
    *,
    mesh: Mesh | None = None,
) -> tuple[Float[Array, "B V"], Cache]:
    """Runs one more token of each row through the model.

    Args:
      config: The sizes.
      params: The tree of parameters, also `layered`.
      tokens: The token of each row.
      positions: Its position, below the cache's length; all slots before it must be filled.
      cache: From `prefill` or the previous `decode`.
      mesh: The mesh that rows and weights, except the embedding, are sharded over; None = one
        device.

    Returns:
      float32 logits after these tokens, and the cache with their keys and values.
    """
    window = config.window_within(cache.length)

    # The cache is passed from layer to layer, so it is updated in place and not copied each step.
    def attend(
        state: tuple[Layer, Cache], query: Array, key: Array, value: Array
    ) -> tuple[Array, tuple[Layer, Cache], None]:
        layer, cache = state
        cache = write(cache, layer, positions, key, value)
        attended = attend_to_cache(query, cache.keys[layer], cache.values[layer], positions, window)
        return attended, (layer + 1, cache), None

    x = embed_tokens(params, tokens[:, None], cache.dtype)
    rotation = rotation_of(config, positions[:, None])
    first: tuple[Layer, Cache] = (0 if is_layered(params) else jnp.int32(0), cache)
    x, (_, cache), _ = visit_layers(config, params, x, rotation, attend, first, mesh=mesh)
    return _logits(config, params, x), cache


def _logits(config: ModelConfig, params: Params, x: Float[Array, "B 1 D"]) -> Float[Array, "B V"]:
    normed = rms_norm(x[:, 0], params["norm"], config.rms_norm_eps)
    if is_layered(params):
        return params["lm_head"].apply("BD,DV->BV", normed, jnp.float32)
    head = unembedding(params).astype(x.dtype)
    return jnp.einsum("BD,DV->BV", normed, head, preferred_element_type=jnp.float32)
