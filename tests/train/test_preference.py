"""Preference training: one result for every way to compute it, and a reference that is never stale.

The oracle computes each answer alone, from dense logits. Packed and unpacked, tiled, compacted,
accumulated and sharded steps must give its loss and gradients.
"""

import functools
import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import parrot_jax
from parrot_jax.core.errors import UserError
from parrot_jax.data.data_config import DataConfig, MaskConfig
from parrot_jax.data.packing import PairLabel, kind_code
from parrot_jax.data.prepare import prepare
from parrot_jax.data.rows import Unit, pack
from parrot_jax.data.windows import LiveSpan, Window
from parrot_jax.dialogue.sources import SourceConfig
from parrot_jax.model.decoder import hidden_states, init_params, unembedding
from parrot_jax.model.model_config import ModelConfig
from parrot_jax.sharding import MeshConfig, make_mesh
from parrot_jax.train import reference as reference_module
from parrot_jax.train.pair_evaluation import check_first_step
from parrot_jax.train.preference import REFERENCE, PairRows, Pairs, PreferenceObjective
from parrot_jax.train.program import Program, make_program, put_rows
from parrot_jax.train.reference import (
    cached_reference,
    compile_answer_logprobs,
    load_reference,
    reference_key,
)
from parrot_jax.train.run_folder import RunFolder
from parrot_jax.train.setup import set_up
from parrot_jax.train.step import summed_gradients
from parrot_jax.train.train_config import OptimConfig, PreferenceConfig, TrainConfig
from parrot_jax.train.train_state import TrainState
from parrot_jax.weights.fingerprints import weights_hash

MODEL = ModelConfig(
    vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
    num_attention_heads=8, num_key_value_heads=8, head_dim=8, initializer_range=0.2,
    max_position_embeddings=128,
)  # fmt: skip
T, NUM_PAIRS = 64, 12
KINDS = ("neglect", "hallucination")
CONFIG = TrainConfig(
    task="chat",
    objective="preference",
    out="unused",
    data=DataConfig(
        sources=(SourceConfig(kind="preference", path="unused"),),
        tokenizer="unused",
        mask=MaskConfig(loss_roles=("assistant",)),
        row_tokens=T,
    ),
    model=MODEL,
    optim=OptimConfig(lr=1e-2),
    compute_dtype="float32",
    loss_tile=16,
)


def make_units() -> list[Unit]:
    """Pairs of unequal lengths; the first has weight 2."""
    rng = np.random.default_rng(0)
    units = []
    for number in range(NUM_PAIRS):
        context = rng.integers(3, MODEL.vocab_size, rng.integers(3, 9))
        windows = []
        for _ in ("chosen", "rejected"):
            answer = rng.integers(3, MODEL.vocab_size, rng.integers(2, 14))
            weights = np.r_[np.zeros(len(context)), np.full(len(answer), 2 - min(number, 1))]
            tokens = np.r_[context, answer].astype(np.int32)
            span = LiveSpan(1, "assistant", len(context), len(tokens))
            windows.append(Window(tokens, weights.astype(np.float32), [span]))
        units.append(Unit(tuple(windows), number, PairLabel(KINDS[number % 2], 1 + number % 3)))
    return units


UNITS = make_units()


def rows_of(*, packing: bool) -> list[dict[str, np.ndarray]]:
    """The pairs as rows, with the reference of the oracle; empty rows fill up 12."""
    rows, spans = pack(UNITS, T, packing=packing, pairs=True)
    known, found = reference_of_pairs(), []
    for number in range(NUM_PAIRS):
        empty = np.zeros((), rows.dtype)
        row = {name: np.array((rows[number] if number < len(rows) else empty)[name])
               for name in rows.dtype.names or ()}  # fmt: skip
        row[REFERENCE] = np.zeros(2 * len(row["kinds"]), np.float32)
        owners = spans["dialogue"][spans["row"] == number][::2]
        for place, owner in enumerate(owners):
            row[REFERENCE][2 * place : 2 * place + 2] = known[int(owner)]
        found.append(row)
    return found


def params_of(seed: int, program: Program | None = None) -> Any:
    like = None if program is None else jax.tree.map(lambda x: x.sharding, program.state.params)
    return init_params(MODEL, seed, like)


def answer_logprobs_alone(params: Any) -> jax.Array:
    """The oracle: [pairs, 2], each answer in a row of its own, from dense logits."""
    windows = [window for unit in UNITS for window in unit.windows]
    tokens, live = np.zeros((2, len(windows), T), np.int32)
    for row, window in enumerate(windows):
        tokens[row, : len(window.tokens)] = window.tokens
        live[row, : len(window.tokens)] = window.loss_weights > 0
    hidden = hidden_states(
        MODEL, params, jnp.asarray(tokens), None, jnp.broadcast_to(jnp.arange(T), tokens.shape),
        compute_dtype=jnp.float32, attention=ATTENTION, remat="none",
    )  # fmt: skip
    logprobs = jax.nn.log_softmax(hidden[:, :-1] @ unembedding(params))
    found = jnp.take_along_axis(logprobs, jnp.asarray(tokens)[:, 1:, None], axis=-1)[..., 0]
    return (found * live[:, 1:]).sum(axis=1).reshape(-1, 2)


def mesh_of(config: TrainConfig, devices: int) -> Any:
    return make_mesh(config.mesh, jax.devices()[:devices])


ONE = MeshConfig(data=1, fsdp=1, tensor=1)
ATTENTION = make_program(
    replace(CONFIG, mesh=ONE, batch_rows=4), mesh_of(replace(CONFIG, mesh=ONE), 1),
    objective=PreferenceObjective(PreferenceConfig()),
).forward.attention  # fmt: skip


@functools.cache
def reference_of_pairs() -> np.ndarray:
    """[pairs, 2]: the reference has other weights than the model."""
    return np.asarray(jax.jit(answer_logprobs_alone)(params_of(1)))


LENGTHS = np.array([[(w.loss_weights > 0).sum() for w in unit.windows] for unit in UNITS])
WEIGHTS = np.array([unit.windows[0].loss_weights.max() for unit in UNITS])


def oracle_loss(params: Any, reference: np.ndarray, config: PreferenceConfig) -> jax.Array:
    """The weighted mean loss over all pairs."""
    logprobs = answer_logprobs_alone(params)
    scale = LENGTHS if config.length_normalized else 1
    chosen, rejected = ((logprobs - reference) / scale).T
    if config.loss == "sigmoid":
        losses = jnp.log1p(jnp.exp(-config.beta * (chosen - rejected)))
    else:
        losses = (chosen - rejected - 1 / (2 * config.beta)) ** 2
    losses -= config.sft_weight * logprobs[:, 0] / LENGTHS[:, 0]
    return (WEIGHTS * losses).sum() / WEIGHTS.sum()


def loss_and_gradients(
    rows: Sequence[dict[str, np.ndarray]],
    *,
    preference: PreferenceConfig | None = None,
    live_capacity: int | None = None,
    devices: int = 1,
    **changes: Any,
) -> tuple[Any, Any, Any]:
    """Loss, extras and gradients, by the code of the step."""
    config = replace(CONFIG, batch_rows=len(rows), **{"mesh": ONE, **changes})
    objective = PreferenceObjective(
        preference or PreferenceConfig(), live_capacity, kinds=KINDS, turns=(1, 2, 9)
    )
    program = make_program(config, mesh_of(config, devices), objective=objective)
    like = program.batch["tokens"]
    batch = put_rows(
        lambda places: {n: np.stack([rows[p][n] for p in places]) for n in rows[0]},
        like.shape, like.sharding,
    )  # fmt: skip

    @jax.jit
    def run(params: Any, batch: Any) -> Any:
        (loss, weight, extras), grads = summed_gradients(
            TrainState(params, None, 0), batch, forward=program.forward, objective=objective,
            accumulator_dtype="float32", key=jax.random.key(0),
        )  # fmt: skip
        means = {name: value / jnp.maximum(of, 1) for name, (value, of) in extras.items()}
        return loss / weight, means, jax.tree.map(lambda grad: grad / weight, grads)

    return jax.device_get(run(params_of(0, program), batch))


def assert_close(found: tuple[Any, Any, Any], expected: tuple[Any, Any]) -> None:
    loss, grads = expected
    np.testing.assert_allclose(found[0], loss, rtol=1e-5)
    for (path, grad), other in zip(
        jax.tree_util.tree_leaves_with_path(found[2]), jax.tree.leaves(grads), strict=True
    ):
        distance = np.linalg.norm(grad - other) / np.linalg.norm(other)
        assert distance < 1e-5, f"{jax.tree_util.keystr(path)}: {distance:.1e}"


@pytest.fixture(scope="module")
def packed() -> list[dict[str, np.ndarray]]:
    rows = rows_of(packing=True)
    assert sum(bool(row["segment_ids"].any()) for row in rows) < NUM_PAIRS
    return rows


@pytest.fixture(scope="module")
def expected() -> tuple[Any, Any]:
    reference, config = reference_of_pairs(), PreferenceConfig()
    gradient = jax.value_and_grad(lambda params: oracle_loss(params, reference, config))
    return jax.device_get(jax.jit(gradient)(params_of(0)))


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({}, id="tiled", marks=pytest.mark.slow),
        pytest.param({"loss_tile": 4096}, id="dense", marks=pytest.mark.slow),
        # Too few for some batch, which is computed in full.
        pytest.param({"live_capacity": 48}, id="overflow", marks=pytest.mark.slow),
        pytest.param({"live_capacity": 224}, id="compacted", marks=pytest.mark.slow),
        pytest.param(
            {"micro_rows": 3, "live_capacity": 120}, id="accumulated", marks=pytest.mark.slow
        ),
        pytest.param(
            {"devices": 8, "mesh": MeshConfig(data=2, fsdp=2, tensor=2)},
            id="8 devices",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_packed_pairs_give_the_loss_and_gradients_of_each_answer_alone(
    packed: list[dict[str, np.ndarray]], expected: tuple[Any, Any], changes: dict[str, Any]
) -> None:
    assert_close(loss_and_gradients(packed, **changes), expected)


def test_packed_is_unpacked(packed: list[dict[str, np.ndarray]], expected: tuple[Any, Any]) -> None:
    data = replace(CONFIG.data, packing=False)
    unpacked = loss_and_gradients(rows_of(packing=False), data=data)
    assert_close(unpacked, expected)
    extras = loss_and_gradients(packed)[1]
    assert extras.keys() == unpacked[1].keys()
    for name, value in extras.items():
        assert value == pytest.approx(unpacked[1][name], rel=1e-5, abs=1e-5), name


@pytest.mark.slow
@pytest.mark.parametrize(
    "preference",
    [
        PreferenceConfig(beta=0.5, sft_weight=0.3),
        PreferenceConfig(length_normalized=True),
        PreferenceConfig(loss="ipo", beta=0.2, length_normalized=True),
    ],
)
def test_each_loss_is_that_of_the_formula(
    packed: list[dict[str, np.ndarray]], preference: PreferenceConfig
) -> None:
    loss = float(oracle_loss(params_of(0), reference_of_pairs(), preference))
    assert loss_and_gradients(packed, preference=preference)[0] == pytest.approx(loss, rel=1e-5)


def test_a_place_without_a_pair_reaches_no_metric():
    ones = jnp.ones((1, 2))
    pairs = Pairs(
        weight=jnp.asarray([[1.0, 0.0]]),
        chosen=jnp.asarray([[-2.0, jnp.nan]]),
        rejected=jnp.asarray([[-3.0, jnp.inf]]),
        reference_chosen=ones,
        reference_rejected=ones,
        chosen_tokens=ones,
        rejected_tokens=ones,
        kind=jnp.full((1, 2), kind_code("neglect")),
        turn=jnp.full((1, 2), 3),
    )
    objective = PreferenceObjective(PreferenceConfig(), kinds=("neglect",), turns=(3, 4))
    extras = jax.jit(objective._extras)(pairs)
    for group, count in {"": 1, "/neglect": 1, "/turn_3": 1, "/turn_4": 0}.items():
        assert extras[f"logps/chosen{group}"] == (-2.0 * count, count)
        assert extras[f"rewards/accuracies{group}"] == (count, count)


@pytest.mark.slow
def test_metrics_are_means_over_pairs_by_kind_and_by_turn(
    packed: list[dict[str, np.ndarray]],
) -> None:
    extras = loss_and_gradients(packed)[1]
    chosen, rejected = (np.asarray(answer_logprobs_alone(params_of(0))) - reference_of_pairs()).T
    margins = 0.1 * (chosen - rejected)
    # Not weighted by the first pair's 2, which is a weight of the loss.
    assert extras["rewards/margins"] == pytest.approx(np.mean(margins), rel=1e-4)
    assert extras["rewards/margins/neglect"] == pytest.approx(np.mean(margins[::2]), rel=1e-4)
    assert extras["rewards/margins/turn_2"] == pytest.approx(np.mean(margins[1::3]), rel=1e-4)
    assert extras["rewards/accuracies"] == pytest.approx(np.mean(margins > 0))
    assert extras["lengths/chosen"] == pytest.approx(LENGTHS[:, 0].mean())
    assert extras["rewards/margins/turn_9"] == 0  # no such pair; the step gives NaN


# ---- runs ----------------------------------------------------------------------------------------


@pytest.fixture
def run(tmp_path: Path) -> TrainConfig:
    """A short run on pairs made of the small world's dialogues."""
    config = parrot_jax.small_example(tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "people.jsonl").read_text().splitlines()]
    with (tmp_path / "pairs.jsonl").open("w") as file:
        for number, row in enumerate(rows[:60]):
            said = row["messages"]
            last = len(said) - 2 if said[-1]["role"] == "user" else len(said) - 1
            other = rows[(number + 1) % len(rows)]["messages"][1]
            pair = {"prompt": said[:last], "chosen": [said[last]], "rejected": [other],
                    "kind": KINDS[number % 2]}  # fmt: skip
            if other["content"] != said[last]["content"]:
                file.write(json.dumps(pair) + "\n")
    source = SourceConfig(kind="preference", path=str(tmp_path / "pairs.jsonl"))
    data = replace(config.data, sources=(source,), eval_sources=(source,))
    return replace(config, objective="preference", data=data, max_steps=2)


def metrics_of(config: TrainConfig) -> list[dict[str, Any]]:
    lines = Path(config.out, "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


@pytest.mark.slow
def test_a_run_starts_at_ln_2_and_evaluates_held_out_pairs(run: TrainConfig) -> None:
    parrot_jax.train_model(run)
    first, second = metrics_of(run)
    assert first["loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert first["rewards/margins"] == pytest.approx(0, abs=1e-6)
    assert second["loss"] < first["loss"]
    assert "logps/chosen/neglect" in first
    found = json.loads(Path(run.out, "results", "eval-000002.json").read_text())
    counts = prepare(run.data, "eval", pairs=True).counts
    assert found["pairs"] == counts["sessions"]
    assert {kind: of["pairs"] for kind, of in found["by_kind"].items()} == counts["kinds"]
    assert {turn: of["pairs"] for turn, of in found["by_turn"].items()} == counts["turns"]
    records = np.load(Path(run.out, "results", "eval-000002.npy"))
    margins = 0.1 * (records["chosen"] - records["reference_chosen"]
                     - records["rejected"] + records["reference_rejected"])  # fmt: skip
    assert found["rewards/margins"] == pytest.approx(margins.mean(), rel=1e-4)
    assert found["rewards/accuracies"] == pytest.approx((margins > 0).mean())


@pytest.mark.slow
def test_a_cached_reference_gives_the_bits_of_a_resident_one(run: TrainConfig) -> None:
    setup = set_up(run, is_new=True)
    program = setup.program
    params = init_params(
        run.model, run.seed, jax.tree.map(lambda x: x.sharding, program.state.params)
    )
    cached = load_reference(setup, params, Path(run.data.cache_dir)).train
    # Resident: the reference model runs on the rows of each step.
    resident = compile_answer_logprobs(program.forward, program.rows_sharding, setup.live_capacity)
    batch = setup.with_rows(cached, run.seed).batch(0)
    rows = jax.tree.map(lambda array: array[0], dict(batch))
    rows_here = {name: np.asarray(array) for name, array in rows.items() if name != REFERENCE}
    placed = put_rows(
        lambda places: {name: array[list(places)] for name, array in rows_here.items()},
        rows["tokens"].shape, program.rows_sharding,
    )  # fmt: skip
    np.testing.assert_array_equal(resident(params, placed), rows[REFERENCE])


def key_of(run: TrainConfig, seed: int = 0) -> str:
    setup = set_up(run, is_new=True)
    program = setup.program
    params = init_params(
        run.model, seed, jax.tree.map(lambda x: x.sharding, program.state.params),
        dtype=run.param_dtype,
    )  # fmt: skip
    return reference_key(
        setup.prepared, params, program.forward,
        batch_rows=program.micro_shape[1], live_capacity=setup.live_capacity,
    )  # fmt: skip


@pytest.mark.slow
def test_everything_that_decides_the_reference_is_in_its_key(
    run: TrainConfig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def with_data(**changes: Any) -> TrainConfig:
        return replace(run, data=replace(run.data, **changes))

    pairs = Path(run.data.sources[0].path)
    fewer = tmp_path / "fewer.jsonl"
    fewer.write_text("\n".join(pairs.read_text().splitlines()[1:]))
    keys = {
        "this run": key_of(run),
        "other weights": key_of(run, seed=1),
        "rows": key_of(with_data(sources=(SourceConfig(kind="preference", path=str(fewer)),))),
        "mask": key_of(with_data(mask=MaskConfig(loss_roles=("assistant",), turn_weights=(2.0,)))),
        "row length": key_of(with_data(row_tokens=320)),
        "packing": key_of(with_data(packing=False)),
        "compute dtype": key_of(replace(run, compute_dtype="bfloat16")),
        "weights' dtype": key_of(replace(run, param_dtype="bfloat16")),
        "attention": key_of(replace(run, attention="dense")),
        "model": key_of(replace(run, model=replace(run.model, rope_theta=5e5))),
    }
    monkeypatch.setattr(reference_module, "code_hash", lambda: "other code")
    keys["code"] = key_of(run)
    monkeypatch.undo()
    assert len({*keys.values()}) == len(keys)
    # And nothing else: these leave the reference as it is.
    moved = tmp_path / "moved.jsonl"
    moved.write_bytes(pairs.read_bytes())
    same = [
        with_data(sources=(SourceConfig(kind="preference", path=str(moved)),)),
        replace(run, preference=PreferenceConfig(beta=0.5), out="elsewhere", max_steps=7),
    ]
    assert {key_of(config) for config in same} == {keys["this run"]}


@pytest.mark.slow
def test_weights_are_known_by_their_bits_and_places() -> None:
    weights = {"a": jnp.arange(6.0).reshape(2, 3), "b": jnp.zeros(3)}
    known = weights_hash(weights)
    assert weights_hash({"b": jnp.zeros(3), "a": jnp.arange(6.0).reshape(2, 3)}) == known
    others = [
        {**weights, "a": weights["a"].at[1, 2].add(2**-20)},
        {**weights, "a": weights["a"][::-1]},
        {**weights, "a": weights["a"].reshape(3, 2).T},
        {**weights, "a": weights["a"].astype(jnp.bfloat16)},
        {"a": weights["a"], "c": weights["b"]},
        {**weights, "b": -weights["b"]},
    ]
    assert len({known, *map(weights_hash, others)}) == 1 + len(others)


@pytest.mark.slow
def test_a_part_that_is_missing_or_damaged_is_computed_again(
    run: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reference_module, "_PART_ROWS", 8)
    setup = set_up(run, is_new=True)
    program = setup.program
    params = init_params(run.model, 0, jax.tree.map(lambda x: x.sharding, program.state.params))
    logprobs = compile_answer_logprobs(program.forward, program.rows_sharding, setup.live_capacity)
    computed = []

    def load(compute: Any = logprobs) -> np.ndarray:
        computed.clear()
        return cached_reference(
            lambda *given: computed.append(1) or compute(*given), params, setup.prepared, "k" * 64,
            cache=tmp_path, batch_rows=8, sharding=program.rows_sharding, rounding=1e-6,
        )  # fmt: skip

    first = load()
    all_calls = len(computed)
    folder = tmp_path / ("reference-" + "k" * 16)
    np.testing.assert_array_equal(load(), first)
    assert len(computed) == 1  # the sample
    (folder / "part-00001.json").unlink()
    (folder / "part-00002.npy").write_bytes(b"damaged")
    np.testing.assert_array_equal(load(), first)
    assert len(computed) == 1 + 2
    assert all_calls > 3
    with pytest.raises(UserError, match="differ by up to .* from those of the weights; remove"):
        load(lambda *given: logprobs(*given) - 1)


def test_a_model_that_is_not_its_reference_is_refused() -> None:
    values = {"rewards/margins": 0.2, "logps/chosen": -300.0, "logps/rejected": -200.0}
    check_first_step({**values, "rewards/margins": 3e-5}, CONFIG)
    with pytest.raises(UserError, match=r"the mean margin of step 1 is 0.2, but it must be 0"):
        check_first_step(values, CONFIG)


def test_a_run_does_not_resume_with_another_reference(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.keep_reference("a", is_new=True)
    folder.keep_reference("b", is_new=True)  # killed before its first checkpoint
    folder.keep_reference("b", is_new=False)
    with pytest.raises(UserError, match="the weights in init_from have changed since it started"):
        folder.keep_reference("a", is_new=False)


@pytest.mark.nightly
def test_a_resumed_run_needs_the_initial_weights(run: TrainConfig, tmp_path: Path) -> None:
    sft = replace(run, objective="sft", out=str(tmp_path / "base"), max_steps=1)
    parrot_jax.train_model(sft)
    run = replace(run, init_from=sft.out, max_steps=1)
    parrot_jax.train_model(run)
    parrot_jax.train_model(replace(sft, max_steps=2))
    with pytest.raises(UserError, match="the weights in init_from have changed"):
        parrot_jax.train_model(replace(run, max_steps=2))


def test_a_pair_needs_its_mask_and_its_objective(run: TrainConfig) -> None:
    for changes, problem in [
        ({"task": "ask"}, "trains answers, but task is ask"),
        ({"objective": "sft", "preference": PreferenceConfig(beta=0.5)}, "objective is sft"),
        ({"data": replace(run.data, mask=MaskConfig(loss_roles=("assistant",), max_turns=2))},
         "data.mask may only have"),
        ({"data": replace(run.data, trim_dead=False)}, "set data.trim_dead: true"),
    ]:  # fmt: skip
        with pytest.raises(UserError, match=problem):
            replace(run, **changes).check_mask()
    with pytest.raises(UserError, match="preference.beta is 0.0"):
        PreferenceConfig(beta=0.0)


def test_rows_without_a_reference_have_zeros(run: TrainConfig) -> None:
    rows = PairRows(prepare(run.data, "train", pairs=True).rows(), None)
    row = rows[0]
    assert not row[REFERENCE].any()
    assert len(row[REFERENCE]) == 2 * len(row["kinds"])
    assert row["kinds"][0] in {kind_code(kind) for kind in KINDS}
