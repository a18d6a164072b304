"""Runs with bfloat16 weights, moments and gradient sums, as on one H200.

Resuming is bit-identical, and small addends to bfloat16 sums are not lost.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from parrot_jax import sharding
from parrot_jax.core.config import load_config
from parrot_jax.model import decoder
from parrot_jax.model.attention import choose
from parrot_jax.model.model_config import ModelConfig
from parrot_jax.sharding import MeshConfig
from parrot_jax.train.forward import Forward
from parrot_jax.train.loop import train
from parrot_jax.train.objectives import RoleMaskedLoss
from parrot_jax.train.optim import adamw
from parrot_jax.train.run_folder import RunFolder
from parrot_jax.train.state import abstract_state, restore_state
from parrot_jax.train.step import add_rounded, summed_gradients
from parrot_jax.train.train_config import TrainConfig
from parrot_jax.train.train_state import TrainState
from parrot_jax.weights.checkpoints import Checkpoints

BFLOAT16 = jnp.dtype("bfloat16")

# ---- whole runs ----------------------------------------------------------------------------------


def final_state(config: TrainConfig) -> TrainState:
    """The last checkpoint, in its stored types."""
    checkpoints = Checkpoints(RunFolder(config.out).checkpoints, read_only=True)
    step = checkpoints.latest_step()
    assert step is not None
    assert {array.dtype for array in checkpoints.stored(step).values()} == {BFLOAT16}
    mesh = sharding.make_mesh(MeshConfig(fsdp=1), jax.devices()[:1])
    like = abstract_state(config.model, adamw(config.optim), mesh, "bfloat16")
    return jax.device_get(restore_state(checkpoints, step, like))


def metrics(config: TrainConfig) -> list[dict[str, Any]]:
    lines = Path(config.out, "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k != "step_s"} for line in lines]


@pytest.mark.nightly
@pytest.mark.parametrize(
    ("mesh", "micro_rows"),
    [
        (MeshConfig(data=1, fsdp=1, tensor=1), 4),
        (MeshConfig(data=2, fsdp=2, tensor=2), 2),
    ],
    ids=["one-device", "data2-fsdp2-tensor2"],
)
def test_a_stopped_run_continues_to_the_same_bits(
    tiny_run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    mesh: MeshConfig,
    micro_rows: int,
) -> None:
    num_devices = mesh.data * mesh.fsdp * mesh.tensor
    monkeypatch.setattr(
        "parrot_jax.train.setup.make_mesh",
        lambda config: sharding.make_mesh(config, jax.devices()[:num_devices]),
    )
    config = load_config(TrainConfig, tiny_run)
    config = replace(
        config,
        mesh=mesh,
        epochs=4.0,
        batch_rows=16,
        micro_rows=micro_rows,
        param_dtype="bfloat16",
        optim=replace(config.optim, moments_dtype="bfloat16"),
        accumulator_dtype="bfloat16",
    )
    assert config.accumulation_steps(mesh.data * mesh.fsdp) > 1
    whole = replace(config, out=str(tmp_path / "whole"))
    train(whole)
    for stop in (5, None):
        train(replace(config, max_steps=stop))
    assert metrics(config) == metrics(whole)
    losses = [line["loss"] for line in metrics(whole)]
    assert len(losses) == 7
    assert losses[-1] < losses[0]
    one, other = final_state(config), final_state(whole)
    assert {leaf.dtype for leaf in jax.tree.leaves(one) if leaf.ndim} == {BFLOAT16}
    jax.tree.map(np.testing.assert_array_equal, one, other)


# ---- gradient sums -------------------------------------------------------------------------------


def add_256_times(sums: jax.Array, addend: float) -> np.ndarray:
    """Adds in a loop with a new key each time, as the step does."""

    def add(sums: jax.Array, key: Any) -> Any:
        (sums,) = add_rounded([sums], [jnp.full(sums.shape, addend)], key)
        return sums, None

    keys = jax.random.split(jax.random.key(0), 256)
    return np.asarray(jax.lax.scan(add, sums, keys)[0], np.float32)


def test_256_addends_of_a_quarter_of_the_last_bit_are_half_of_the_sum() -> None:
    ones = jnp.ones(10_000, jnp.bfloat16)
    # The last bit of a bfloat16 in [1, 2) is 2^-7: each addition rounds up in a quarter of the
    # cases, 64 times of 256 on average, with a standard deviation of sqrt(256 / 4 * 3 / 4) = 6.9.
    sums = add_256_times(ones, 2.0**-9)
    ups = (sums - 1) * 2**7
    assert np.mean(ups) == pytest.approx(64, abs=5 * 6.9 / 100)
    assert np.std(ups) == pytest.approx(6.9, rel=0.05)
    assert np.mean(sums) == pytest.approx(1.5, abs=0.003)


def test_rounded_to_the_nearest_they_are_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "parrot_jax.train.step.round_stochastically", lambda values, _: values.astype(jnp.bfloat16)
    )
    assert (add_256_times(jnp.ones(10, jnp.bfloat16), 2.0**-9) == 1.0).all()


MODEL = ModelConfig(
    vocab_size=32,
    hidden_size=16,
    intermediate_size=32,
    num_hidden_layers=1,
    num_attention_heads=2,
    initializer_range=0.2,
)
FORWARD = Forward(
    model=MODEL,
    compute_dtype=jnp.dtype("float32"),
    attention=choose(),
    remat="none",
    loss_tile=8,
)
NUM_MICRO, NUM_SUMS = 8, 128


@pytest.mark.slow
def test_the_mean_of_bfloat16_sums_is_the_float32_sum() -> None:
    tokens = jax.random.randint(jax.random.key(1), (NUM_MICRO, 1, 8), 3, MODEL.vocab_size)
    ones = jnp.ones(tokens.shape, jnp.int32)
    batch = {
        "tokens": tokens,
        "loss_weights": ones.astype(jnp.float32),
        "segment_ids": ones,
        "positions": jnp.broadcast_to(jnp.arange(8), tokens.shape),
    }
    params = decoder.init_params(MODEL, 0, dtype="bfloat16")

    def gradient(batch: Any, dtype: str, key: Any) -> Any:
        _, grads = summed_gradients(
            TrainState(params, None, 0),
            batch,
            forward=FORWARD,
            objective=RoleMaskedLoss(),
            accumulator_dtype=dtype,
            key=key,
        )
        return grads

    @jax.jit
    def all_sums() -> Any:
        key = jax.random.key(2)
        alone = jax.lax.map(
            lambda rows: gradient(jax.tree.map(lambda x: x[None], rows), "float32", key), batch
        )
        keys = jax.random.split(key, NUM_SUMS)
        rounded = jax.lax.map(lambda key: gradient(batch, "bfloat16", key), keys)
        return alone, gradient(batch, "float32", key), rounded

    for alone, exact, rounded in zip(*map(jax.tree.leaves, all_sums()), strict=True):
        assert rounded.dtype == jnp.bfloat16
        rounded = np.asarray(rounded, np.float64)
        # A sum is at most |g1| + ... + |g8| = everything, so its last bit is <= 2^-7 everything.
        # The standard deviation of one rounding is at most half of that, of eight roundings sqrt(8)
        # times as much, of the mean of 128 sums sqrt(128) times less. Five deviations are allowed.
        everything = np.abs(np.asarray(alone, np.float64)).sum(0)
        bound = 5 * everything * 2**-8 * np.sqrt(NUM_MICRO / NUM_SUMS)
        assert (np.abs(rounded.mean(0) - np.asarray(exact)) <= bound).all()
        # Rounding took place.
        assert (rounded.std(0) > 0).any()
