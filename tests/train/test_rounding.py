"""Stochastic rounding: bfloat16 weights take updates below half their last bit, on average."""

from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from parrot_jax.model import decoder
from parrot_jax.model.attention import choose
from parrot_jax.model.model_config import ModelConfig
from parrot_jax.train.forward import Forward
from parrot_jax.train.objectives import RoleMaskedLoss
from parrot_jax.train.optim import adamw
from parrot_jax.train.rounding import round_stochastically
from parrot_jax.train.step import train_step
from parrot_jax.train.train_config import OptimConfig
from parrot_jax.train.train_state import TrainState

KEY = jax.random.key(0)
LAST_BIT = 2.0**-7  # of a bfloat16 in [1, 2)


def test_a_quarter_of_a_bit_is_rounded_up_in_a_quarter_of_the_cases() -> None:
    values = jnp.full(100_000, 1 + LAST_BIT / 4, jnp.float32)
    rounded = np.asarray(round_stochastically(values, KEY), np.float32)
    assert set(rounded) == {1.0, 1 + LAST_BIT}
    # Standard deviation 0.0014.
    assert abs(np.mean(rounded == 1 + LAST_BIT) - 0.25) < 0.006
    negative = np.asarray(round_stochastically(-values, KEY), np.float32)
    np.testing.assert_array_equal(negative, -rounded)


@given(st.floats(width=32, allow_nan=False), st.integers(0, 2**31))
def test_it_is_one_of_the_two_neighbours(value: float, seed: int) -> None:
    rounded = round_stochastically(jnp.float32(value), jax.random.key(seed))
    toward_zero = (np.float32(value).view(np.uint32) >> 16).astype(np.uint16)
    below, above = (
        np.uint16(bits).view(ml_dtypes.bfloat16) for bits in (toward_zero, toward_zero + 1)
    )
    exact = np.float32(below) == np.float32(value)
    assert np.asarray(rounded) == below or (not exact and np.asarray(rounded) == above)


def test_what_is_no_number_stays_so() -> None:
    # The first NaN has its only mantissa bit in the low half, which rounding drops.
    nan = np.uint32(0x7F800001).view(np.float32)
    values = jnp.asarray([nan, np.nan, np.inf, -np.inf, 0.0], jnp.float32)
    rounded = np.asarray(round_stochastically(values, KEY), np.float32)
    np.testing.assert_array_equal(rounded, [np.nan, np.nan, np.inf, -np.inf, 0.0])


# ---- training ------------------------------------------------------------------------------------

MODEL = ModelConfig(
    vocab_size=64,
    hidden_size=64,
    intermediate_size=128,
    num_hidden_layers=2,
    num_attention_heads=4,
    initializer_range=0.1,
)
FORWARD = Forward(
    model=MODEL,
    compute_dtype=jnp.dtype("float32"),
    attention=choose(),
    remat="none",
    loss_tile=64,
)
NUM_STEPS = 200


def decrease(param_dtype: str, moments_dtype: str = "float32") -> float:
    """The decrease of the loss in 200 steps at the paper's learning rate of 3e-5."""
    tokens = jax.random.randint(jax.random.key(1), (1, 4, 16), 3, MODEL.vocab_size)
    ones = jnp.ones(tokens.shape, jnp.int32)
    batch = {
        "tokens": tokens,
        "loss_weights": ones.astype(jnp.float32),
        "segment_ids": ones,
        "positions": jnp.broadcast_to(jnp.arange(16), tokens.shape),
    }
    optimizer = adamw(OptimConfig(moments_dtype=moments_dtype))
    # All runs start from weights that bfloat16 represents exactly.
    params = jax.tree.map(
        lambda leaf: leaf.astype(param_dtype), decoder.init_params(MODEL, 0, dtype="bfloat16")
    )

    def step(state: TrainState, _: Any) -> Any:
        state, metrics = train_step(
            state,
            batch,
            3e-5,
            forward=FORWARD,
            objective=RoleMaskedLoss(),
            optimizer=optimizer,
            clip_norm=1e9,
        )
        return state, metrics.loss

    state = TrainState(params, optimizer.init(params), jnp.int32(0))
    state, losses = jax.jit(lambda state: jax.lax.scan(step, state, length=NUM_STEPS + 1))(state)
    assert {leaf.dtype for leaf in jax.tree.leaves(state.params)} == {jnp.dtype(param_dtype)}
    moments = [leaf for leaf in jax.tree.leaves(state.opt_state) if leaf.ndim]
    assert {leaf.dtype for leaf in moments} == {jnp.dtype(moments_dtype)}
    return float(losses[0] - losses[-1])


@pytest.fixture(scope="module")
def in_float32() -> float:
    return decrease("float32")


@pytest.mark.slow
@pytest.mark.parametrize("moments_dtype", ["float32", "bfloat16"])
def test_bfloat16_weights_learn_as_float32_weights_do(
    in_float32: float, moments_dtype: str
) -> None:
    assert decrease("bfloat16", moments_dtype) == pytest.approx(in_float32, rel=0.01)


@pytest.mark.slow
def test_rounded_to_the_nearest_they_do_not(
    in_float32: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "parrot_jax.train.step.round_stochastically", lambda values, _: values.astype(jnp.bfloat16)
    )
    assert decrease("bfloat16") < 0.5 * in_float32
