"""Adapters of weights in 4 or 8 bits: how they are rounded, that the model is that of the rounded
weights, and what it keeps in memory."""

import functools
import json
import math
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from parrot_jax.core.config import config_from_dict, load_config
from parrot_jax.core.errors import UserError
from parrot_jax.loaded_run import load_run
from parrot_jax.model.decoder import init_params
from parrot_jax.model.lora import LORA
from parrot_jax.model.lora_config import LoraConfig
from parrot_jax.model.quantized import block_dims, dequantized, is_quantized, quantize
from parrot_jax.sharding import MeshConfig
from parrot_jax.train.loop import train
from parrot_jax.train.objectives import RoleMaskedLoss
from parrot_jax.train.plan import device_bytes
from parrot_jax.train.preflight import preflight
from parrot_jax.train.program import put_rows
from parrot_jax.train.step import summed_gradients
from parrot_jax.train.train_config import TrainConfig
from parrot_jax.train.train_state import TrainState
from parrot_jax.weights.fingerprints import HashInParts, weights_hash
from parrot_jax.weights.model_folder import load_params

from . import test_sharded_step as sharded
from .test_lora_run import adapters_of, on_pairs
from .test_lora_step import random_adapters
from .test_step import CONFIG, FORWARD, A, B, C, assert_close, batch_of, micro

NF4_CONFIG = LoraConfig(rank=4, alpha=8, base_dtype="nf4")
# Two blocks of the hidden size, three of the MLP.
MODEL = replace(CONFIG, hidden_size=128, intermediate_size=192, initializer_range=0.05)

# Table in appendix E of arXiv:2305.14314.
NF4 = np.array(
    [-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635,
     -0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725,
     0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941,
     0.7229568362236023, 1.0],
    np.float32,
)  # fmt: skip


def quantized_params(params: Any, model: Any, lora: LoraConfig) -> Any:
    dims = block_dims(model, lora)

    def leaf(path: Any, weight: Any) -> Any:
        names = tuple(key.key for key in path)
        if names not in dims:
            return weight
        return jax.jit(quantize, static_argnums=(1, 2))(weight, dims[names], lora.base_dtype)

    return jax.tree_util.tree_map_with_path(leaf, params)


def floats(params: Any) -> Any:
    return jax.tree.map(
        lambda leaf: dequantized(leaf, "float32") if is_quantized(leaf) else leaf,
        params,
        is_leaf=is_quantized,
    )


@functools.partial(jax.jit, static_argnames=("lora", "remat"))
def gradients(trainable: Any, frozen: Any, lora: LoraConfig, remat: str = "none") -> Any:
    (loss, weight, _), grads = summed_gradients(
        TrainState(trainable, None, jnp.int32(0), frozen),
        micro(batch_of([A, C], [B])),
        forward=FORWARD._replace(model=MODEL, lora=lora, remat=remat),
        objective=RoleMaskedLoss(None),
        accumulator_dtype="float32",
        key=jax.random.key(0),
    )
    return loss / weight, grads


# ---- rounding -----------------------------------------------------------------------------------


def test_nf4_takes_the_nearest_of_16_values_times_the_largest_of_the_block() -> None:
    weight = np.random.default_rng(0).normal(size=(128, 2)).astype(np.float32)
    weight[64:, 1] = 0  # a block without a largest value
    expected = np.empty_like(weight)
    for block in (slice(0, 64), slice(64, 128)):
        for output in (0, 1):
            values = weight[block, output]
            largest = np.abs(values).max() or 1
            nearest = np.abs(NF4 - (values / largest)[:, None]).argmin(axis=1)
            expected[block, output] = NF4[nearest] * largest
    found = quantize(jnp.asarray(weight)[None], 1, "nf4")
    np.testing.assert_array_equal(dequantized(found, "float32")[0], expected)
    assert found.qvalue.dtype == jnp.uint4
    assert found.scale.shape == (1, 2, 2)


def test_int8_is_off_by_at_most_half_a_step() -> None:
    weight = np.random.default_rng(0).normal(size=(1, 128, 2)).astype(np.float32)
    found = np.asarray(dequantized(quantize(jnp.asarray(weight), 1, "int8"), "float32"))
    blocks = (1, 2, 64, 2)
    step = np.abs(weight).reshape(blocks).max(axis=2, keepdims=True) / 127.5
    assert (np.abs(found - weight).reshape(blocks) <= 0.5001 * step).all()


def test_the_blocks_of_o_are_within_a_head() -> None:
    params = quantized_params(init_params(MODEL, 0), MODEL, NF4_CONFIG)
    attention, mlp = params["layers"]["attention"], params["layers"]["mlp"]
    scales = {name: leaf.scale.shape for name, leaf in (attention | mlp).items()}
    assert scales == {  # L 2, D 128, F 192, heads 4 and 2 of width 32
        "q": (2, 2, 4, 32), "k": (2, 2, 2, 32), "v": (2, 2, 2, 32), "o": (2, 4, 1, 128),
        "gate": (2, 2, 192), "up": (2, 2, 192), "down": (2, 3, 128),
    }  # fmt: skip
    # A module without an adapter stays as it is.
    only_q = replace(NF4_CONFIG, targets=("q_proj",))
    params = quantized_params(init_params(MODEL, 0), MODEL, only_q)
    assert is_quantized(params["layers"]["attention"]["q"])
    assert not is_quantized(params["layers"]["mlp"]["up"])


# ---- the model ----------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "remat"), [("nf4", "none"), ("nf4", "full"), ("int8", "dots")])
def test_loss_and_gradients_are_those_of_the_rounded_weights(dtype: Any, remat: str) -> None:
    lora = replace(NF4_CONFIG, base_dtype=dtype)
    trainable = {LORA: random_adapters(MODEL)}
    frozen = quantized_params(init_params(MODEL, 0), MODEL, lora)
    found = gradients(trainable, frozen, lora, remat)
    assert_close(found, gradients(trainable, floats(frozen), lora, remat))


# The largest of 64 normal values is 2.6 standard deviations, so a step of int8 is 2.6 / 127.5 of
# one, and a uniform error has 1 / sqrt(12) of that: 0.6 %.
@pytest.mark.parametrize(("dtype", "of_weights"), [("int8", 0.006), ("nf4", 0.095)])
def test_rounding_changes_the_model_a_little(dtype: Any, of_weights: float) -> None:
    params, batch = init_params(MODEL, 0), batch_of([A, C], [B])
    rounded = quantized_params(params, MODEL, replace(NF4_CONFIG, base_dtype=dtype))

    def error(found: Any, exact: Any) -> float:
        return float(jnp.linalg.norm(found - exact) / jnp.linalg.norm(exact))

    weights = [tree["layers"]["mlp"]["up"] for tree in (floats(rounded), params)]
    assert error(*weights) == pytest.approx(of_weights, rel=0.05)
    # Gate, up and down are multiplied. The tree has no adapters, as for the reference of CaPO.
    forward = FORWARD._replace(model=MODEL)
    hidden = [forward.hidden(tree, batch) for tree in (rounded, params)]
    assert of_weights < error(*hidden) < 3 * of_weights


def test_the_reference_of_rounded_weights_has_another_key() -> None:
    params = init_params(MODEL, 0)
    kinds = [replace(NF4_CONFIG, base_dtype=dtype) for dtype in ("bfloat16", "int8", "nf4")]
    hashes = [weights_hash(quantized_params(params, MODEL, lora)) for lora in kinds]
    assert len(set(hashes)) == 3
    assert hashes[2] == weights_hash(quantized_params(params, MODEL, NF4_CONFIG))
    found = HashInParts()
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        found.add_stacked(path, leaf)
    assert found.result() == weights_hash(params)


# ---- memory -------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_weight_takes_four_and_a_half_bits_and_is_never_kept_as_float() -> None:
    """By the compiler, of a program that keeps everything for the backward pass."""
    sizes = replace(MODEL, num_hidden_layers=16)
    trainable = jax.eval_shape(lambda: {LORA: random_adapters(sizes)})

    def compiled(lora: LoraConfig) -> tuple[int, int, int]:
        frozen = jax.eval_shape(lambda: quantized_params(init_params(sizes, 0), sizes, lora))
        run = functools.partial(
            summed_gradients, forward=FORWARD._replace(model=sizes, lora=lora),
            objective=RoleMaskedLoss(None), accumulator_dtype="float32", key=jax.random.key(0),
        )  # fmt: skip
        state = TrainState(trainable, None, 0, frozen)
        memory: Any = jax.jit(run).lower(state, micro(batch_of([A]))).compile().memory_analysis()
        num_weights = sum(
            math.prod(leaf.shape)
            for kind in ("attention", "mlp")
            for leaf in frozen["layers"][kind].values()
        )
        return num_weights, memory.argument_size_in_bytes, memory.temp_size_in_bytes

    num_weights, whole, whole_temp = compiled(replace(NF4_CONFIG, base_dtype="float32"))
    _, small, temp = compiled(NF4_CONFIG)
    # 32 bits less 4, and a float32 scale for 64 weights (for 32, the width of a head, in `o`).
    assert (whole - small) / num_weights == pytest.approx((32 - 4 - 32 / 60) / 8, rel=0.01)
    # XLA's CPU backend unpacks the 4 bits to bytes; as float32, they would take four bytes each.
    assert temp - whole_temp < 1.1 * num_weights


# ---- several devices ----------------------------------------------------------------------------


def sharded_config(mesh: MeshConfig) -> TrainConfig:
    model = replace(sharded.MODEL, hidden_size=128, intermediate_size=256, initializer_range=0.05)
    return replace(sharded.CONFIG, model=model, mesh=mesh, lora=NF4_CONFIG)


def gradients_on(num_devices: int, mesh: MeshConfig) -> Any:
    config = sharded_config(mesh)
    program = sharded.program_on(config, num_devices, live_capacity=24)
    all_rows = sharded.rows()
    like = program.batch["tokens"]
    placed = put_rows(
        lambda places: {name: array[list(places)] for name, array in all_rows.items()},
        like.shape,
        like.sharding,
    )
    frozen = quantized_params(init_params(config.model, 7), config.model, NF4_CONFIG)
    state = TrainState({LORA: random_adapters(config.model)}, None, 0, frozen)
    state = jax.tree.map(
        lambda leaf, like: jax.device_put(leaf, like.sharding),
        (state.trainable, state.frozen),
        (program.state.trainable, program.state.frozen),
    )

    @jax.jit
    def run(state: Any, placed: Any) -> Any:
        (loss, weight, _), grads = summed_gradients(
            TrainState(state[0], None, 0, state[1]),
            placed,
            forward=program.forward,
            objective=RoleMaskedLoss(24),
            accumulator_dtype="float32",
            key=jax.random.key(0),
        )
        return loss / weight, jax.tree.map(lambda grad: grad / weight, grads)

    return jax.device_get(run(state, placed))


@pytest.mark.slow
def test_eight_devices_have_the_gradients_of_one() -> None:
    one = gradients_on(1, MeshConfig(data=1, fsdp=1, tensor=1))
    assert_close(gradients_on(8, MeshConfig(data=2, fsdp=2, tensor=2)), one)


def test_scales_are_sharded_like_their_weights() -> None:
    config = sharded_config(MeshConfig(data=2, fsdp=2, tensor=2))
    state = sharded.program_on(config, 8, None).state
    down = state.frozen["layers"]["mlp"]["down"]
    assert down.qvalue.shape == (2, 256, 128)
    assert down.scale.shape == (2, 4, 128)
    for part in (down.qvalue, down.scale):
        assert tuple(part.sharding.spec) == (None, "tensor", "fsdp")
    # A quarter of the weights: 4 bits each, and a float32 for 64.
    assert device_bytes(down) == 2 * 256 * 128 // 4 * (4 + 32 // 64) // 8 + 2 * 4 * 128 // 4 * 4
    # Rounded on eight devices as on one.
    weight = init_params(config.model, 0)["layers"]["mlp"]["down"]
    shardings = jax.tree.map(lambda part: part.sharding, down)
    place = jax.jit(quantize, static_argnums=(1, 2), out_shardings=shardings)
    there = place(jax.device_put(weight, down.qvalue.sharding), 1, "nf4")
    jax.tree.map(np.testing.assert_array_equal, there, quantize(weight, 1, "nf4"))
    with pytest.raises(UserError, match="dim 'embed' of 2 is not divisible by 8.*share a scale"):
        sharded.program_on(sharded_config(MeshConfig(data=1, fsdp=8, tensor=1)), 8, None)


# ---- runs ---------------------------------------------------------------------------------------


@pytest.mark.nightly
def test_a_resumed_run_ends_with_the_same_bits(tiny_run: Path, trained_run: Path) -> None:
    config = replace(
        load_config(TrainConfig, tiny_run), init_from=str(trained_run), lora=NF4_CONFIG,
        max_steps=4, checkpoint_every_steps=2, mesh=MeshConfig(data=8, fsdp=1),
    )  # fmt: skip
    train(config)
    parted = replace(config, out=config.out + "-parted")
    train(replace(parted, max_steps=2))
    train(parted)
    one, two = adapters_of(config.out), adapters_of(parted.out)
    assert one.keys() == two.keys()
    for name in one:
        np.testing.assert_array_equal(one[name], two[name])
    # It is used with the weights of the base, in bfloat16 but not quantised.
    merged = load_params(config.out)["layers"]["mlp"]["up"][1]
    base = load_params(str(trained_run))["layers"]["mlp"]["up"][1].astype("bfloat16")
    a, b = (one[f"lora.layers.01.mlp.up.{part}"] for part in "ab")
    np.testing.assert_allclose(merged, base.astype("float32") + 2 * (a @ b), atol=1e-6)
    (reply,) = load_run(config.out).generate([[]], max_tokens=4)
    assert reply.num_tokens
    # Adapters of the sum, which is written once and then quantised.
    second = replace(config, init_from=config.out, out=config.out + "-second", max_steps=1)
    preflight(second)
    train(second)


@pytest.mark.nightly
def test_the_reference_of_preference_training_is_the_rounded_base(
    tiny_run: Path, trained_run: Path, tmp_path: Path
) -> None:
    config = replace(
        on_pairs(load_config(TrainConfig, tiny_run), tmp_path), init_from=str(trained_run),
        lora=NF4_CONFIG, mesh=MeshConfig(data=8, fsdp=1), max_steps=1,
    )  # fmt: skip
    train(config)
    (step,) = Path(config.out, "metrics.jsonl").read_text().splitlines()
    # B is zero at first, so the model is its reference.
    assert json.loads(step)["rewards/margins"] == pytest.approx(0.0, abs=1e-5)
    # A run that does not round has another.
    train(replace(config, lora=None, out=f"{config.out}-full"))
    folders = {part.parent for part in (tmp_path / "cache").glob("reference-*/*.npy")}
    assert len(folders) == 4  # two, each of both splits


# ---- errors -------------------------------------------------------------------------------------


def test_what_is_not_there_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"base_dtype.*'int8' or 'nf4', found 'int4'"):
        config_from_dict(LoraConfig, {"base_dtype": "int4"}, where="lora")
    monkeypatch.setitem(sys.modules, "qwix", None)  # as if it were not installed
    with pytest.raises(UserError, match=r"need the package qwix .*parrot-jax\[qlora\]"):
        quantize(jnp.ones((1, 64, 2)), 1, "nf4")
