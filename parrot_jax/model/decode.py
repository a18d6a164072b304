"""One step of generation: prompts into a key/value cache, and one more token behind each."""

import jax.numpy as jnp
from jax.sharding import Mesh
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from parrot_jax.model import attention as attention_backends
from parrot_jax.model.attention import Backend
from parrot_jax.model.cache import Cache, attend_to_cache, lengthen, write
from parrot_jax.model.config import ModelConfig
from parrot_jax.model.decoder import (
    Params,
    embed_tokens,
    rms_norm,
    rotation_of,
    unembedding,
    visit_layers,
)


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
    """Reads right-padded prompts.

    Args:
      config: The sizes.
      params: The tree of parameters.
      tokens: Prompts; what stands behind a row's length is read but seen by none of its tokens.
      lengths: Tokens of each prompt, >= 1.
      cache_length: Places in the cache, S; at least T.
      compute_dtype: Of activations and cache.
      backend: Attention backend; needs no segments.
      mesh: What rows and weights are split over, the embedding excepted; None = one device.

    Returns:
      float32 logits after each row's last token, and the cache. Places of the cache behind a row's
      length hold padding, which `decode` overwrites before it is ever seen.
    """
    num_rows, length = tokens.shape
    positions = jnp.broadcast_to(jnp.arange(length)[None], tokens.shape)

    def attend(state: None, query: Array, key: Array, value: Array) -> tuple[Array, None, Cache]:
        attended = attention_backends.attend(query, key, value, None, backend=backend, mesh=mesh)
        return attended, state, Cache(key, value)

    x = embed_tokens(params, tokens, compute_dtype)
    x, _, cache = visit_layers(
        config, params, x, rotation_of(config, positions), attend, None, mesh=mesh
    )
    last = x[jnp.arange(num_rows), lengths - 1][:, None]
    return _logits(config, params, last), lengthen(cache, cache_length)


def decode(
    config: ModelConfig,
    params: Params,
    tokens: Int[Array, " B"],
    positions: Int[Array, " B"],
    cache: Cache,
    *,
    mesh: Mesh | None = None,
) -> tuple[Float[Array, "B V"], Cache]:
    """Reads one more token of each row.

    Args:
      config: The sizes.
      params: The tree of parameters.
      tokens: The token of each row.
      positions: Its place; every place before it must be filled. Below the cache's length.
      cache: From `prefill` or the last `decode`.
      mesh: What rows and weights are split over, the embedding excepted; None = one device.

    Returns:
      float32 logits after these tokens, and the cache with their keys and values in place.
    """

    # The cache passes from layer to layer, so it is written in place and not copied each step.
    def attend(
        state: tuple[Array, Cache], query: Array, key: Array, value: Array
    ) -> tuple[Array, tuple[Array, Cache], None]:
        layer, cache = state
        cache = write(cache, layer, positions, key, value)
        attended = attend_to_cache(query, cache.keys[layer], cache.values[layer], positions)
        return attended, (layer + 1, cache), None

    x = embed_tokens(params, tokens[:, None], cache.keys.dtype)
    rotation = rotation_of(config, positions[:, None])
    first = (jnp.int32(0), cache)
    x, (_, cache), _ = visit_layers(config, params, x, rotation, attend, first, mesh=mesh)
    return _logits(config, params, x), cache


def _logits(config: ModelConfig, params: Params, x: Float[Array, "B 1 D"]) -> Float[Array, "B V"]:
    normed = rms_norm(x[:, 0], params["norm"], config.rms_norm_eps)
    head = unembedding(params).astype(x.dtype)
    return jnp.einsum("BD,DV->BV", normed, head, preferred_element_type=jnp.float32)
