"""`parrot plan`: the true train step, compiled for hardware that is not here.

Every figure is predicted. The compiler knows each array and each temporary, and so whether a step
fits; it does not measure time, so hours follow from a utilisation that the caller names.
"""

import math
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax

from parrot_jax.core.errors import UserError
from parrot_jax.model.llama import REMAT_POLICIES
from parrot_jax.sharding import make_mesh, num_batch_shards
from parrot_jax.train.chips import Chip, flops_per_token
from parrot_jax.train.config import TrainConfig
from parrot_jax.train.optim import learning_rate
from parrot_jax.train.program import Program, make_program
from parrot_jax.train.topologies import Topology

MARGIN = 0.08
"""Share of a device's memory that a step must leave free to be said to fit."""

_GIB = 2**30
_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


class Reserve(NamedTuple):
    """Memory that a compile cannot see."""

    bytes: int
    why: str


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What was predicted for one config on one topology. Bytes are of one device."""

    topology: str
    devices: int
    fits: bool
    """Whether `used_bytes` and the reserve leave `MARGIN` of the memory free."""
    hbm_bytes: int
    used_bytes: int | None
    """Arguments, temporaries and what is left of the outputs; None where the compiler gave up
    without saying how much it needs."""
    params_bytes: int
    optimizer_bytes: int
    """Zero where the moments are kept by the host."""
    argument_bytes: int
    temp_bytes: int | None
    reserve_bytes: int
    reserve_why: str
    compile_s: float
    mesh: tuple[int, int, int]
    """Sizes of `data`, `fsdp` and `tensor`."""
    micro_batches: int
    micro_rows: int
    """Rows of a micro-batch on each part of the mesh."""
    remat: str
    attention: str
    flops_per_token: float
    tokens_per_step: int
    """Positions in the rows of a step, padding included."""

    @property
    def free_share(self) -> float | None:
        """Share of the memory that is left."""
        if self.used_bytes is None:
            return None
        return 1 - (self.used_bytes + self.reserve_bytes) / self.hbm_bytes

    @property
    def flops_per_step(self) -> float:
        """On all devices together."""
        return self.flops_per_token * self.tokens_per_step

    def step_s(self, chip: Chip, mfu: float) -> float:
        """Seconds of a step at a utilisation in (0, 1]: FLOPs / (devices * peak * mfu)."""
        return self.flops_per_step / (self.devices * chip.peak_flops * mfu)


def make_plan(config: TrainConfig, topology: Topology, devices: list[Any]) -> Plan:
    """Compiles the train step of a run and asks the compiler for its memory.

    The loss is compiled as if every token were live, which takes the most memory; a run that knows
    its data leaves the dead ones out.

    Args:
      config: The run.
      topology: Names the hardware.
      devices: From `topology_devices`.

    Raises:
      UserError: The config does not fit the mesh, or its backend or placement the hardware.
    """
    mesh = make_mesh(config.mesh, devices)
    schedule = learning_rate(config.optim, steps_per_epoch=1000.0, num_steps=3000)
    program = make_program(config, mesh, schedule, live_capacity=None)
    reserve = reserve_for(topology, len(devices))
    started = time.perf_counter()
    lowered = program.step.lower(program.state, program.batch)
    try:
        memory = lowered.compile().memory_analysis()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        used, temp = _used_by_message(str(error)), None
    else:
        left = memory.output_size_in_bytes - memory.alias_size_in_bytes
        temp = memory.temp_size_in_bytes
        used = memory.argument_size_in_bytes + temp + left + memory.generated_code_size_in_bytes
    compile_s = time.perf_counter() - started
    on_device = [leaf for leaf in jax.tree.leaves(program.state.opt_state)
                 if leaf.sharding.memory_kind != "pinned_host"]  # fmt: skip
    params, optimizer = device_bytes(program.state.params), device_bytes(on_device)
    arguments = params + optimizer + device_bytes(dict(program.batch))
    hbm = topology.chip.hbm_bytes
    micro_batches, rows = program.micro_shape
    return Plan(
        topology=topology.name,
        devices=len(devices),
        fits=used is not None and used + reserve.bytes <= (1 - MARGIN) * hbm,
        hbm_bytes=hbm,
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
        attention=_name(program),
        flops_per_token=flops_per_token(config.model, config.data.row_tokens),
        tokens_per_step=config.batch_rows * config.data.row_tokens,
    )


def reserve_for(topology: Topology, num_devices: int) -> Reserve:
    """Memory of a device that runs beside the program."""
    if topology.platform == "tpu":
        return Reserve(_GIB // 4, "runtime")
    if num_devices == 1:
        return Reserve(_GIB, "CUDA context and kernels")
    return Reserve(3 * _GIB, "CUDA context and kernels 1 GiB, NCCL buffers 2 GiB")


def device_bytes(tree: Any) -> int:
    """Bytes that one device holds of a tree of arrays or of their descriptions."""
    return sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(tree)
    )


def search(
    config: TrainConfig, row_shards: int, compile_one: Callable[[TrainConfig], Plan]
) -> Iterator[tuple[TrainConfig, Plan]]:
    """Looks for the largest micro-batch that fits, then for the cheapest remat policy with it.

    More rows or less recomputation only ever take more memory, so both are found by halving: a
    model of 13B takes at most 8 compiles for 64 rows a part.

    Args:
      config: The run; its `micro_rows` and `remat` are not looked at.
      row_shards: Parts of the mesh that share the rows.
      compile_one: `make_plan` with the rest filled in.

    Yields:
      Each config that was compiled, with its plan. The last one that fits is the answer.
    """
    rows = config.batch_rows // row_shards
    sizes = [size for size in range(1, rows + 1) if rows % size == 0]
    policies = list(REMAT_POLICIES)  # from most memory to least
    found: TrainConfig | None = None
    low, high = 0, len(sizes)  # sizes[:low] fit, sizes[high:] do not
    while low < high:
        middle = (low + high) // 2
        tried = replace(config, micro_rows=sizes[middle], remat=policies[-1])
        plan = compile_one(tried)
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
        tried = replace(found, remat=policies[middle])
        plan = compile_one(tried)
        yield tried, plan
        low, high = (low, middle) if plan.fits else (middle + 1, high)


def _name(program: Program) -> str:
    attention = program.forward.attention
    return attention if isinstance(attention, str) else attention.name


def _used_by_message(message: str) -> int | None:
    """What the TPU compiler says that it needed when it gave up."""
    found = re.search(r"Used ([\d.]+)([KMGT]?) of [\d.]+[KMGT]? hbm", message)
    return int(float(found[1]) * _UNITS[found[2]]) if found else None
