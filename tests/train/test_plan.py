"""`parrot plan`: memory counts, the criterion for a fit, the search, and the shipped 13B runs.

The last part compiles for hardware that this machine lacks. Each compilation runs in a separate
process, because jax, libtpu and the CUDA plugin read their target only once, when they are loaded.
"""

import functools
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import pytest
from hypothesis import given
from hypothesis import strategies as st

from parrot_jax.cli import main
from parrot_jax.core.config import load_config
from parrot_jax.core.errors import UserError
from parrot_jax.data.data_config import DataConfig, MaskConfig
from parrot_jax.dialogue.sources import SourceConfig
from parrot_jax.model.decoder import REMAT_POLICIES
from parrot_jax.model.model_config import ModelConfig
from parrot_jax.sharding import MeshConfig
from parrot_jax.train import plan as planning
from parrot_jax.train import topologies
from parrot_jax.train.chips import CHIPS
from parrot_jax.train.hlo_text import parse_module
from parrot_jax.train.plan import (
    MARGIN,
    MAX_COMPILES,
    Plan,
    describe,
    describe_briefly,
    make_plan,
    reserve_for,
    search,
    times,
)
from parrot_jax.train.topologies import parse_topology
from parrot_jax.train.train_config import OptimConfig, TrainConfig

ROOT = Path(__file__).resolve().parents[2]
GIB = 2**30
A100 = parse_topology("a100-80g:1x8")
POLICIES = list(REMAT_POLICIES)

CONFIG = TrainConfig(
    task="ask",
    out="runs/none",
    data=DataConfig(
        sources=(SourceConfig(kind="messages", path="none.jsonl"),),
        tokenizer="none.model",
        mask=MaskConfig(loss_roles=("user",)),
        row_tokens=128,
    ),
    model=ModelConfig(
        vocab_size=256,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=128,
    ),
    mesh=MeshConfig(data=1, fsdp=4, tensor=2),
    batch_rows=32,
    micro_rows=2,
    epochs=2.0,
)
WEIGHTS = 256 * 32 + 2 * (4 * 32 * 32 + 3 * 32 * 64) + 32 * 256
NORMS = 2 * 2 * 32 + 32


def a_plan(**changes: Any) -> Plan:
    """A plan with round numbers."""
    plan = Plan(
        topology="a100-80g:1x8", devices=8, fits=True, hbm_bytes=80 * GIB, used_bytes=40 * GIB,
        params_bytes=6 * GIB, optimizer_bytes=12 * GIB, argument_bytes=19 * GIB,
        temp_bytes=21 * GIB, reserve_bytes=3 * GIB, reserve_why="runtime", compile_s=5.0,
        mesh=(1, 8, 1), micro_batches=4, micro_rows=1, remat="full", attention="pallas",
        flops_per_token=10**9, tokens_per_step=1_000_000,
        sent_bytes={"all-gather": 6 * 10**9, "reduce-scatter": 3 * 10**9}, sent_s=0.03,
        uncounted_why=None,
    )  # fmt: skip
    return replace(plan, **changes)


# ---- memory counts ------------------------------------------------------------------------------


def test_the_bytes_of_a_plan_are_those_counted_by_hand() -> None:
    plan = make_plan(CONFIG, A100, jax.devices())
    # Weights are sharded over 4 x 2 devices; the small norms are replicated.
    params = 4 * WEIGHTS // 8 + 4 * NORMS
    assert plan.params_bytes == params
    # Two moments per weight, and the step counts of AdamW and of the schedule.
    assert plan.optimizer_bytes == 2 * params + 2 * 4
    # 32 rows over 4 parts, 16 bytes per token, and the step number.
    assert plan.argument_bytes == 3 * params + 2 * 4 + 8 * 128 * 16 + 4
    assert (plan.devices, plan.mesh) == (8, (1, 4, 2))
    assert (plan.micro_batches, plan.micro_rows) == (4, 2)
    assert plan.tokens_per_step == 32 * 128
    assert plan.hbm_bytes == A100.chip.hbm_bytes
    assert plan.temp_bytes is not None
    assert plan.used_bytes is not None
    assert plan.used_bytes >= plan.argument_bytes + plan.temp_bytes
    assert plan.fits
    # tests/train/test_collectives.py holds these bytes against a formula.
    assert plan.sent_bytes is not None
    assert set(plan.sent_bytes) == {"all-gather", "all-reduce"}
    assert plan.sent_s == pytest.approx(sum(plan.sent_bytes.values()) / 300e9)


@pytest.fixture
def compiler_says(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Replaces compilation: the compiler reports these numbers of bytes."""

    def say(
        arguments: int, temps: int = 0, code: int = 0, outputs: int = 0, alias: int = 0
    ) -> None:
        memory = SimpleNamespace(
            argument_size_in_bytes=arguments, temp_size_in_bytes=temps,
            generated_code_size_in_bytes=code, output_size_in_bytes=outputs,
            alias_size_in_bytes=alias,
        )  # fmt: skip
        program = SimpleNamespace(
            memory_analysis=lambda: memory, as_text=lambda: "ENTRY %main () -> f32[] {\n}"
        )
        monkeypatch.setattr(jax.stages.Lowered, "compile", lambda _: program)

    return say


def test_bfloat16_halves_what_is_kept(compiler_says: Callable[..., None]) -> None:
    compiler_says(1000)
    half = replace(CONFIG, param_dtype="bfloat16", optim=OptimConfig(moments_dtype="bfloat16"))
    plan = make_plan(half, A100, jax.devices())
    assert plan.params_bytes == 2 * WEIGHTS // 8 + 2 * NORMS
    assert plan.optimizer_bytes == 2 * plan.params_bytes + 8


def test_of_the_outputs_only_what_is_new_counts(compiler_says: Callable[..., None]) -> None:
    # The new state reuses the memory of the old one; only metrics are additional.
    compiler_says(1000, temps=200, code=30, outputs=604, alias=600)
    plan = make_plan(CONFIG, A100, jax.devices())
    assert (plan.used_bytes, plan.temp_bytes) == (1000 + 200 + 30 + 4, 200)


def test_collectives_that_cannot_be_counted_leave_the_memory(
    compiler_says: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    compiler_says(1000)
    monkeypatch.setattr(planning, "collectives", lambda _: parse_module("no program"))
    plan = make_plan(CONFIG, A100, jax.devices())
    assert plan.fits
    assert (plan.sent_bytes, plan.sent_s) == (None, None)
    why = "no ENTRY computation; give the text of compiled.as_text()."
    assert f"collectives: not counted: {why}" in list(describe(plan, [], 1))


def test_two_hosts_have_no_time_for_collectives(compiler_says: Callable[..., None]) -> None:
    compiler_says(1000)
    plan = make_plan(CONFIG, parse_topology("a100-80g:2x4"), jax.devices())
    assert (plan.sent_bytes, plan.sent_s) == ({}, None)  # NVLink ends at the host


@pytest.mark.parametrize(("spare", "fits"), [(0, True), (-1, False)])
def test_a_fit_leaves_the_margin_free_after_the_reserve(
    spare: int, fits: bool, compiler_says: Callable[..., None]
) -> None:
    chip = replace(A100.chip, hbm_bytes=100 * GIB)
    compiler_says(92 * GIB - reserve_for(A100, 8).bytes - spare)
    plan = make_plan(CONFIG, A100._replace(chip=chip), jax.devices())
    assert plan.fits == fits
    assert plan.free_share == pytest.approx(MARGIN)


def test_the_reserve_is_named() -> None:
    assert reserve_for(A100, 8) == (
        3 * GIB,
        "CUDA context, kernels, fragmentation 1 GiB; NCCL buffers 2 GiB",
    )
    assert reserve_for(parse_topology("h200:1x1"), 1) == (
        GIB,
        "CUDA context, kernels, fragmentation",
    )
    assert reserve_for(parse_topology("v5e:4x8"), 32).bytes == GIB // 4


# ---- a compiler that gives up -------------------------------------------------------------------

LIBTPU = (  # libtpu 0.0.42.1, the 13B step of the a100x8 config on v5e:2x4
    "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO temporaries "
    "(35.75G) exceeds available HBM (15.75G)."
)
XLA = (  # openxla.org/xla/errors/error_1000
    "RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory space hbm. "
    "Used 49.34G of 32.00G hbm. Exceeded hbm capacity by 17.34G."
)
XLA_CORES = (  # the same page: it does not say which memory is meant
    "RESOURCE_EXHAUSTED: TPU TensorCore Hbm usage: 34.82G, SparseCore Hbm usage 174.10G, exceeding "
    "available bytes: 95.74G"
)
KERNEL = "RESOURCE_EXHAUSTED: Ran out of memory in memory space vmem. Used 20.1M of 16.00M vmem."


def gives_up(message: str, monkeypatch: pytest.MonkeyPatch) -> Plan:
    def fail(*_: object, **__: object) -> None:
        raise jax.errors.JaxRuntimeError(message)

    monkeypatch.setattr(jax.stages.Lowered, "compile", fail)
    return make_plan(CONFIG, A100, jax.devices())


@pytest.mark.parametrize(("message", "gib"), [(LIBTPU, 35.75), (XLA, 49.34)])
def test_a_compiler_that_gives_up_says_what_it_needs(
    message: str, gib: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = gives_up(message, monkeypatch)  # does not fit, although an A100 has more memory
    assert plan.used_bytes == int(gib * GIB)
    assert plan.temp_bytes is None
    assert not plan.fits


def test_a_compiler_that_does_not_say_makes_no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = gives_up(XLA_CORES, monkeypatch)
    assert (plan.used_bytes, plan.free_share, plan.fits) == (None, None, False)
    lines = list(describe(plan, [], 1))
    assert "does not fit: the compiler gave up" in lines
    assert any(line.split() == ["unknown", "temporaries"] for line in lines)


@pytest.mark.parametrize("message", [KERNEL, "INTERNAL: a bug"])
def test_other_failures_are_not_taken_for_a_want_of_memory(
    message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(jax.errors.JaxRuntimeError, match=message[:20]):
        gives_up(message, monkeypatch)


# ---- times and output ---------------------------------------------------------------------------


def test_times_by_hand() -> None:
    # 1e9 FLOP per token * 1e6 tokens = 1e15 per step; 8 chips of 312e12 FLOP/s at half their peak
    # do 1.248e15 per second.
    (time,) = times(a_plan(), CONFIG, A100.chip, [0.5], rows=320)
    assert time.step_s == pytest.approx(1 / 1.248)
    assert time.tokens_per_s == pytest.approx(1.248e6)
    # 2 epochs of 320 rows, 32 per step: 20 steps.
    assert time.hours == pytest.approx(20 / 1.248 / 3600)
    assert time.device_hours == pytest.approx(8 * 20 / 1.248 / 3600)


def test_a_run_that_stops_early_takes_the_hours_until_then() -> None:
    whole, part = (
        times(a_plan(), config, A100.chip, [0.4], rows=320)[0].hours
        for config in (CONFIG, replace(CONFIG, max_steps=5))
    )
    assert whole is not None
    assert part == pytest.approx(whole / 4)


def test_without_rows_there_are_no_hours() -> None:
    slow, fast = times(a_plan(), CONFIG, A100.chip, [0.2, 0.4], rows=None)
    assert slow.step_s == pytest.approx(2 * fast.step_s)
    assert (slow.hours, slow.device_hours) == (None, None)


def test_a_plan_reads_so() -> None:
    plan = a_plan()
    assert list(describe(plan, times(plan, CONFIG, A100.chip, [0.5], rows=320_000), 1)) == [
        "a100-80g:1x8: 8 devices as data 1 x fsdp 8 x tensor 1; accumulation 4, micro-batch 1 "
        "per data-parallel part; remat full, attention pallas",
        "predicted memory per device:",
        "    6.0 GiB  parameters",
        "   12.0 GiB  optimizer",
        "    1.0 GiB  rows",
        "   21.0 GiB  temporaries",
        "    3.0 GiB  reserve (runtime)",
        "   43.0 GiB  of 80.0 GiB",
        "fits: 46.2% free, 8% required",
        "1.0 GFLOP per token, 1.00 PFLOP per step of 1,000,000 tokens (formula, without "
        "recomputation)",
        "collectives per device and step: all-gather 6.0 GB, reduce-scatter 3.0 GB; at least "
        "0.03 s on all links",
        "at 50% MFU a step takes 0.80 s, 1,248,000 tokens/s, 4.5 hours and 36 device-hours in all "
        "(predicted)",
        "(compilations: 1, the last one 5 s)",
    ]


@pytest.mark.parametrize(
    ("used", "verdict"),
    [
        (72, "does not fit: 6.2% free, 8% required"),
        (85, "does not fit: 10.0% over the limit"),
    ],
)
def test_what_does_not_fit_says_by_how_much(used: int, verdict: str) -> None:
    plan = a_plan(fits=False, used_bytes=used * GIB)
    assert verdict in list(describe(plan, [], 1))
    assert "does not fit" in describe_briefly(plan)


# ---- the search ---------------------------------------------------------------------------------


def searched(
    config: TrainConfig, needs: dict[str, float], room: float, sums: float = 0
) -> list[tuple[TrainConfig, Plan]]:
    """Runs a search in which n rows take n * needs[remat], plus `sums` if they are not all rows."""

    def made(config: TrainConfig, *_: object) -> Plan:
        assert config.micro_rows is not None
        used = config.micro_rows * needs[config.remat]
        used += sums if config.accumulation_steps(4) > 1 else 0
        return a_plan(fits=used <= room, micro_rows=config.micro_rows, remat=config.remat)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(planning, "make_plan", made)
        return list(search(config, A100, jax.devices()))


NEEDS = {"none": 8.0, "attention": 4.0, "dots": 3.0, "full": 1.0}


@pytest.mark.parametrize(
    ("room", "rows", "remat"),
    [(8, 8, "full"), (7, 4, "full"), (23, 8, "full"), (24, 8, "dots"), (32, 8, "attention"),
     (100, 8, "none"), (1, 1, "full")],
)  # fmt: skip
def test_the_search_takes_rows_first_and_remat_second(room: float, rows: int, remat: str) -> None:
    # 32 rows over 4 parts: micro-batches of 1, 2, 4 or 8.
    tried = searched(CONFIG, NEEDS, room)
    config, plan = [pair for pair in tried if pair[1].fits][-1]
    assert (config.micro_rows, config.remat) == (rows, remat)
    assert (plan.micro_rows, plan.remat) == (rows, remat)
    assert replace(config, micro_rows=2, remat=CONFIG.remat) == CONFIG  # all else is kept
    assert len(tried) <= 1 + 2 + 2


def test_all_rows_at_once_may_fit_where_fewer_do_not() -> None:
    # The gradient sum of accumulation takes more than 7 further rows.
    tried = searched(CONFIG, NEEDS, room=8, sums=8)
    config, _ = [pair for pair in tried if pair[1].fits][-1]
    assert config.micro_rows == 8


def test_a_search_where_nothing_fits_yields_only_failures() -> None:
    tried = searched(CONFIG, NEEDS, room=0.5)
    assert tried
    assert not any(plan.fits for _, plan in tried)
    assert tried[-1][0].micro_rows == 1  # the last plan shows by how much it fails


@given(
    rows=st.integers(1, 839),  # 840 has 32 divisors; 5 compilations distinguish 31
    needs=st.lists(st.floats(0.1, 10), min_size=4, max_size=4).map(
        lambda values: dict(zip(POLICIES, sorted(values, reverse=True), strict=True))
    ),
    sums=st.floats(0, 1000),
    room=st.floats(0.05, 1e4),
)
def test_the_search_finds_what_trying_all_finds(
    rows: int, needs: dict[str, float], sums: float, room: float
) -> None:
    tried = searched(replace(CONFIG, batch_rows=4 * rows), needs, room, sums)
    assert 1 <= len(tried) <= MAX_COMPILES

    def fits(size: int, remat: str) -> bool:
        return size * needs[remat] + (sums if size < rows else 0) <= room

    sizes = [size for size in range(1, rows + 1) if rows % size == 0 and fits(size, "full")]
    answers = [(config.micro_rows, config.remat) for config, plan in tried if plan.fits]
    if not sizes:
        assert not answers
        return
    assert answers[-1] == (sizes[-1], next(remat for remat in POLICIES if fits(sizes[-1], remat)))


def test_more_sizes_than_can_be_told_apart_are_cut_from_above() -> None:
    rows = 27_720  # has 96 divisors; the 31st is 60
    tried = searched(replace(CONFIG, batch_rows=4 * rows), NEEDS, room=rows - 1)
    assert len(tried) == MAX_COMPILES
    config, _ = [pair for pair in tried if pair[1].fits][-1]
    assert (config.micro_rows, config.remat) == (60, "none")


def test_a_narrow_search_compiles_the_config_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "make_plan", lambda *_: a_plan())
    assert list(search(CONFIG, A100, [], widely=False)) == [(CONFIG, a_plan())]


def test_a_search_refuses_rows_that_cannot_be_shared() -> None:
    with pytest.raises(UserError, match="batch_rows=30 does not divide into the 4 parts"):
        list(search(replace(CONFIG, batch_rows=30), A100, jax.devices()))


# ---- the command --------------------------------------------------------------------------------

KEYS = {
    "topology", "devices", "fits", "hbm_bytes", "used_bytes", "argument_bytes", "temp_bytes",
    "compile_s", "flops_per_token", "tokens_per_step", "params_bytes", "optimizer_bytes",
    "reserve_bytes", "reserve_why", "margin", "free_share", "flops_per_step", "times", "label",
    "compiles", "mesh", "micro_batches", "micro_rows", "remat", "attention",
    "sent_bytes", "sent_s", "uncounted_why",
}  # fmt: skip


@pytest.fixture
def on_this_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiles for the eight CPU devices of the tests, whatever the topology."""
    monkeypatch.setattr(topologies, "prepare_environment", lambda *_: None)
    monkeypatch.setattr(topologies, "topology_devices", lambda _: jax.devices())


@pytest.mark.usefixtures("on_this_cpu")
@pytest.mark.parametrize("options", [(), ("--search",)])
def test_json_is_one_object_with_these_keys(
    options: tuple[str, ...],
    tiny_run: Path,
    capsys: pytest.CaptureFixture[str],
    compiler_says: Callable[..., None],
) -> None:
    if options:
        compiler_says(1000)  # for each program of the search
    arguments = ["plan", str(tiny_run), "--topology", "a100-80g:1x8", "--rows", "80", "--json"]
    assert main([*arguments, *options]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert set(plan) == KEYS
    assert (plan["label"], plan["margin"], plan["fits"]) == ("predicted", 0.08, True)
    assert [time["mfu"] for time in plan["times"]] == [0.3, 0.4, 0.5]
    assert plan["flops_per_step"] == plan["flops_per_token"] * plan["tokens_per_step"]
    assert 1 <= plan["compiles"] <= MAX_COMPILES


@pytest.mark.usefixtures("on_this_cpu")
def test_a_run_that_does_not_fit_is_no_error(
    tiny_run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = [a_plan(fits=False, used_bytes=used * GIB) for used in (90, 85)]
    monkeypatch.setattr(
        planning, "search", lambda config, *_, **__: ((config, plan) for plan in shown)
    )
    assert main(["plan", str(tiny_run), "--topology", "a100-80g:1x8", "--search"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert sum("does not fit" in line for line in lines) == 3
    assert "does not fit: 10.0% over the limit" in lines  # the last attempt


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "--topology is missing; choose one of a100-80g:1x8"),
        (("--topology", "v9:2x2"), "there is no topology 'v9:2x2'"),
        (("--topology", "v5p:4x4"), "a shape of v5p has 3 sides"),
        (("--topology", "v5p:2x2x4", "--mfu", "0"), "set one or more values in (0, 1]"),
        (("--topology", "v5p:2x2x4", "--mfu", "0.4", "1.1"), "set one or more values in (0, 1]"),
        (("--topology", "v5p:2x2x4", "--rows", "0"), "rows is 0; it must be at least 1"),
    ],
)
def test_wrong_options_are_one_line(
    options: tuple[str, ...], message: str, tiny_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", str(tiny_run), *options]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.usefixtures("on_this_cpu")
def test_a_mesh_of_another_size_is_refused_in_one_line(
    tiny_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["plan", str(tiny_run), "--topology", "a100-80g:1x8", "--mesh.fsdp", "16"]
    assert main(arguments) == 2
    assert "does not fit 8 devices" in capsys.readouterr().err


# ---- 13B, for other hardware --------------------------------------------------------------------


@functools.lru_cache
def planned(config: str, topology: str, *options: str) -> dict[str, Any]:
    """The JSON of `parrot plan` for a shipped LLaMA2-13B config."""
    path = ROOT / "configs" / "train" / f"parrot_ask_llama2_13b_{config}.yaml"
    command = ["plan", str(path), "--topology", topology, "--json", *options]
    output, errors = run_alone("-m", "parrot_jax.cli", *command)
    # libtpu only warns about flags that may give wrong results on a chip.
    assert "not supported" not in errors
    return json.loads(output)


def run_alone(*arguments: str) -> tuple[str, str]:
    """Runs Python in a new process; returns its output and its log, including all of libtpu's."""
    environ = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    environ |= {"TPU_MIN_LOG_LEVEL": "0", "TPU_STDERR_LOG_LEVEL": "0"}
    done = subprocess.run(
        [sys.executable, *arguments], env=environ, capture_output=True, text=True, timeout=1200
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout, done.stderr


def check_plan(plan: dict[str, Any], topology: str) -> None:
    """Checks the fields that all plans share."""
    assert set(plan) == KEYS
    assert (plan["topology"], plan["label"], plan["margin"]) == (topology, "predicted", 0.08)
    taken = plan["used_bytes"] + plan["reserve_bytes"]
    assert plan["fits"] == (taken <= 0.92 * plan["hbm_bytes"])
    assert plan["argument_bytes"] < plan["used_bytes"]
    assert plan["flops_per_token"] == 82_145_310_720


# The other two are the same run with other numbers of rows per step.
A100X8 = [("a100x8", "a100-80g:1x8"),
          pytest.param("a100x8_8steps", "a100-80g:1x8", marks=pytest.mark.nightly),
          pytest.param("a100x8_256", "a100-80g:1x8", marks=pytest.mark.nightly)]  # fmt: skip
# One group, because a plan for the H200 is compared with another.
ON_GPUS = [*A100X8, pytest.param("h200", "h200:1x1", marks=pytest.mark.xdist_group("h200"))]
# Compiling for v5p takes minutes, so the ordinary tests use v5e.
ON_TPUS = [pytest.param("v5p", "v5p:2x2x4", marks=pytest.mark.nightly), ("v5e", "v5e:4x8")]
ONE_ROW = ("--micro-rows", "1", "--remat", "full")
ELSEWHERE = [
    ("a100x8", "a100-80g:2x8", ("--mesh.fsdp", "16")),
    ("a100x8", "h100-80g:1x8", ()),
    ("a100x8", "h200:1x8", ("--micro-rows", "4")),
    ("v5p", "v4:2x2x4", ONE_ROW),
    ("v5p", "v6e:4x4", ONE_ROW),
]


@pytest.mark.plan
@pytest.mark.parametrize(("config", "topology"), ON_TPUS + ON_GPUS)
def test_each_shipped_run_fits_its_hardware(config: str, topology: str) -> None:
    plan = planned(config, topology)
    check_plan(plan, topology)
    assert plan["fits"], plan["free_share"]
    kernel = "splash" if topology.startswith("v") else "pallas"
    assert plan["attention"] == kernel  # dense attention would not fit anywhere
    run = load_config(TrainConfig, ROOT / f"configs/train/parrot_ask_llama2_13b_{config}.yaml")
    assert plan["tokens_per_step"] == run.batch_rows * 4096
    # All 13B parameters, sharded over the devices; norms are replicated.
    bytes_each = 2 if run.param_dtype == "bfloat16" else 4
    assert plan["params_bytes"] * plan["devices"] == pytest.approx(
        bytes_each * 13_015_864_320, rel=0.01
    )


@pytest.mark.plan
@pytest.mark.nightly
@pytest.mark.parametrize(("config", "topology", "options"), ELSEWHERE)
def test_the_papers_run_fits_other_hardware(
    config: str, topology: str, options: tuple[str, ...]
) -> None:
    plan = planned(config, topology, *options)
    check_plan(plan, topology)
    assert plan["fits"], plan["free_share"]


@pytest.mark.plan
@pytest.mark.xdist_group("h200")
def test_one_h200_has_no_room_for_a_float32_sum_of_gradients() -> None:
    plan = planned("h200", "h200:1x1", "--accumulator-dtype", "float32")
    check_plan(plan, "h200:1x1")
    assert not plan["fits"]
    kept = planned("h200", "h200:1x1")
    grown = plan["used_bytes"] - kept["used_bytes"]
    assert grown == pytest.approx(2 * 13_015_864_320, rel=0.05)  # 4 bytes each, not 2


@pytest.mark.nightly
@pytest.mark.plan
def test_adapters_of_13b_fit_one_a100() -> None:
    config = "configs/train/parrot_chat_llama2_13b_lora_a100.yaml"
    plan = json.loads(
        run_alone("-m", "parrot_jax.cli", "plan", config, "--topology", "a100-80g:1x1", "--json")[0]
    )
    assert plan["fits"], plan["free_share"]
    # Two bytes a frozen weight, four for each of the 62.6M trained ones, and twice that as moments.
    trained = 16 * 40 * (4 * (5120 + 5120) + 3 * (5120 + 13824))
    assert plan["params_bytes"] == 2 * 13_015_864_320 + 4 * trained
    assert plan["optimizer_bytes"] == pytest.approx(8 * trained, abs=100)
    assert plan["flops_per_token"] == (
        4 * (13_015_864_320 - 32_000 * 5120) + 6 * trained + 6 * 40 * 5120 * 4096
    )


@pytest.mark.plan
def test_a_slice_with_too_little_memory_says_what_is_needed() -> None:
    plan = planned("v5e", "v5e:2x4", "--mesh.fsdp", "8")
    assert set(plan) == KEYS
    assert not plan["fits"]
    # On a quarter of the chips, each has four times the weights and moments, plus temporaries.
    assert plan["used_bytes"] > plan["argument_bytes"] > 15 * GIB
    assert plan["temp_bytes"] is None
    assert plan["free_share"] < 0


@pytest.mark.plan
@pytest.mark.nightly
def test_the_search_for_13b_takes_eight_compiles_at_most() -> None:
    plan = planned("a100x8", "a100-80g:1x8", "--search")
    check_plan(plan, "a100-80g:1x8")
    assert plan["fits"]
    assert 1 <= plan["compiles"] <= MAX_COMPILES
    assert plan["micro_rows"] >= planned("a100x8", "a100-80g:1x8")["micro_rows"]


_MESHES = """
import sys
from parrot_jax.train.topologies import parse_topology, prepare_environment, topology_devices
topology = parse_topology(sys.argv[1])
prepare_environment(topology)
from parrot_jax.sharding import MeshConfig, make_mesh
devices = topology_devices(topology)
for tensor in (1, 2, 4, 8, 16):
    for data in (1, 2, 4, 8, 16):
        if tensor * data <= len(devices):
            mesh = make_mesh(MeshConfig(data=data, tensor=tensor), devices)
            assert len(set(mesh.devices.flat)) == len(devices)
            print(tuple(mesh.shape.values()))
"""


@pytest.mark.plan
@pytest.mark.parametrize("topology", ["v6e:4x4", "v5p:2x2x4"])
def test_every_mesh_finds_its_place_on_a_torus(topology: str) -> None:
    meshes = run_alone("-c", _MESHES, topology)[0].splitlines()
    assert len(meshes) == 15  # the ways to write 16 as a product of three powers of two
    assert "(1, 8, 2)" in meshes  # an axis of 8 on a 4 x 4 torus


LIMITS = {
    "v4:2x2x4": "v4", "v5e:4x8": "v5e", "v5p:2x2x4": "v5p", "v6e:4x4": "v6e",
}  # fmt: skip
_LARGEST = """
import sys
from parrot_jax.train.topologies import parse_topology, prepare_environment, topology_devices
topology = parse_topology(sys.argv[1])
prepare_environment(topology)
import jax
device = jax.sharding.SingleDeviceSharding(topology_devices(topology)[0])
for spare in (2**20, -(2**20)):  # an array and its successor fill the memory but for this
    rows = (topology.chip.hbm_bytes - spare) // 2 // 4096
    array = jax.ShapeDtypeStruct((rows, 1024), "float32", sharding=device)
    try:
        jax.jit(lambda x: x + 1).lower(array).compile()
        print("compiles")
    except jax.errors.JaxRuntimeError as error:
        print(error)
"""


@pytest.mark.plan
@pytest.mark.nightly
@pytest.mark.parametrize("topology", LIMITS)
def test_a_tpu_has_the_memory_that_its_compiler_gives(topology: str) -> None:
    within, beyond = run_alone("-c", _LARGEST, topology)[0].splitlines()[-2:]
    assert within == "compiles"
    assert "Ran out of memory on HBM" in beyond
    hbm = next(chip.hbm_bytes for chip in CHIPS if chip.name == LIMITS[topology])
    assert f"available HBM ({hbm / GIB:.2f}G)" in beyond
