"""Meshes; a sharded model computes the same as an unsharded one."""

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from parrot_jax.core.errors import UserError
from parrot_jax.model.decoder import (
    abstract_params,
    init_params,
    logical_axes,
)
from parrot_jax.model.families import num_parameters
from parrot_jax.model.model_config import ModelConfig
from parrot_jax.model.presets import PRESETS
from parrot_jax.sharding import (
    MeshConfig,
    array_sharding,
    make_mesh,
    num_batch_shards,
    param_shardings,
)

CONFIG = ModelConfig(
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
    message = r"parameter layers/attention/k of shape \(2, 32, 2, 8\): its dim 'kv_heads' of 2 is"
    with pytest.raises(UserError, match=message + r" not divisible by 4; set mesh.tensor"):
        shardings_on(mesh)


def test_the_13b_model_is_spread_evenly_over_devices():
    config = PRESETS["llama2-13b"]
    shapes = abstract_params(config)
    shardings = shardings_on(make_mesh(MeshConfig(fsdp=4, tensor=2)), config)
    num_bytes = jax.tree.map(
        lambda leaf, sharding: 4 * np.prod(sharding.shard_shape(leaf.shape)), shapes, shardings
    )
    whole = 4 * num_parameters(config)
    assert sum(jax.tree.leaves(num_bytes)) == pytest.approx(whole / 8, rel=1e-3)


@pytest.mark.slow
def test_initial_values_do_not_depend_on_the_mesh():
    shardings = shardings_on(make_mesh(MeshConfig(data=2, fsdp=2, tensor=2)))
    sharded = init_params(CONFIG, 7, shardings)
    jax.tree.map(np.testing.assert_array_equal, sharded, init_params(CONFIG, 7))
    assert jax.tree.map(lambda leaf: leaf.sharding, sharded) == shardings
