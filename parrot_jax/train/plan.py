"""`parrot plan`: compiles the real train step for hardware that you don't have.

All figures are predictions. Whether a step fits follows from the compiler's list of arrays and
temporaries. It measures no time, so hours follow from an assumed utilisation (MFU).
"""

import math
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from parrot_jax.model.decoder import REMAT_POLICIES
from parrot_jax.sharding import make_mesh, num_batch_shards
from parrot_jax.train.chips import Chip, flops_per_token
from parrot_jax.train.collectives import collectives, seconds, traffic
from parrot_jax.train.optim import count_steps
from parrot_jax.train.program import make_program
from parrot_jax.train.setup import make_objective
from parrot_jax.train.topologies import Topology
from parrot_jax.train.train_config import TrainConfig

MARGIN = 0.08
"""Share of a device's memory that must stay free for a step to count as fitting."""

MAX_COMPILES = 8
"""Limit of a search."""

_GIB = 2**30
_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


class Reserve(NamedTuple):
    """Memory that the compiler does not count."""

    bytes: int
    why: str


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The prediction for one config on one topology. Bytes are per device."""

    topology: str
    devices: int
    fits: bool
    """Whether it compiles and leaves `MARGIN` of the memory free in addition to the reserve."""
    hbm_bytes: int
    used_bytes: int | None
    """Arguments, temporaries, program, and outputs that reuse no argument. If the compiler gave
    up, the minimum that it reported; None = it reported none."""
    params_bytes: int
    optimizer_bytes: int
    """0 if the moments are offloaded to the host."""
    argument_bytes: int
    temp_bytes: int | None
    reserve_bytes: int
    reserve_why: str
    compile_s: float
    mesh: tuple[int, int, int]
    """Sizes of `data`, `fsdp` and `tensor`."""
    micro_batches: int
    micro_rows: int
    """Rows of a micro-batch per data-parallel part."""
    remat: str
    attention: str
    flops_per_token: int
    tokens_per_step: int
    """Tokens of a step, including padding."""
    sent_bytes: dict[str, int] | None
    """Bytes that a device sends in a step, by kind of collective; None = they are not counted."""
    sent_s: float | None
    """Least time for these bytes: all links at the vendor's rate. None = unknown bytes or links."""
    uncounted_why: str | None
    """Why the collectives are not counted; None = they are."""

    @property
    def free_share(self) -> float | None:
        """Free share of the memory."""
        if self.used_bytes is None:
            return None
        return 1 - (self.used_bytes + self.reserve_bytes) / self.hbm_bytes

    @property
    def flops_per_step(self) -> int:
        """Over all devices."""
        return self.flops_per_token * self.tokens_per_step


@dataclass(frozen=True, kw_only=True)
class Time:
    """Time of a run at an assumed utilisation."""

    mfu: float
    """Model FLOPs utilisation: formula FLOPs / peak, in (0, 1]."""
    step_s: float
    tokens_per_s: float
    """Over all devices, including padding."""
    hours: float | None
    """Of the whole run; None if the number of rows is unknown."""
    device_hours: float | None


def make_plan(config: TrainConfig, topology: Topology, devices: list[Any]) -> Plan:
    """Compiles the train step of a run and reads its memory use from the compiler.

    The loss is compiled for all tokens, which takes the most memory; a run that knows its data
    skips tokens that are not live.

    Args:
      config: The run.
      topology: The hardware.
      devices: From `topology_devices`.

    Raises:
      UserError: The config does not fit the mesh, or the attention backend or offload setting does
        not work on the hardware.
    """
    mesh = make_mesh(config.mesh, devices)
    program = make_program(config, mesh, objective=make_objective(config, None, {}))
    reserve = reserve_for(topology, len(devices))
    started = time.perf_counter()
    lowered = program.step.lower(program.state, program.batch, 0.0)
    compiled = None
    try:
        compiled = lowered.compile()
        memory = compiled.memory_analysis()
    except jax.errors.JaxRuntimeError as error:
        # A kernel that exceeds a core's own memory raises this too; that is a bug.
        if "RESOURCE_EXHAUSTED" not in str(error) or "hbm" not in str(error).lower():
            raise
        used, temp, fits = _used_by_message(str(error)), None, False
    else:
        left = memory.output_size_in_bytes - memory.alias_size_in_bytes
        temp = memory.temp_size_in_bytes
        used = memory.argument_size_in_bytes + temp + left + memory.generated_code_size_in_bytes
        fits = used + reserve.bytes <= (1 - MARGIN) * topology.chip.hbm_bytes
    compile_s = time.perf_counter() - started
    sent = _sent(compiled, topology)
    on_device = [leaf for leaf in jax.tree.leaves(program.state.opt_state)
                 if leaf.sharding.memory_kind != "pinned_host"]  # fmt: skip
    params, optimizer = device_bytes(program.state.params), device_bytes(on_device)
    arguments = params + optimizer + device_bytes((program.state.step, dict(program.batch)))
    micro_batches, rows = program.micro_shape
    return Plan(
        topology=topology.name,
        devices=len(devices),
        fits=fits,
        hbm_bytes=topology.chip.hbm_bytes,
        used_bytes=used,
        params_bytes=params,
        optimizer_bytes=optimizer,
        argument_bytes=arguments,
        temp_bytes=temp,
        reserve_bytes=reserve.bytes,
        reserve_why=reserve.why,
        compile_s=compile_s,
        mesh=tuple(mesh.shape.values()),
        micro_batches=micro_batches,
        micro_rows=rows // num_batch_shards(mesh),
        remat=config.remat,
        attention=program.forward.attention.name,
        flops_per_token=flops_per_token(config.model, config.data.row_tokens, config.lora),
        tokens_per_step=config.batch_rows * config.data.row_tokens,
        **sent,
    )


def _sent(compiled: Any, topology: Topology) -> dict[str, Any]:
    """The fields of a plan on what a device sends in a step."""
    none = {"sent_bytes": None, "sent_s": None}
    if compiled is None:
        return {**none, "uncounted_why": "the compiler gave up"}
    try:
        found = collectives(compiled.as_text())
    except ValueError as error:
        return {**none, "uncounted_why": str(error)}
    # NVLink ends at the host.
    is_one_network = topology.platform == "tpu" or topology.shape[0] == 1
    return {
        "sent_bytes": {kind: each.bytes for kind, each in traffic(found).items()},
        "sent_s": seconds(found, topology.chip) if is_one_network else None,
        "uncounted_why": None,
    }


def times(
    plan: Plan, config: TrainConfig, chip: Chip, mfus: Sequence[float], rows: int | None
) -> list[Time]:
    """Time of a step and of the run, FLOPs / (devices * peak * mfu), for each utilisation."""
    found = []
    for mfu in mfus:
        step_s = plan.flops_per_step / (plan.devices * chip.peak_flops * mfu)
        hours = None if rows is None else step_s * count_steps(config, rows).stop_step / 3600
        found.append(
            Time(
                mfu=mfu,
                step_s=step_s,
                tokens_per_s=plan.tokens_per_step / step_s,
                hours=hours,
                device_hours=None if hours is None else hours * plan.devices,
            )
        )
    return found


def describe(plan: Plan, times: Sequence[Time], compiles: int) -> Iterator[str]:
    """Formats the plan as lines of text."""
    data, fsdp, tensor = plan.mesh
    yield (
        f"{plan.topology}: {plan.devices} devices as data {data} x fsdp {fsdp} x tensor {tensor}; "
        f"accumulation {plan.micro_batches}, micro-batch {plan.micro_rows} per data-parallel part; "
        f"remat {plan.remat}, attention {plan.attention}"
    )
    yield "predicted memory per device:"
    rest = plan.argument_bytes - plan.params_bytes - plan.optimizer_bytes
    kinds = [("parameters", plan.params_bytes), ("optimizer", plan.optimizer_bytes),
             ("rows", rest), ("temporaries", plan.temp_bytes),
             (f"reserve ({plan.reserve_why})", plan.reserve_bytes)]  # fmt: skip
    for kind, num_bytes in kinds:
        yield f"  {_gib(num_bytes):>9}  {kind}"
    total = None if plan.used_bytes is None else plan.used_bytes + plan.reserve_bytes
    yield f"  {_gib(total):>9}  of {_gib(plan.hbm_bytes)}"
    if plan.free_share is None:
        yield "does not fit: the compiler gave up"
    elif plan.free_share < 0:
        yield f"does not fit: {-plan.free_share:.1%} over the limit"
    else:
        verdict = "fits" if plan.fits else "does not fit"
        yield f"{verdict}: {plan.free_share:.1%} free, {MARGIN:.0%} required"
    yield (
        f"{plan.flops_per_token / 1e9:.1f} GFLOP per token, {plan.flops_per_step / 1e15:.2f} PFLOP "
        f"per step of {plan.tokens_per_step:,} tokens (formula, without recomputation)"
    )
    if plan.sent_bytes is None:
        yield f"collectives: not counted: {plan.uncounted_why}"
    elif plan.sent_bytes:
        kinds_ = ", ".join(f"{kind} {sent / 1e9:.1f} GB" for kind, sent in plan.sent_bytes.items())
        least = "" if plan.sent_s is None else f"; at least {plan.sent_s:.2f} s on all links"
        yield f"collectives per device and step: {kinds_}{least}"
    for time_ in times:
        whole = "" if time_.hours is None else (
            f", {time_.hours:,.1f} hours and {time_.device_hours:,.0f} device-hours in all"
        )  # fmt: skip
        yield (
            f"at {time_.mfu:.0%} MFU a step takes {time_.step_s:.2f} s, {time_.tokens_per_s:,.0f} "
            f"tokens/s{whole} (predicted)"
        )
    yield f"(compilations: {compiles}, the last one {plan.compile_s:.0f} s)"


def describe_briefly(plan: Plan) -> str:
    """One line of a search."""
    verdict = "fits" if plan.fits else "does not fit"
    return (
        f"micro_rows {plan.micro_rows}, remat {plan.remat}: {verdict}, {_gib(plan.used_bytes)} "
        f"and {_gib(plan.reserve_bytes)} reserve of {_gib(plan.hbm_bytes)} (predicted, "
        f"{plan.compile_s:.0f} s)"
    )


def _gib(num_bytes: int | None) -> str:
    return "unknown" if num_bytes is None else f"{num_bytes / _GIB:.1f} GiB"


def reserve_for(topology: Topology, num_devices: int) -> Reserve:
    """Device memory to keep for what runs beside the program."""
    if topology.platform == "tpu":
        return Reserve(_GIB // 4, "other programs, the next rows")
    if num_devices == 1:
        return Reserve(_GIB, "CUDA context, kernels, fragmentation")
    return Reserve(3 * _GIB, "CUDA context, kernels, fragmentation 1 GiB; NCCL buffers 2 GiB")


def device_bytes(tree: Any) -> int:
    """Bytes per device of a tree of arrays or `ShapeDtypeStruct`s."""
    return sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * _bits(leaf.dtype) // 8
        for leaf in jax.tree.leaves(tree)
    )


def _bits(dtype: Any) -> int:
    """Bits of an element; XLA packs two of 4 bits into a byte."""
    return 4 if dtype == jnp.uint4 else 8 * dtype.itemsize


def search(
    config: TrainConfig, topology: Topology, devices: list[Any], *, widely: bool = True
) -> Iterator[tuple[TrainConfig, Plan]]:
    """Searches the largest micro-batch that fits, then the remat policy that recomputes least.

    More rows and less recomputation only take more memory, so both searches are binary. All rows at
    once are tried first: without accumulation there is no gradient sum, so this may take less
    memory than smaller micro-batches.

    Args:
      config: The run; a wide search ignores its `micro_rows` and `remat`.
      topology: As in `make_plan`.
      devices: As in `make_plan`.
      widely: False = only compile the config as it is.

    Yields:
      Each compiled config with its plan, at most `MAX_COMPILES`. The last one that fits is the
      answer.
    """

    def compiled(tried: TrainConfig) -> tuple[TrainConfig, Plan]:
        return tried, make_plan(tried, topology, devices)

    if not widely:
        yield compiled(config)
        return
    shards = num_batch_shards(make_mesh(config.mesh, devices))
    config.accumulation_steps(shards)  # raises if the parts cannot share the rows
    rows = config.batch_rows // shards
    sizes = [size for size in range(1, rows) if rows % size == 0]
    policies = list(REMAT_POLICIES)  # from most memory to least
    tried, plan = compiled(replace(config, micro_rows=rows, remat=policies[-1]))
    yield tried, plan
    found = tried if plan.fits else None
    # As many sizes as the remaining compilations can search, after those for the policies.
    most = 2 ** (MAX_COMPILES - 1 - (len(policies) - 1).bit_length()) - 1
    low, high = 0, 0 if plan.fits else min(len(sizes), most)  # sizes[:low] fit, sizes[high:] do not
    while low < high:
        middle = (low + high) // 2
        tried, plan = compiled(replace(config, micro_rows=sizes[middle], remat=policies[-1]))
        yield tried, plan
        if plan.fits:
            low, found = middle + 1, tried
        else:
            high = middle
    if found is None:
        return
    low, high = 0, len(policies) - 1  # policies[high:] fit, policies[:low] do not
    while low < high:
        middle = (low + high) // 2
        tried, plan = compiled(replace(found, remat=policies[middle]))
        yield tried, plan
        low, high = (low, middle) if plan.fits else (middle + 1, high)


def _used_by_message(message: str) -> int | None:
    """The memory that the TPU compiler reports when it gives up.

    The first form is from libtpu 0.0.42; it says "temporaries" but counts arguments and outputs as
    well. The second is from XLA's list of errors (E1000).
    """
    size = r"([\d.]+)([KMGT]?)"
    forms = rf"memory required for HLO temporaries \({size}\)", rf"Used {size} of {size} hbm"
    found = next((match for form in forms if (match := re.search(form, message))), None)
    return int(float(found[1]) * _UNITS[found[2]]) if found else None
