"""The train step: sums do not depend on the arrangement of rows; bad numbers cause no update."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from parrot_jax.data.packing import fill_row
from parrot_jax.data.windows import Window
from parrot_jax.model import decoder
from parrot_jax.model.attention import choose
from parrot_jax.model.model_config import ModelConfig
from parrot_jax.train.forward import Forward, next_tokens
from parrot_jax.train.objectives import RoleMaskedLoss
from parrot_jax.train.optim import adamw, learning_rate
from parrot_jax.train.step import train_step
from parrot_jax.train.train_config import OptimConfig
from parrot_jax.train.train_state import TrainState, split

CONFIG = ModelConfig(
    vocab_size=61,
    hidden_size=16,
    intermediate_size=32,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=64,
    initializer_range=0.3,
)
FORWARD = Forward(
    model=CONFIG,
    compute_dtype=jnp.dtype("float32"),
    attention=choose(),
    remat="none",
    loss_tile=8,
)
ROW = 32


def window(seed: int, length: int, live: slice) -> Window:
    rng = np.random.default_rng(seed)
    tokens = rng.integers(3, 61, length).astype(np.int32)
    tokens[0] = 1
    weights = np.zeros(length, np.float32)
    weights[live] = rng.uniform(0.5, 2.0, length)[live]
    return Window(tokens, weights, [])


def batch_of(*rows: list[Window]) -> dict[str, Any]:
    # At least three rows, some of them padding, so that batches share a compiled program.
    filled = [fill_row(windows, ROW) for windows in [*rows, [], []][: max(len(rows), 3)]]
    return {name: jnp.stack([row[name] for row in filled]) for name in filled[0].dtype.names}


def micro(batch: dict[str, Any], steps: int = 1) -> dict[str, Any]:
    return {name: a.reshape(steps, -1, a.shape[-1]) for name, a in batch.items()}


@pytest.fixture(scope="module")
def params() -> Any:
    return decoder.init_params(CONFIG, 0)


@functools.partial(jax.jit, static_argnums=2)
def loss_and_grads(params: Any, batch: dict[str, Any], capacity: int | None = None) -> Any:
    def mean(params: Any) -> Any:
        loss, weight, _ = RoleMaskedLoss(capacity)(params, batch, FORWARD)
        return loss / weight

    return jax.value_and_grad(mean)(params)


def assert_close(a: Any, b: Any, tolerance: float = 1e-5) -> None:
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, rtol=tolerance, atol=tolerance * float(jnp.abs(y).max()))


A, B, C = window(0, 9, slice(4, 9)), window(1, 14, slice(10, 14)), window(2, 20, slice(3, 12))


def test_targets_are_shifted_once_and_never_into_the_next_segment() -> None:
    batch = batch_of([A, B])
    targets, weights = next_tokens(batch)
    np.testing.assert_array_equal(targets[0, :-1], batch["tokens"][0, 1:])
    # Position 3 of A predicts its first live token, at 4; position 7 predicts the last.
    assert np.flatnonzero(weights[0]).tolist() == [3, 4, 5, 6, 7, 18, 19, 20, 21]
    assert weights[0, 8] == 0, "the end of A must not predict the start of B"


def test_packed_rows_give_the_loss_and_gradients_of_separate_rows(params: Any) -> None:
    packed = loss_and_grads(params, batch_of([A, C], [B]))
    separate = loss_and_grads(params, batch_of([A], [B], [C]))
    assert_close(packed, separate)


def test_masked_equals_removed(params: Any) -> None:
    # Tokens after the last live one and segments without live tokens change nothing.
    dead_tail = Window(C.tokens[:12], C.loss_weights[:12], [])
    dead = window(7, 10, slice(0, 0))
    assert_close(
        loss_and_grads(params, batch_of([C, dead])), loss_and_grads(params, batch_of([dead_tail]))
    )


def test_compaction_to_live_tokens_changes_nothing(params: Any) -> None:
    batch = batch_of([A, C], [B])  # 18 live tokens
    full = loss_and_grads(params, batch)
    assert_close(loss_and_grads(params, batch, capacity=24), full)
    assert_close(loss_and_grads(params, batch, capacity=4), full)  # overflow: all tokens


def state_of(params: Any, optimizer: optax.GradientTransformation) -> TrainState:
    return TrainState(params, optimizer.init(params), jnp.int32(0))


OPTIMIZER = adamw(OptimConfig())


@functools.partial(jax.jit, static_argnums=2)
def jitted_step(state: TrainState, batch: dict[str, Any], clip_norm: float) -> Any:
    return train_step(
        state,
        batch,
        1e-2,
        forward=FORWARD,
        objective=RoleMaskedLoss(),
        optimizer=OPTIMIZER,
        clip_norm=clip_norm,
    )


def run_step(params: Any, batch: dict[str, Any], clip_norm: float = 1.0) -> Any:
    return jitted_step(state_of(params, OPTIMIZER), batch, clip_norm)


def test_the_frozen_part_stays_and_meets_no_optimizer(params: Any) -> None:
    trainable, frozen = split(params, lambda path: path[0] == "layers")
    assert set(frozen) == {"embed", "norm", "lm_head"}
    state = TrainState(trainable, OPTIMIZER.init(trainable), jnp.int32(0), frozen)
    batch = micro(batch_of([A, C], [B]))
    after, metrics = jitted_step(state, batch, 1.0)
    for new, old in zip(jax.tree.leaves(after.frozen), jax.tree.leaves(frozen), strict=True):
        np.testing.assert_array_equal(new, old)
    moved = [
        not np.array_equal(new, old)
        for new, old in zip(*map(jax.tree.leaves, (after.trainable, trainable)), strict=True)
    ]
    assert all(moved)
    # Two moments per trainable weight, and the step counts of AdamW and of its schedule.
    assert len(jax.tree.leaves(after.opt_state)) == 2 * len(moved) + 2
    _, of_all = run_step(params, batch)
    np.testing.assert_array_equal(metrics.loss, of_all.loss)
    assert metrics.grad_norm < of_all.grad_norm
    assert jax.tree.structure(after.params) == jax.tree.structure(params)


def test_accumulation_over_8_steps_equals_one_batch(params: Any) -> None:
    # Rows with 1 to 23 live tokens: a mean of means would be far off.
    rows = [[window(s, 24, slice(24 - 1 - 3 * s % 23, 24))] for s in range(8)]
    batch = batch_of(*rows)
    one_state, one = run_step(params, micro(batch, 1))
    many_state, many = run_step(params, micro(batch, 8))
    assert_close((one.loss, one.grad_norm), (many.loss, many.grad_norm))
    # Compares moments, because Adam's division amplifies rounding errors of gradients near 0.
    assert_close(one_state.opt_state[0].mu, many_state.opt_state[0].mu)


@pytest.mark.slow
def test_the_gradient_is_clipped_as_a_whole(params: Any) -> None:
    batch = micro(batch_of([A, B], [C]))
    state, metrics = run_step(params, batch, clip_norm=1e-3)
    assert float(metrics.grad_norm) > 1e-3, "the reported norm must be the one before clipping"
    clipped = optax.tree.norm(state.opt_state[0].mu) / 0.1  # mu = (1 - beta1) * gradient
    np.testing.assert_allclose(float(clipped), 1e-3, rtol=1e-4)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_loss_that_is_not_finite_updates_nothing(params: Any, bad: float) -> None:
    broken = jax.tree.map(lambda p: p, params) | {"norm": params["norm"].at[0].set(bad)}
    state, metrics = run_step(broken, micro(batch_of([A, B])))
    assert not metrics.finite
    assert int(state.step) == 0
    for new, old in zip(jax.tree.leaves(state.params), jax.tree.leaves(broken), strict=True):
        np.testing.assert_array_equal(new, old)
    assert all(not np.any(leaf) for leaf in jax.tree.leaves(state.opt_state))


def test_the_rate_rises_then_falls_as_a_cosine() -> None:
    config = OptimConfig(lr=1.0, warmup_epochs=0.5, final_lr_fraction=0.1)
    rate = learning_rate(config, steps_per_epoch=8.0, num_steps=24)
    np.testing.assert_allclose([rate(s) for s in range(4)], [0.25, 0.5, 0.75, 1.0], rtol=1e-6)
    np.testing.assert_allclose(rate(4), 1.0, rtol=1e-6)
    np.testing.assert_allclose(rate(14), 0.55, rtol=1e-6)  # half way down
    np.testing.assert_allclose(rate(24), 0.1, rtol=1e-6)
    peers = [optax.linear_schedule(0.25, 1.0, 3), optax.cosine_decay_schedule(1.0, 20, alpha=0.1)]
    peer = optax.join_schedules(peers, [4])
    np.testing.assert_allclose(
        [rate(s) for s in range(30)], [peer(s) for s in range(30)], rtol=1e-5
    )
    flat = learning_rate(OptimConfig(lr=1.0, warmup_epochs=0.0), steps_per_epoch=8.0, num_steps=8)
    np.testing.assert_allclose(flat(0), 1.0)


def test_adamw_by_hand() -> None:
    # In the first step the bias corrections cancel: the update is lr * (sign(g) + decay * w).
    config = OptimConfig(weight_decay=0.5)
    optimizer = adamw(config)
    weights = {"w": jnp.array([2.0, -4.0])}
    grads, state = {"w": jnp.array([0.3, 7.0])}, optimizer.init(weights)
    updates, _ = optimizer.update(grads, state, weights, learning_rate=0.1)
    np.testing.assert_allclose(updates["w"], [-0.1 * (1 + 1.0), -0.1 * (1 - 2.0)], rtol=1e-5)
