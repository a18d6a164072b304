"""Meshes, and that a sharded model is the unsharded one."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from parrot_jax.core.errors import UserError
from parrot_jax.losses.token_loss import role_weighted_nll
from parrot_jax.model.config import LlamaConfig
from parrot_jax.model.llama import (
    abstract_params,
    hidden_states,
    init_params,
    logical_axes,
    unembedding,
)
from parrot_jax.model.presets import PRESETS
from parrot_jax.sharding import (
    MeshConfig,
    array_sharding,
    make_mesh,
    num_batch_shards,
    param_shardings,
)

CONFIG = LlamaConfig(
    vocab_size=64,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    initializer_range=0.2,
)
MESHES = [MeshConfig(data=2, fsdp=2, tensor=2), MeshConfig(fsdp=8), MeshConfig(fsdp=4, tensor=2)]


def shardings_on(mesh, config=CONFIG):
    return param_shardings(abstract_params(config), logical_axes(config), mesh)


@pytest.mark.parametrize(
    ("config", "num_devices", "sizes"),
    [
        (MeshConfig(), 8, (1, 8, 1)),
        (MeshConfig(data=-1, fsdp=2, tensor=2), 16, (4, 2, 2)),
        (MeshConfig(data=1, fsdp=1), 1, (1, 1, 1)),
    ],
)
def test_minus_one_takes_the_rest(config, num_devices, sizes):
    assert config.sizes(num_devices) == sizes


def test_sizes_that_do_not_fit_are_refused():
    with pytest.raises(UserError, match=r"data=1, fsdp=-1, tensor=3 does not fit 8 devices"):
        make_mesh(MeshConfig(tensor=3))
    with pytest.raises(UserError, match=r"fsdp=2, tensor=1 does not fit 8 devices; choose sizes"):
        make_mesh(MeshConfig(fsdp=2))
    with pytest.raises(UserError, match="-1 more than once"):
        MeshConfig(data=-1)
    with pytest.raises(UserError, match=r"mesh.tensor is 0; it must be 1 or more"):
        MeshConfig(tensor=0)


def test_rules_map_logical_axes_to_mesh_axes():
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    specs = jax.tree.map(lambda sharding: sharding.spec, shardings_on(mesh))
    assert specs["embed"] == PartitionSpec("tensor", "fsdp")
    assert specs["layers"]["attention"]["q"] == PartitionSpec(None, "fsdp", "tensor", None)
    assert specs["layers"]["mlp"]["down"] == PartitionSpec(None, "tensor", "fsdp")
    assert specs["norm"] == PartitionSpec(None)
    assert array_sharding(mesh, "batch", "seq").spec == PartitionSpec(("data", "fsdp"), None)
    assert num_batch_shards(mesh) == 4


def test_a_dim_that_does_not_divide_names_the_parameter():
    mesh = make_mesh(MeshConfig(fsdp=2, tensor=4))
    message = r"parameter layers/attention/k of shape \(2, 32, 2, 8\): its dim 'kv_heads' of 2 does"
    with pytest.raises(UserError, match=message + r" not divide into 4 parts; set mesh.tensor"):
        shardings_on(mesh)


def test_the_13b_model_is_spread_evenly_over_devices():
    config = PRESETS["llama2-13b"]
    shapes = abstract_params(config)
    shardings = shardings_on(make_mesh(MeshConfig(fsdp=4, tensor=2)), config)
    num_bytes = jax.tree.map(
        lambda leaf, sharding: 4 * np.prod(sharding.shard_shape(leaf.shape)), shapes, shardings
    )
    whole = 4 * config.num_parameters()
    assert sum(jax.tree.leaves(num_bytes)) == pytest.approx(whole / 8, rel=1e-3)


def test_initial_values_do_not_depend_on_the_mesh(on_one_device):
    shardings = shardings_on(make_mesh(MESHES[0]))
    sharded = init_params(CONFIG, 7, shardings)
    jax.tree.map(np.testing.assert_array_equal, sharded, on_one_device[0])
    assert jax.tree.map(lambda leaf: leaf.sharding, sharded) == shardings


def loss(params, tokens, weights, *, config=CONFIG, sharding=None, **options):
    num_rows, length = weights.shape
    states = hidden_states(
        config,
        params,
        tokens[:, :-1],
        jnp.tile(jnp.repeat(jnp.asarray([[1, 2]]), length // 2, axis=1), (num_rows, 1)),
        jnp.tile(jnp.arange(length // 2)[None], (num_rows, 2)),
        compute_dtype=jnp.float32,
        activation_sharding=sharding,
    )
    result = role_weighted_nll(
        states, unembedding(params), tokens[:, 1:], weights, tile=64, **options
    )
    return result.loss_sum / result.weight_sum


@pytest.fixture(scope="module")
def on_one_device():
    """Parameters, batch, loss and gradients without any mesh."""
    keys = jax.random.split(jax.random.key(0), 2)
    tokens = jax.random.randint(keys[0], (8, 33), 0, CONFIG.vocab_size)
    weights = (jax.random.uniform(keys[1], (8, 32)) < 0.4).astype(jnp.float32)
    params = init_params(CONFIG, 7)
    return params, (tokens, weights), jax.jit(jax.value_and_grad(loss))(params, tokens, weights)


@pytest.mark.parametrize(
    ("mesh_config", "live_capacity"), [*zip(MESHES, (200, None, 200), strict=True)]
)
def test_loss_and_gradients_on_a_mesh_are_those_of_one_device(
    on_one_device, mesh_config, live_capacity
):
    params, batch, expected = on_one_device
    mesh = make_mesh(mesh_config)
    shardings, rows = shardings_on(mesh), array_sharding(mesh, "batch")
    loss_on_mesh = functools.partial(
        loss,
        sharding=array_sharding(mesh, "batch", "seq", None),
        live_capacity=live_capacity,
        shards=num_batch_shards(mesh),
    )
    run = jax.jit(
        jax.value_and_grad(loss_on_mesh),
        in_shardings=(shardings, rows, rows),
        out_shardings=(None, shardings),
    )
    jax.tree.map(
        lambda one, two: np.testing.assert_allclose(one, two, rtol=1e-5, atol=1e-5),
        run(params, *batch),
        expected,
    )


def test_no_device_ever_holds_the_whole_gradient():
    config = LlamaConfig(
        vocab_size=256,
        hidden_size=256,
        intermediate_size=704,
        num_hidden_layers=8,
        num_attention_heads=4,
    )
    mesh = make_mesh(MeshConfig())
    shardings, rows = shardings_on(mesh, config), array_sharding(mesh, "batch")
    loss_on_mesh = functools.partial(
        loss,
        config=config,
        sharding=array_sharding(mesh, "batch", "seq", None),
        shards=num_batch_shards(mesh),
    )
    tokens = jax.ShapeDtypeStruct((8, 33), jnp.int32)
    weights = jax.ShapeDtypeStruct((8, 32), jnp.float32)
    compiled = (
        jax.jit(
            jax.value_and_grad(loss_on_mesh),
            in_shardings=(shardings, rows, rows),
            out_shardings=(None, shardings),
        )
        .lower(abstract_params(config), tokens, weights)
        .compile()
    )
    memory = compiled.memory_analysis()
    whole = 4 * config.num_parameters()
    assert memory.output_size_in_bytes < 1.1 * whole / 8
    # Two layers gathered, one layer's gradient, its own part of everything: not eight layers.
    assert memory.temp_size_in_bytes < 0.75 * whole
