"""One step of generation: prompts into a key/value cache, and one more token behind each."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from parrot_jax.model import attention as attention_backends
from parrot_jax.model.attention import Backend
from parrot_jax.model.config import LlamaConfig
from parrot_jax.model.llama import (
    Params,
    embed_tokens,
    layer_definition,
    rms_norm,
    rotation_of,
    unembedding,
)


class Cache(NamedTuple):
    """Keys and values of every layer, in the compute dtype."""

    keys: Float[Array, "L B S K H"]
    values: Float[Array, "L B S K H"]


def prefill(
    config: LlamaConfig,
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
      mesh: What the weights are split over; None = one device.

    Returns:
      float32 logits after each row's last token, and the cache. Places of the cache behind a row's
      length hold padding, which `decode` overwrites before it is ever seen.
    """
    num_rows, length = tokens.shape
    positions = jnp.broadcast_to(jnp.arange(length)[None], tokens.shape)
    rotation = rotation_of(config, positions)
    definition = layer_definition(config)

    def visit(x: Array, layer_params: Params) -> tuple[Array, Cache]:
        layer = nnx.merge(definition, layer_params)
        query, key, value = layer.project(x, rotation)
        attended = attention_backends.attend(query, key, value, None, backend=backend, mesh=mesh)
        return layer.combine(x, attended), Cache(key, value)

    x = embed_tokens(params, tokens, compute_dtype)
    x, cache = jax.lax.scan(visit, x, params["layers"])
    last = x[jnp.arange(num_rows), lengths - 1][:, None]
    free = [(0, 0), (0, 0), (0, cache_length - length), (0, 0), (0, 0)]
    return _logits(config, params, last), jax.tree.map(lambda part: jnp.pad(part, free), cache)


def decode(
    config: LlamaConfig,
    params: Params,
    tokens: Int[Array, " B"],
    positions: Int[Array, " B"],
    cache: Cache,
) -> tuple[Float[Array, "B V"], Cache]:
    """Reads one more token of each row.

    Args:
      config: The sizes.
      params: The tree of parameters.
      tokens: The token of each row.
      positions: Its place; every place before it must be filled. Below the cache's length.
      cache: From `prefill` or the last `decode`.

    Returns:
      float32 logits after these tokens, and the cache with their keys and values in place.
    """
    num_rows = tokens.shape[0]
    rows = jnp.arange(num_rows)
    rotation = rotation_of(config, positions[:, None])
    definition = layer_definition(config)

    def visit(
        carry: tuple[Array, Cache], scanned: tuple[Array, Params]
    ) -> tuple[tuple[Array, Cache], None]:
        # The cache is carried, not scanned over: it is written in place, not copied each step.
        x, cache = carry
        index, layer_params = scanned
        layer = nnx.merge(definition, layer_params)
        query, key, value = layer.project(x, rotation)
        cache = Cache(
            cache.keys.at[index, rows, positions].set(key[:, 0]),
            cache.values.at[index, rows, positions].set(value[:, 0]),
        )
        attended = _attend_to_cache(query, cache.keys[index], cache.values[index], positions)
        return (layer.combine(x, attended), cache), None

    x = embed_tokens(params, tokens[:, None], cache.keys.dtype)
    layers = (jnp.arange(config.num_hidden_layers), params["layers"])
    (x, cache), _ = jax.lax.scan(visit, (x, cache), layers)
    return _logits(config, params, x), cache


def _attend_to_cache(
    query: Float[Array, "B 1 N H"],
    keys: Float[Array, "B S K H"],
    values: Float[Array, "B S K H"],
    positions: Int[Array, " B"],
) -> Float[Array, "B 1 N H"]:
    num_rows, _, num_heads, width = query.shape
    num_kv_heads = keys.shape[2]
    grouped = query.reshape(num_rows, num_kv_heads, num_heads // num_kv_heads, width) * width**-0.5
    scores = jnp.einsum("BKGH,BSKH->BKGS", grouped, keys, preferred_element_type=jnp.float32)
    filled = jnp.arange(keys.shape[1])[None] <= positions[:, None]
    scores = jnp.where(filled[:, None, None], scores, -1e30)
    weights = jax.nn.softmax(scores, axis=-1).astype(values.dtype)
    mixed = jnp.einsum("BKGS,BSKH->BKGH", weights, values, preferred_element_type=jnp.float32)
    return mixed.reshape(query.shape).astype(query.dtype)


def _logits(config: LlamaConfig, params: Params, x: Float[Array, "B 1 D"]) -> Float[Array, "B V"]:
    normed = rms_norm(x[:, 0], params["norm"], config.rms_norm_eps)
    head = unembedding(params).astype(x.dtype)
    return jnp.einsum("BD,DV->BV", normed, head, preferred_element_type=jnp.float32)
