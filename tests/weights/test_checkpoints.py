"""Checkpoints: one array per layer, atomic, the newest N kept, shapes checked.

Also device memory while saving and restoring: never a second state.
"""

import gc
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from parrot_jax.core.errors import UserError
from parrot_jax.model.model_config import ModelConfig
from parrot_jax.sharding import MeshConfig, make_mesh
from parrot_jax.train.optim import adamw
from parrot_jax.train.state import abstract_state, restore_state, save_state
from parrot_jax.train.train_config import OptimConfig
from parrot_jax.train.train_state import TrainState
from parrot_jax.weights import arrays
from parrot_jax.weights.checkpoints import Checkpoints
from parrot_jax.weights.layers import names_of

SIZES: dict[str, Any] = {
    "vocab_size": 16,
    "hidden_size": 8,
    "intermediate_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 32,
}
OPTIMIZER = adamw(OptimConfig())


def like(mesh: MeshConfig, *, offload: bool = False, **changes: Any) -> TrainState:
    config = ModelConfig(**{**SIZES, **changes})
    return abstract_state(config, OPTIMIZER, make_mesh(mesh), offload=offload)


def numbered(shapes: TrainState) -> TrainState:
    """Returns a state in which all numbers differ."""
    start = iter(range(0, 10**9, 10_000))

    def array(leaf: Any) -> jax.Array:
        values = next(start) + np.arange(leaf.size).reshape(leaf.shape)
        return jax.device_put(jnp.asarray(values, leaf.dtype), leaf.sharding)

    return jax.tree.map(array, shapes)


def assert_equal_and_placed(state: TrainState, restored: TrainState, wanted: TrainState) -> None:
    for a, b, c in zip(*map(jax.tree.leaves, (state, restored, wanted)), strict=True):
        np.testing.assert_array_equal(a, b)
        assert b.sharding == c.sharding
        assert b.sharding.memory_kind == c.sharding.memory_kind


def test_only_what_is_trained_is_saved(tmp_path: Path) -> None:
    parted = abstract_state(
        ModelConfig(**SIZES),
        OPTIMIZER,
        make_mesh(MeshConfig()),
        is_trainable=lambda path: path[0] == "layers",
    )
    assert set(parted.frozen) == {"embed", "norm", "lm_head"}
    state = numbered(parted)
    checkpoints = Checkpoints(tmp_path)
    save_state(checkpoints, 3, state)
    checkpoints.close()
    stored = Checkpoints(tmp_path, read_only=True).stored(3)
    assert {name.partition(".")[0] for name in stored} == {"layers"}
    restored = restore_state(Checkpoints(tmp_path, read_only=True), 3, state)
    assert_equal_and_placed(state, restored, parted)


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
    assert_equal_and_placed(state, restored, other)


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


def test_a_checkpoint_of_orbax_alone_is_read(tmp_path: Path) -> None:
    state = numbered(like(MeshConfig()))
    trees = {"params": state.params, "optimizer": {"state": state.opt_state, "step": state.step}}
    arrays = {
        item: {
            name: leaf if layer is None else leaf[layer]
            for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
            for name, layer in names_of(path, leaf)
        }
        for item, tree in trees.items()
    }
    with ocp.CheckpointManager(tmp_path) as manager:
        args = {item: ocp.args.StandardSave(named) for item, named in arrays.items()}
        manager.save(3, args=ocp.args.Composite(**args))
    restored = restore_state(Checkpoints(tmp_path), 3, like(MeshConfig()))
    assert_equal_and_placed(state, restored, like(MeshConfig()))


# ---- memory --------------------------------------------------------------------------------------


def device_bytes() -> int:
    """Returns the device memory of all arrays; buffers shared by arrays count once."""
    pieces = {
        shard.data.unsafe_buffer_pointer(): shard.data.nbytes
        for array in jax.live_arrays()
        if array.sharding.memory_kind != "pinned_host"
        for shard in array.addressable_shards
    }
    return sum(pieces.values())


def bytes_of(arrays: Any) -> int:
    """Returns the bytes of arrays on all devices, including replicas."""
    return sum(shard.data.nbytes for a in jax.tree.leaves(arrays) for shard in a.addressable_shards)


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[int]]:
    """Records `device_bytes` at each orbax write, and after each orbax read."""
    seen: dict[str, list[int]] = {"saving": [], "restoring": []}
    handler = ocp.type_handlers.ArrayHandler
    serialize, deserialize = handler.serialize, handler.deserialize

    async def watched_serialize(self: Any, values: Any, *args: Any) -> Any:
        if isinstance(values[0], jax.Array):
            seen["saving"].append(device_bytes())
        return await serialize(self, values, *args)

    async def watched_deserialize(self: Any, *args: Any) -> Any:
        arrays = await deserialize(self, *args)
        seen["restoring"].append(device_bytes() + bytes_of(arrays))
        return arrays

    monkeypatch.setattr(handler, "serialize", watched_serialize)
    monkeypatch.setattr(handler, "deserialize", watched_deserialize)
    # So each batch is one layer when saving, one leaf when restoring.
    monkeypatch.setattr(arrays, "BATCH_BYTES", 1)
    gc.collect()  # arrays of other tests
    return seen


WIDE: dict[str, Any] = {"hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 4}
SPLIT = MeshConfig(data=1, fsdp=4, tensor=2)


@pytest.mark.slow
def test_beside_the_state_devices_hold_a_layer_while_saving_and_a_leaf_while_restoring(
    tmp_path: Path, seen: dict[str, list[int]]
) -> None:
    shapes = like(SPLIT, **WIDE)
    state = numbered(shapes)
    before, whole = device_bytes(), bytes_of(state)
    leaf = max(map(bytes_of, jax.tree.leaves(state)))
    assert whole > 10 * leaf
    # The second layer allows for unsharded arrays: on a CPU, the host copy is device memory too.
    two_layers = 2 * leaf // 4
    checkpoints = Checkpoints(tmp_path)
    save_state(checkpoints, 1, state)
    assert device_bytes() - before <= two_layers, "nor anything while the disk is written"
    checkpoints.wait()
    assert max(seen["saving"]) - before <= two_layers

    expected = jax.device_get(state)
    del state
    without = device_bytes()
    restored = restore_state(checkpoints, 1, shapes)
    assert_equal_and_placed(expected, restored, shapes)
    assert max(seen["restoring"]) - without <= whole + leaf


def test_what_is_saved_is_the_state_at_the_time_of_the_call(tmp_path: Path) -> None:
    shapes = like(MeshConfig())
    state = numbered(shapes)
    expected = jax.device_get(state)
    checkpoints = Checkpoints(tmp_path)
    save_state(checkpoints, 1, state)
    step = jax.jit(lambda state: jax.tree.map(lambda leaf: leaf + 1, state), donate_argnums=0)
    jax.block_until_ready(step(state))
    checkpoints.wait()
    assert_equal_and_placed(expected, restore_state(checkpoints, 1, shapes), shapes)


@pytest.mark.slow
@pytest.mark.parametrize("offload", [(True, True), (True, False), (False, True)])
def test_moments_in_the_memory_of_the_host_are_saved_and_come_back(
    tmp_path: Path, seen: dict[str, list[int]], offload: tuple[bool, bool]
) -> None:
    saved, wanted = (like(SPLIT, offload=where, **WIDE) for where in offload)
    state = numbered(saved)
    leaf = max(map(bytes_of, jax.tree.leaves(state)))
    before = device_bytes()
    checkpoints = Checkpoints(tmp_path)
    save_state(checkpoints, 1, state)
    checkpoints.wait()
    # An offloaded leaf is copied to the devices as a whole.
    assert max(seen["saving"]) - before <= leaf + 2 * leaf // 4
    restored = restore_state(checkpoints, 1, wanted)
    assert_equal_and_placed(state, restored, wanted)
    kinds = {moment.sharding.memory_kind for moment in jax.tree.leaves(restored.opt_state)}
    assert ("pinned_host" in kinds) == offload[1]


def test_batches_are_runs_of_neighbours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrays, "BATCH_BYTES", 6)
    runs = [(batch.start, batch.stop) for batch in arrays.batches([3, 3, 1, 9, 2, 4])]
    assert runs == [(0, 2), (2, 3), (3, 4), (4, 6)]
    assert list(arrays.batches([])) == []
