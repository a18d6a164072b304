"""A step with adapters: what it trains, what it costs, and that its sums do not depend on layout.

The weights and rows are those of `test_step.py`, or of `test_sharded_step.py` on several devices.
"""

import functools
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from parrot_jax.model.decoder import hidden_states, init_params
from parrot_jax.model.families import FAMILIES
from parrot_jax.model.lora import LORA, init_adapters, merged, scaled
from parrot_jax.model.lora_config import LoraConfig, num_adapter_parameters, targets_of
from parrot_jax.sharding import MeshConfig
from parrot_jax.train.objectives import RoleMaskedLoss
from parrot_jax.train.optim import adamw
from parrot_jax.train.program import put_rows
from parrot_jax.train.step import summed_gradients, train_step
from parrot_jax.train.train_config import OptimConfig
from parrot_jax.train.train_state import TrainState

from . import test_sharded_step as sharded
from .test_step import CONFIG, FORWARD, A, B, C, assert_close, batch_of, micro

LORA_CONFIG = LoraConfig(rank=4, alpha=8, base_dtype="float32")
DROPOUT = replace(LORA_CONFIG, dropout=0.5)
OPTIMIZER = adamw(OptimConfig())


def random_adapters(config: Any, lora: LoraConfig = LORA_CONFIG) -> Any:
    """Adapters whose B is not zero, so that they change the model."""
    tree = init_adapters(config, lora, 1)
    leaves, treedef = jax.tree.flatten(tree)
    keys = jax.random.split(jax.random.key(2), len(leaves))
    return treedef.unflatten(
        0.2 * jax.random.normal(key, leaf.shape) for key, leaf in zip(keys, leaves, strict=True)
    )


def merged_params(config: Any, params: Any, adapters: Any, lora: LoraConfig) -> Any:
    """The weights with their adapters added."""
    layers = jax.tree.map(lambda leaf: leaf, params["layers"])
    for target in targets_of(config, lora):
        place, inner = layers, adapters["layers"]
        for name in target.path[:-1]:
            place, inner = place[name], inner[name]
        name = target.path[-1]
        place[name] = merged(target, place[name], *inner[name].values(), lora.scale)
    return {**params, "layers": layers}


@pytest.fixture(scope="module")
def state() -> TrainState:
    trained = {LORA: random_adapters(CONFIG)}
    return TrainState(trained, OPTIMIZER.init(trained), jnp.int32(0), init_params(CONFIG, 0))


@functools.partial(jax.jit, static_argnames="lora")
def gradients(state: TrainState, batch: Any, lora: LoraConfig = LORA_CONFIG) -> Any:
    (loss, weight, _), grads = summed_gradients(
        state,
        batch,
        forward=FORWARD._replace(lora=lora),
        objective=RoleMaskedLoss(None),
        accumulator_dtype="float32",
        key=jax.random.fold_in(jax.random.key(0), state.step),
    )
    return loss / weight, jax.tree.map(lambda grad: grad / weight, grads)


def step(state: TrainState, batch: Any, lora: LoraConfig = LORA_CONFIG) -> Any:
    return jax.jit(
        functools.partial(
            train_step,
            forward=FORWARD._replace(lora=lora),
            objective=RoleMaskedLoss(None),
            optimizer=OPTIMIZER,
            clip_norm=1.0,
        )
    )(state, micro(batch), 1e-2)


@pytest.mark.parametrize(
    "family",
    [
        pytest.param(family, marks=[] if family in ("llama", "qwen3") else pytest.mark.nightly)
        for family in FAMILIES
    ],
)
def test_a_model_with_adapters_equals_the_model_with_the_sum(family: str) -> None:
    config = replace(CONFIG, family=family)
    params, adapters = init_params(config, 0), random_adapters(config)
    tokens = jnp.arange(2, 34).reshape(2, 16)

    @jax.jit
    def hidden(params: Any) -> Any:
        return hidden_states(
            config, params, tokens, None, jnp.broadcast_to(jnp.arange(16)[None], (2, 16)),
            compute_dtype=jnp.float32, remat="none",
        )  # fmt: skip

    adapted = hidden(scaled({**params, LORA: adapters}, LORA_CONFIG))
    assert_close(adapted, hidden(merged_params(config, params, adapters, LORA_CONFIG)), 1e-4)
    assert float(jnp.abs(adapted - hidden(params)).max()) > 0.1
    # New adapters change nothing: B is zero.
    new = scaled({**params, LORA: init_adapters(config, LORA_CONFIG, 0)}, LORA_CONFIG)
    np.testing.assert_array_equal(hidden(new), hidden(params))


def test_new_adapters() -> None:
    adapters = init_adapters(CONFIG, LORA_CONFIG, 0)["layers"]
    sizes = {
        name: (leaf["a"].shape, leaf["b"].shape)
        for name, leaf in (adapters["attention"] | adapters["mlp"]).items()
    }
    assert sizes == {  # L 2, D 16, F 32, heads 4 and 2 of width 4, rank 4
        "q": ((2, 16, 4), (2, 4, 4, 4)),
        "k": ((2, 16, 4), (2, 4, 2, 4)),
        "v": ((2, 16, 4), (2, 4, 2, 4)),
        "o": ((2, 4, 4, 4), (2, 4, 16)),
        "gate": ((2, 16, 4), (2, 4, 32)),
        "up": ((2, 16, 4), (2, 4, 32)),
        "down": ((2, 32, 4), (2, 4, 16)),
    }
    assert num_adapter_parameters(CONFIG, LORA_CONFIG) == sum(
        leaf.size for leaf in jax.tree.leaves(adapters)
    )
    # Uniform in ±1 / sqrt(32): the standard deviation is the bound / sqrt(3).
    down = np.asarray(adapters["mlp"]["down"]["a"])
    assert 0.95 * 32**-0.5 < np.abs(down).max() < 32**-0.5
    assert down.std() == pytest.approx(32**-0.5 / 3**0.5, rel=0.1)
    assert not np.array_equal(down[0], down[1])


def test_a_step_changes_only_the_adapters(state: TrainState) -> None:
    after, metrics = step(state, batch_of([A, C], [B]))
    assert metrics.finite
    jax.tree.map(np.testing.assert_array_equal, after.frozen, state.frozen)
    for new, old in zip(*map(jax.tree.leaves, (after.trainable, state.trainable)), strict=True):
        assert float(jnp.abs(new - old).max()) > 1e-3
    assert {leaf.size for leaf in jax.tree.leaves(after.opt_state)} == {
        1, *(leaf.size for leaf in jax.tree.leaves(state.trainable))
    }  # fmt: skip


@pytest.mark.slow
def test_packed_accumulated_and_separate_rows_have_the_same_gradients(state: TrainState) -> None:
    separate = gradients(state, micro(batch_of([A], [B], [C])))
    assert_close(gradients(state, micro(batch_of([A, C], [B]))), separate)
    assert_close(gradients(state, micro(batch_of([A], [B], [C]), steps=3)), separate)


@pytest.mark.slow
def test_dropout_differs_by_step_and_micro_batch_and_is_off_in_evaluation(
    state: TrainState,
) -> None:
    batch = batch_of([A], [A], [A])
    at = [gradients(state._replace(step=jnp.int32(n)), micro(batch), DROPOUT) for n in (0, 0, 1)]
    jax.tree.map(np.testing.assert_array_equal, at[0], at[1])
    assert float(at[0][0]) != float(at[2][0])
    # Three times the same row: without dropout, as one.
    one, three = micro(batch_of([A])), micro(batch_of([A], [A], [A]), steps=3)
    assert_close(gradients(state, three)[0], gradients(state, one)[0])
    assert float(jnp.abs(gradients(state, three, DROPOUT)[0] - at[0][0])) > 1e-3
    params = scaled(state.params, DROPOUT)
    forward = FORWARD._replace(lora=DROPOUT)
    np.testing.assert_array_equal(
        forward.hidden(state.params, batch),
        hidden_states(
            CONFIG, params, batch["tokens"], batch["segment_ids"], batch["positions"],
            compute_dtype=jnp.float32, remat="none",
        ),
    )  # fmt: skip


def test_half_of_the_inputs_are_dropped_and_the_others_doubled() -> None:
    from parrot_jax.model.lora import dropped

    found = np.asarray(dropped(jnp.ones((100, 100)), jax.random.key(0), 0.5))
    assert set(found.flat) == {0.0, 2.0}
    assert found.mean() == pytest.approx(1.0, abs=0.05)


# ---- several devices ----------------------------------------------------------------------------


def gradients_on(num_devices: int, mesh: MeshConfig) -> tuple[Any, Any]:
    """Loss and gradients with dropout, for the rows of `test_sharded_step.py`."""
    lora = replace(DROPOUT, dropout=0.25)
    config = replace(sharded.CONFIG, mesh=mesh, lora=lora)
    program = sharded.program_on(config, num_devices, live_capacity=24)
    batch, all_rows = program.batch["tokens"], sharded.rows()
    placed = put_rows(
        lambda places: {name: array[list(places)] for name, array in all_rows.items()},
        batch.shape,
        batch.sharding,
    )
    base, adapters = init_params(config.model, 7), random_adapters(config.model, lora)
    place = functools.partial(jax.tree.map, lambda leaf, like: jax.device_put(leaf, like.sharding))
    trained = place({LORA: adapters}, program.state.trainable)
    frozen = place(base, program.state.frozen)

    @jax.jit
    def run(trained: Any, frozen: Any, placed: Any) -> Any:
        (loss, weight, _), grads = summed_gradients(
            TrainState(trained, None, 0, frozen),
            placed,
            forward=program.forward,
            objective=RoleMaskedLoss(24),
            accumulator_dtype="float32",
            key=jax.random.key(0),
        )
        return loss / weight, jax.tree.map(lambda grad: grad / weight, grads)

    return jax.device_get(run(trained, frozen, placed))


@pytest.mark.nightly
def test_eight_devices_have_the_gradients_of_one_also_with_dropout() -> None:
    loss, grads = gradients_on(1, MeshConfig(data=1, fsdp=1, tensor=1))
    for mesh in (MeshConfig(data=2, fsdp=2, tensor=2), MeshConfig(data=1, fsdp=8, tensor=1)):
        other_loss, others = gradients_on(8, mesh)
        np.testing.assert_allclose(other_loss, loss, rtol=1e-5)
        for (path, grad), other in zip(
            jax.tree_util.tree_leaves_with_path(grads), jax.tree.leaves(others), strict=True
        ):
            distance = np.linalg.norm(grad - other) / np.linalg.norm(grad)
            assert distance < 1e-5, f"{jax.tree_util.keystr(path)}: {distance:.1e}"


def test_adapters_are_sharded_like_their_weights() -> None:
    config = replace(sharded.CONFIG, mesh=MeshConfig(data=1, fsdp=4, tensor=2), lora=LORA_CONFIG)
    state = sharded.program_on(config, 8, None).state
    layer = state.trainable[LORA]["layers"]
    specs = {name: tuple(leaf.sharding.spec) for name, leaf in layer["attention"]["q"].items()}
    assert specs == {"a": (None, "fsdp", None), "b": (None, None, "tensor", None)}
    specs = {name: tuple(leaf.sharding.spec) for name, leaf in layer["mlp"]["down"].items()}
    assert specs == {"a": (None, "tensor", None), "b": (None, None, "fsdp")}
    # Two moments and a count: the optimizer has nothing of the frozen weights.
    trained = sum(leaf.size for leaf in jax.tree.leaves(state.trainable))
    assert sum(leaf.size for leaf in jax.tree.leaves(state.opt_state)) == pytest.approx(
        2 * trained, abs=2
    )


# ---- cost ---------------------------------------------------------------------------------------


def test_a_step_takes_four_operations_a_frozen_weight_not_six() -> None:
    """By the compiler's count, of a program without loops, which it counts once.

    Attention and the adapters come on top: with a hidden size of 128 that is 10 %.
    """
    sizes = replace(
        CONFIG, vocab_size=512, hidden_size=128, intermediate_size=256, num_hidden_layers=2
    )
    rows, length = 16, 64
    batch = {
        name: jax.ShapeDtypeStruct((1, rows, length), dtype)
        for name, dtype in [("tokens", jnp.int32), ("segment_ids", jnp.int32),
                            ("positions", jnp.int32), ("loss_weights", jnp.float32)]
    }  # fmt: skip
    base = jax.eval_shape(lambda: init_params(sizes, 0))
    used = sum(leaf.size for leaf in jax.tree.leaves(base)) - base["embed"].size

    def per_weight(lora: LoraConfig | None) -> float:
        forward = FORWARD._replace(model=sizes, lora=lora, unroll_layers=2, loss_tile=rows * length)
        trained, frozen = base, {}
        if lora is not None:
            trained = {LORA: jax.eval_shape(lambda: init_adapters(sizes, lora, 0))}
            frozen = base
        run = functools.partial(
            summed_gradients, forward=forward, objective=RoleMaskedLoss(None),
            accumulator_dtype="float32", key=jax.random.key(0),
        )  # fmt: skip
        compiled = jax.jit(run).lower(TrainState(trained, None, 0, frozen), batch).compile()
        cost: Any = compiled.cost_analysis()
        return cost["flops"] / (rows * length * used)

    full, adapted = per_weight(None), per_weight(replace(LORA_CONFIG, rank=2))
    assert 6 < full < 6.7
    assert 4 < adapted < 4.7
    assert adapted / full == pytest.approx(4 / 6, rel=0.05)
