"""A step on eight devices equals the step on one, for every mesh, and its memory is sharded.

Model and batch are small but use all features: grouped heads, packed segments, tokens without loss,
micro-batches of unequal weight, compaction of live tokens.
"""

from dataclasses import replace
from functools import cache
from typing import Any

import jax
import numpy as np
import pytest

from parrot_jax.core.errors import UserError
from parrot_jax.data.data_config import DataConfig, MaskConfig
from parrot_jax.dialogue.sources import SourceConfig
from parrot_jax.model.decoder import REMAT_POLICIES, init_params
from parrot_jax.model.families import num_parameters
from parrot_jax.model.model_config import ModelConfig
from parrot_jax.sharding import MeshConfig, make_mesh
from parrot_jax.train.objectives import RoleMaskedLoss
from parrot_jax.train.program import Program, make_program, put_rows
from parrot_jax.train.state import new_state
from parrot_jax.train.step import summed_gradients
from parrot_jax.train.train_config import OptimConfig, TrainConfig
from parrot_jax.train.train_state import TrainState

MODEL = ModelConfig(
    vocab_size=64,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=16,
    num_key_value_heads=8,
    head_dim=8,
    initializer_range=0.2,
    max_position_embeddings=64,
)
ROWS, T = 16, 32
CONFIG = TrainConfig(
    task="ask",
    out="unused",
    data=DataConfig(
        sources=(SourceConfig(kind="messages", path="unused"),),
        tokenizer="unused",
        mask=MaskConfig(loss_roles=("user",)),
        row_tokens=T,
        packing=True,
    ),
    model=MODEL,
    optim=OptimConfig(lr=1e-2),
    batch_rows=ROWS,
    compute_dtype="float32",
    loss_tile=16,
    seed=7,
)
FACTORISATIONS = [
    MeshConfig(data=data, fsdp=fsdp, tensor=8 // (data * fsdp))
    for data in (1, 2, 4, 8)
    for fsdp in (1, 2, 4, 8)
    if 8 % (data * fsdp) == 0
]


def rows() -> dict[str, np.ndarray]:
    """Rows with segments of different lengths, padding, and 1 to 12 live tokens."""
    rng = np.random.default_rng(0)
    batch = {
        "tokens": rng.integers(3, MODEL.vocab_size, (ROWS, T)).astype(np.int32),
        "loss_weights": np.zeros((ROWS, T), np.float32),
        "segment_ids": np.zeros((ROWS, T), np.int32),
        "positions": np.zeros((ROWS, T), np.int32),
    }
    for row in range(ROWS):
        cut, stop = 5 + row, 24 + row % 8
        for segment, (start, end) in enumerate([(0, cut), (cut, stop)], start=1):
            batch["segment_ids"][row, start:end] = segment
            batch["positions"][row, start:end] = np.arange(end - start)
        live = rng.choice(np.arange(cut + 1, stop), 1 + row % 3, replace=False)
        batch["loss_weights"][row, live] = rng.uniform(0.5, 2.0, len(live))
    return batch


def program_on(config: TrainConfig, num_devices: int, live_capacity: int | None) -> Program:
    mesh = make_mesh(config.mesh, jax.devices()[:num_devices])
    return make_program(config, mesh, objective=RoleMaskedLoss(live_capacity))


def loss_and_gradients(config: TrainConfig, num_devices: int) -> tuple[Any, Any]:
    """The step's mean loss and gradients, computed by the code of the step."""
    program = program_on(config, num_devices, live_capacity=24)
    batch, all_rows = program.batch["tokens"], rows()
    placed = put_rows(
        lambda places: {name: array[list(places)] for name, array in all_rows.items()},
        batch.shape,
        batch.sharding,
    )
    params = init_params(
        config.model, config.seed, jax.tree.map(lambda leaf: leaf.sharding, program.state.params)
    )

    @jax.jit
    def run(params: Any, placed: Any) -> Any:
        (loss, weight, _), grads = summed_gradients(
            TrainState(params, None, 0),
            placed,
            forward=program.forward,
            objective=RoleMaskedLoss(24),
            accumulator_dtype="float32",
            key=jax.random.key(0),
        )
        return loss / weight, jax.tree.map(lambda grad: grad / weight, grads)

    return jax.device_get(run(params, placed))


@cache
def on_one_device() -> tuple[Any, Any]:
    """The reference: all rows at once on one device, without remat."""
    return loss_and_gradients(replace(CONFIG, mesh=MeshConfig(data=1, fsdp=1, tensor=1)), 1)


def assert_equal_to_one_device(config: TrainConfig) -> None:
    loss, grads = loss_and_gradients(config, 8)
    expected_loss, expected = on_one_device()
    np.testing.assert_allclose(loss, expected_loss, rtol=1e-5)
    for (path, grad), other in zip(
        jax.tree_util.tree_leaves_with_path(grads), jax.tree.leaves(expected), strict=True
    ):
        distance = np.linalg.norm(grad - other) / np.linalg.norm(other)
        assert distance < 1e-5, f"{jax.tree_util.keystr(path)}: {distance:.1e}"


@pytest.mark.parametrize(
    "mesh",
    # Using all axes finds most errors; each other mesh costs a compilation.
    [m if m.data == m.fsdp == 2 else pytest.param(m, marks=pytest.mark.slow)
     for m in FACTORISATIONS],
    ids=lambda mesh: f"data{mesh.data}-fsdp{mesh.fsdp}-tensor{mesh.tensor}",
)  # fmt: skip
def test_every_mesh_has_the_loss_and_gradients_of_one_device(mesh: MeshConfig) -> None:
    assert len(FACTORISATIONS) == 10
    assert_equal_to_one_device(replace(CONFIG, mesh=mesh, micro_rows=1))


@pytest.mark.slow  # each is a compilation; tests/model has all of them on one device
@pytest.mark.parametrize("remat", [name for name in REMAT_POLICIES if name != "none"])
def test_every_remat_policy_has_them_too(remat: str) -> None:
    mesh = MeshConfig(data=2, fsdp=2, tensor=2)
    assert_equal_to_one_device(replace(CONFIG, mesh=mesh, micro_rows=2, remat=remat))


@pytest.mark.slow
def test_unrolled_layers_have_them_too() -> None:
    mesh = MeshConfig(data=1, fsdp=4, tensor=2)
    assert_equal_to_one_device(replace(CONFIG, mesh=mesh, micro_rows=2, unroll_layers=2))


@pytest.mark.parametrize(
    "param_dtype", ["float32", pytest.param("bfloat16", marks=pytest.mark.slow)]
)
def test_every_device_holds_its_share_of_the_whole_state(param_dtype: Any) -> None:
    config = replace(
        CONFIG,
        param_dtype=param_dtype,
        mesh=MeshConfig(data=1, fsdp=4, tensor=2),
        # So wide that the replicated norm scales are negligible.
        model=replace(MODEL, hidden_size=512, intermediate_size=1024, vocab_size=512),
    )
    program = program_on(config, 8, None)
    state = new_state(config, program.optimizer, program.state)
    held = dict.fromkeys(jax.devices(), 0)
    for array in jax.tree.leaves(state):
        for shard in array.addressable_shards:
            held[shard.device] += shard.data.nbytes
    whole = sum(array.nbytes for array in jax.tree.leaves(state))
    for num_bytes in held.values():
        assert num_bytes == pytest.approx(whole / 8, rel=0.01)


def test_runs_at_other_rates_share_one_step() -> None:
    other = replace(CONFIG, optim=replace(CONFIG.optim, lr=1.0, warmup_epochs=9.0))
    assert program_on(other, 8, 24).step is program_on(CONFIG, 8, 24).step
    clipped = replace(CONFIG, optim=replace(CONFIG.optim, clip_norm=9.0))
    assert program_on(clipped, 8, 24).step is not program_on(CONFIG, 8, 24).step


@pytest.mark.slow
def test_no_device_ever_holds_the_whole_gradient() -> None:
    config = replace(
        CONFIG,
        mesh=MeshConfig(),
        micro_rows=1,
        model=replace(MODEL, hidden_size=256, intermediate_size=704, num_hidden_layers=8),
    )
    program = program_on(config, 8, None)
    memory = program.step.lower(program.state, program.batch, 0.0).compile().memory_analysis()
    whole = 4 * num_parameters(config.model)
    assert memory.argument_size_in_bytes < 1.1 * 3 * whole / 8
    # Two gathered layers, the gradient of one, and a part of the sums; not all eight layers, whose
    # gathered weights and gradients would take 2 * whole.
    assert memory.temp_size_in_bytes < whole


@pytest.mark.slow
def test_moments_in_the_memory_of_the_host_change_nothing() -> None:
    results = []
    for offload in (False, True):
        config = replace(CONFIG, mesh=MeshConfig(fsdp=8), offload_optimizer=offload)
        program = program_on(config, 8, None)
        state = new_state(config, program.optimizer, program.state)
        batch, all_rows = program.batch["tokens"], rows()
        placed = put_rows(
            lambda places, all_rows=all_rows: {n: a[list(places)] for n, a in all_rows.items()},
            batch.shape,
            batch.sharding,
        )
        for _ in range(2):
            state, _ = program.step(state, placed, 1e-2)
        kinds = {leaf.sharding.memory_kind for leaf in jax.tree.leaves(state.opt_state)}
        assert ("pinned_host" in kinds) == offload
        results.append(jax.device_get(state.params))
    jax.tree.map(np.testing.assert_array_equal, *results)


def test_rows_are_taken_in_as_few_micro_batches_as_allowed() -> None:
    config = replace(CONFIG, batch_rows=32, micro_rows=1)
    assert config.accumulation_steps(8) == 4
    assert config.accumulation_steps(4) == 8, "fewer devices must make the same step"
    assert replace(config, micro_rows=3).accumulation_steps(4) == 4, "3 does not divide 8"
    assert replace(config, micro_rows=None).accumulation_steps(4) == 1
    with pytest.raises(UserError, match="batch_rows=32 does not divide into the 3 parts"):
        config.accumulation_steps(3)
