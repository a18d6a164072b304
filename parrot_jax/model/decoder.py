"""The decoder of all families: parameters as a plain tree of arrays, and the forward pass over it.

The layers are Flax NNX modules, which give every parameter a name, an initializer and logical axes.
No NNX object leaves this file: other code sees a nested dict. For LLaMA it is

    embed [V, D]    norm [D]    lm_head [D, V] (absent when tied)
    layers: attention_norm [L, D]   attention: q [L, D, N, H]  k, v [L, D, K, H]  o [L, N, H, D]
            mlp_norm [L, D]         mlp: gate, up [L, D, F]    down [L, F, D]

with the layers stacked on a first dim L, and adapters beside them under `lora` (`lora.py`). One
`jax.lax.scan` runs the layers, so a layer is compiled once for any number of them. Parameters are
float32 (unless the caller cast them); each is cast to the compute dtype where it is used.
"""

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int, PRNGKeyArray

from parrot_jax.core.errors import UserError
from parrot_jax.model import attention as attention_backends
from parrot_jax.model.attention import Backend
from parrot_jax.model.blocks import DecoderLayer, rms_norm, scale, weight
from parrot_jax.model.families import family_of, tensor_names
from parrot_jax.model.layered import is_layered
from parrot_jax.model.lora import LORA, Dropout, rank_of, with_adapters, without_products_over
from parrot_jax.model.model_config import ModelConfig
from parrot_jax.model.rotary import Rotation, rotation_at
from parrot_jax.sharding import array_sharding

Params = dict[str, Any]
"""Nested dict of arrays, or of their shapes, shardings or logical axes."""

_policies = jax.checkpoint_policies
REMAT_POLICIES: dict[str, Callable[..., bool] | None] = {
    "none": None,
    "attention": _policies.save_from_both_policies(
        _policies.dots_with_no_batch_dims_saveable,
        _policies.save_only_these_names("attention"),
    ),
    "dots": _policies.dots_with_no_batch_dims_saveable,
    "full": _policies.nothing_saveable,
}
"""What the forward pass of a layer keeps for the backward pass, from most memory to least:
everything; the products with weights and the residuals of attention; the products with weights; the
input of the layer."""


# ---- modules ------------------------------------------------------------------------------------


class _Decoder(nnx.Module):
    def __init__(self, config: ModelConfig, rngs: nnx.Rngs) -> None:
        d, v = config.hidden_size, config.vocab_size
        self.embed = weight(rngs, config, (v, d), ("vocab", "embed"))
        self.layers = _stacked_layers(config, rngs)
        self.norm = scale(config)
        if not config.tie_word_embeddings:
            self.lm_head = weight(rngs, config, (d, v), ("embed", "vocab"))


def _stacked_layers(config: ModelConfig, rngs: nnx.Rngs) -> DecoderLayer:
    @nnx.split_rngs(splits=config.num_hidden_layers)
    @nnx.vmap(in_axes=(0,), out_axes=0, transform_metadata={nnx.PARTITION_NAME: "layers"})
    def stack(rngs: nnx.Rngs) -> DecoderLayer:
        return family_of(config).layer()(config, rngs)

    return stack(rngs)


# ---- parameters ---------------------------------------------------------------------------------


def _build(config: ModelConfig, key: Array) -> Any:  # nnx.State
    # Eager sharding would look up the logical names in a mesh, but there is no mesh here.
    with nnx.use_eager_sharding(False):
        return nnx.state(_Decoder(config, nnx.Rngs(params=key)), nnx.Param)


@functools.lru_cache
def _abstract(config: ModelConfig) -> Any:  # nnx.State
    with nnx.use_eager_sharding(False):
        return nnx.eval_shape(lambda: _build(config, jax.random.key(0)))


def abstract_params(config: ModelConfig) -> Params:
    """Returns the tree of parameters as shapes and dtypes, without allocating them.

    Raises:
      UserError: The family's table of tensors does not match its layer.
    """
    shapes = nnx.to_pure_dict(_abstract(config))
    _check_names(config, shapes)
    return shapes


def _check_names(config: ModelConfig, shapes: Params) -> None:
    """Checks a family's table of tensors against its layer, so that an export misses no tensor."""
    named = {}
    for ours, _, _, our_dims in tensor_names(config):
        dims = our_dims.split()
        first, *rest = ours.split(".")
        if first == "layers":  # the layers are stacked
            dims, rest = ["L", *dims], rest[1:]
        named[".".join([first, *rest])] = tuple(config.sizes[dim] for dim in dims)
    made = {
        ".".join(str(key.key) for key in path): leaf.shape
        for path, leaf in jax.tree_util.tree_leaves_with_path(shapes)
    }
    if wrong := sorted(name for name in named | made if named.get(name) != made.get(name)):
        problems = (
            f"{name} is {made.get(name, 'missing')} in the layer, "
            f"{named.get(name, 'missing')} in the table"
            for name in wrong
        )
        raise UserError(f"the family {config.family} is inconsistent: {'; '.join(problems)}.")


def logical_axes(config: ModelConfig) -> Params:
    """Returns the tree of parameters with a tuple of logical axes, one per dim, at each leaf."""

    def axes(variable: nnx.Variable[Any]) -> tuple[str, ...]:
        return variable.get_metadata()["out_sharding"]

    is_variable = lambda node: isinstance(node, nnx.Variable)  # noqa: E731
    return nnx.to_pure_dict(jax.tree.map(axes, _abstract(config), is_leaf=is_variable))


def init_params(
    config: ModelConfig,
    seed: int,
    shardings: Params | None = None,
    *,
    dtype: DTypeLike = "float32",
) -> Params:
    """Makes random parameters: normal weights of std `initializer_range`, norm scales 1.

    Every device makes only its own shard, and the values are the same on every mesh.

    Args:
      config: The sizes.
      seed: The random seed.
      shardings: `param_shardings(abstract_params(config), logical_axes(config), mesh)`; None = all
        on the default device.
      dtype: Of all parameters; the values are drawn in float32 and rounded.

    Returns:
      The tree of parameters.
    """
    init = jax.jit(_init, static_argnums=(0, 2), out_shardings=shardings)
    return init(config, jax.random.key(seed), dtype)


def _init(config: ModelConfig, key: Array, dtype: DTypeLike) -> Params:
    params = nnx.to_pure_dict(_build(config, key))
    return jax.tree.map(lambda param: param.astype(dtype), params)


def unembedding(params: Params) -> Float[Array, "D V"]:
    """Returns the matrix from hidden states to logits: `lm_head`, or the embedding if tied."""
    return params["lm_head"] if "lm_head" in params else params["embed"].T


# ---- forward ------------------------------------------------------------------------------------

StateT = TypeVar("StateT")
KeptT = TypeVar("KeptT")
Attend = Callable[
    [StateT, Float[Array, "B T N H"], Float[Array, "B T K H"], Float[Array, "B T K H"]],
    tuple[Float[Array, "B T N H"], StateT, KeptT],
]
"""Attention of one layer. Takes the state from the previous layer and this layer's queries, keys
and values; returns the weighted values, the state for the next layer, and what to collect from this
layer."""


def visit_layers(
    config: ModelConfig,
    params: Params,
    x: Float[Array, "B T D"],
    rotation: Rotation,
    attend: Attend[StateT, KeptT],
    state: StateT,
    *,
    remat: str = "none",
    unroll: int = 1,
    mesh: Mesh | None = None,
    dropout: Dropout | None = None,
) -> tuple[Float[Array, "B T D"], StateT, KeptT]:
    """Runs embedded tokens through all layers, in training and in generation.

    Args:
      config: The sizes.
      params: The tree of parameters; of adapters, B is scaled (`lora.scaled`). With `layered` ones,
        the loop is unrolled; for generation only.
      x: Embedded tokens.
      rotation: The rotary angles at their positions.
      attend: Attention, which differs between training and generation.
      state: The state for the first layer's `attend`; None if layers pass no state.
      remat: One of `REMAT_POLICIES`: what is kept for the backward pass.
      unroll: Layers per iteration of the loop; must divide their number.
      mesh: The mesh that rows are sharded over after every layer; None = one device.
      dropout: Of the adapters; None = no dropout.

    Returns:
      The hidden states before the final norm, the state from the last layer, and what each layer
      collected, stacked on a first dim L, or a tuple of layers.

    Raises:
      UserError: An unknown remat policy.
    """
    if remat not in REMAT_POLICIES:
        raise UserError(
            f"there is no remat policy {remat!r}; choose one of {', '.join(REMAT_POLICIES)}."
        )
    definition = _layer_definition(config)
    rate, keys = 0.0, None
    if dropout is not None and dropout.rate > 0:
        rate, keys = dropout.rate, jax.random.split(dropout.key, config.num_hidden_layers)

    def pinned(x: Array) -> Array:
        if mesh is None:
            return x
        return jax.lax.with_sharding_constraint(x, array_sharding(mesh, "batch", "seq", None))

    def visit(
        carry: tuple[Array, StateT], of_layer: tuple[Params, Params, PRNGKeyArray | None]
    ) -> tuple[tuple[Array, StateT], KeptT]:
        x, state = carry
        weights, adapters, key = of_layer
        layer = nnx.merge(definition, with_adapters(weights, adapters, key, rate))
        attended, state, kept = attend(state, *layer.project(x, rotation))
        return (pinned(layer.combine(x, attended)), state), kept

    if is_layered(params):
        each: list[Any] = []
        for weights in params["layers"]:
            (x, state), kept = visit((x, state), (weights, {}, None))
            each.append(kept)
        return x, state, jax.tree.map(lambda *layers: layers, *each)

    adapters = params.get(LORA, {}).get("layers", {})
    if remat != "none":
        policy = REMAT_POLICIES[remat]
        if adapters:
            policy = without_products_over(rank_of(adapters), policy)
        visit = jax.checkpoint(visit, policy=policy, prevent_cse=False)
    layers = params["layers"], adapters, keys
    (x, state), kept = jax.lax.scan(visit, (pinned(x), state), layers, unroll=unroll)
    return x, state, kept


@functools.lru_cache
def _layer_definition(config: ModelConfig) -> nnx.GraphDef[DecoderLayer]:
    """The graph definition with which `nnx.merge` builds a `DecoderLayer` from parameters."""
    with nnx.use_eager_sharding(False):
        layer = nnx.eval_shape(lambda: family_of(config).layer()(config, nnx.Rngs(params=0)))
        return nnx.split(layer)[0]


def with_whole_embedding(params: Params, mesh: Mesh | None) -> Params:
    """Replicates the embedding on every device of a mesh, for `embed_tokens`.

    Every device then looks up its own rows. From an embedding that is sharded by width, XLA would
    have to reshard the result from width to rows, and with `data` > 1 it does that by gathering all
    rows.
    """
    if mesh is None:
        return params
    whole = jax.lax.with_sharding_constraint(params["embed"], array_sharding(mesh))
    return {**params, "embed": whole}


def embed_tokens(
    params: Params, tokens: Int[Array, "B T"], compute_dtype: DTypeLike
) -> Float[Array, "B T D"]:
    """Looks the tokens up in the embedding. An id outside [0, V) gives NaN, not another row."""
    return jnp.take(params["embed"], tokens, axis=0, mode="fill").astype(compute_dtype)


def rotation_of(config: ModelConfig, positions: Int[Array, "B T"]) -> Rotation:
    """Returns the rotary angles of this model at these positions."""
    return rotation_at(positions, config.head_width, config.rope_theta, config.rope_scaling)


def hidden_states(
    config: ModelConfig,
    params: Params,
    tokens: Int[Array, "B T"],
    segment_ids: Int[Array, "B T"] | None,
    positions: Int[Array, "B T"],
    *,
    compute_dtype: DTypeLike = jnp.bfloat16,
    attention: str | Backend = "auto",
    remat: str = "full",
    unroll: int = 1,
    mesh: Mesh | None = None,
    dropout: Dropout | None = None,
) -> Float[Array, "B T D"]:
    """Runs the model up to the final norm; logits are these states times `unembedding(params)`.

    The loss computes the logits, in tiles.

    Args:
      config: The sizes; must be those that `params` were made with.
      params: The tree of parameters; of adapters, B is scaled (`lora.scaled`).
      tokens: Token ids in [0, V).
      segment_ids: Adjacent tokens with the same id attend to each other; 0 is padding. None = one
        segment per row, for rows that are not packed.
      positions: Position of each token in its own segment, from 0.
      compute_dtype: Of activations and matrix products; norms, rotary and softmax are float32.
      attention: A backend's name, or the backend itself.
      remat: One of `REMAT_POLICIES`: what is kept for the backward pass.
      unroll: Layers per iteration of the loop; must divide their number.
      mesh: The mesh that rows and parameters are sharded over by `sharding.RULES`; None = one
        device.
      dropout: Of the adapters; None = no dropout.

    Returns:
      Hidden states in the compute dtype.

    Raises:
      UserError: The remat policy or backend is unknown, or the backend does not support segments or
        the model's sliding window.
    """
    window = config.window_within(tokens.shape[1])
    backend = (
        attention_backends.choose(
            attention, segments=segment_ids is not None, window=window is not None
        )
        if isinstance(attention, str)
        else attention
    )

    def attend(state: None, query: Array, key: Array, value: Array) -> tuple[Array, None, None]:
        attended = attention_backends.attend(
            query, key, value, segment_ids, backend=backend, window=window, mesh=mesh
        )
        return attended, state, None

    params = with_whole_embedding(params, mesh)
    x, _, _ = visit_layers(
        config,
        params,
        embed_tokens(params, tokens, compute_dtype),
        rotation_of(config, positions),
        attend,
        None,
        remat=remat,
        unroll=unroll,
        mesh=mesh,
        dropout=dropout,
    )
    return rms_norm(x, params["norm"], config.rms_norm_eps)
