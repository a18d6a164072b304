"""What is on the disk: one array a layer, the newest N, nothing half, nothing of another shape."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from parrot_jax.core.errors import UserError
from parrot_jax.model.config import LlamaConfig
from parrot_jax.sharding import MeshConfig, make_mesh
from parrot_jax.train.config import OptimConfig
from parrot_jax.train.optim import adamw
from parrot_jax.train.state import abstract_state, restore_state, save_state
from parrot_jax.train.step import TrainState
from parrot_jax.weights.checkpoints import Checkpoints

SIZES: dict[str, Any] = {
    "vocab_size": 16,
    "hidden_size": 8,
    "intermediate_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 32,
}
OPTIMIZER = adamw(OptimConfig(), lambda _: 1e-3)


def like(mesh: MeshConfig, **changes: Any) -> TrainState:
    config = LlamaConfig(**{**SIZES, **changes})
    return abstract_state(config, OPTIMIZER, make_mesh(mesh))


def numbered(shapes: TrainState) -> TrainState:
    """A state in which every number is another one."""
    start = iter(range(0, 10**9, 10_000))

    def array(leaf: Any) -> jax.Array:
        values = next(start) + np.arange(leaf.size).reshape(leaf.shape)
        return jax.device_put(jnp.asarray(values, leaf.dtype), leaf.sharding)

    return jax.tree.map(array, shapes)


def test_layers_are_apart_on_disk(tmp_path: Path) -> None:
    state = numbered(like(MeshConfig()))
    checkpoints = Checkpoints(tmp_path)
    save_state(checkpoints, 5, state)
    checkpoints.close()
    names = ocp.StandardCheckpointer().metadata(tmp_path / "5" / "params").item_metadata
    assert sorted(name for name in names if name.endswith("attention.q")) == [
        "layers.00.attention.q",
        "layers.01.attention.q",
        "layers.02.attention.q",
    ]
    assert tuple(names["layers.01.attention.q"].shape) == (8, 2, 4)
    assert {name for name in names if "layers" not in name} == {"embed", "norm", "lm_head"}


def test_a_state_comes_back_on_another_mesh(tmp_path: Path) -> None:
    state = numbered(like(MeshConfig(data=1, fsdp=8, tensor=1)))
    checkpoints = Checkpoints(tmp_path)
    save_state(checkpoints, 1, state)
    checkpoints.wait()
    other = like(MeshConfig(data=2, fsdp=2, tensor=2))
    restored = restore_state(checkpoints, 1, other)
    for a, b, wanted in zip(*map(jax.tree.leaves, (state, restored, other)), strict=True):
        np.testing.assert_array_equal(a, b)
        assert b.sharding == wanted.sharding


def test_only_the_newest_are_kept(tmp_path: Path) -> None:
    state = numbered(like(MeshConfig()))
    checkpoints = Checkpoints(tmp_path, keep=2)
    for step in (1, 2, 3):
        save_state(checkpoints, step, state)
    checkpoints.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["2", "3"]


def test_another_shape_is_refused_with_names(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    save_state(checkpoints, 1, numbered(like(MeshConfig())))
    checkpoints.wait()
    with pytest.raises(UserError, match=r"layers.00.mlp.down is \[16, 8\], not \[24, 8\]"):
        restore_state(checkpoints, 1, like(MeshConfig(), intermediate_size=24))
    with pytest.raises(UserError, match=r"layers.03\S+ is missing"):
        restore_state(checkpoints, 1, like(MeshConfig(), num_hidden_layers=4))
    with pytest.raises(UserError, match=r"lm_head is unknown"):
        restore_state(checkpoints, 1, like(MeshConfig(), tie_word_embeddings=True))
