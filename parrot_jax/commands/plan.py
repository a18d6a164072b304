"""Compile a run's train step for hardware that is not here: does it fit, what will it take?"""

from dataclasses import asdict, dataclass
from typing import Any

from parrot_jax.core.errors import UserError
from parrot_jax.train.config import TrainConfig


@dataclass(frozen=True, kw_only=True)
class PlanConfig(TrainConfig):
    """A training run, and the hardware to plan it for."""

    topology: str | None = None
    """What to compile for: chip, colon, shape. `v5p:2x2x4` are 16 chips of a slice, `a100-80g:2x8`
    two hosts of 8 GPUs; an unknown name lists the others."""

    rows: int | None = None
    """Rows of the data, as `parrot data prepare` counts them, for the hours of the run."""

    mfu: tuple[float, ...] = (0.3, 0.4, 0.5)
    """Utilisations to give times for, each in (0, 1]: the share of the chips' peak that the formula
    FLOPs make up."""

    search: bool = False
    """Find the largest `micro_rows`, and with it the cheapest `remat`, that fit; 8 compiles at
    most."""

    json: bool = False
    """Print one JSON object and nothing else."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.mfu or not all(0 < mfu <= 1 for mfu in self.mfu):
            raise UserError(f"mfu is {list(self.mfu)}; give one or more, each in (0, 1].")
        if self.rows is not None and self.rows < 1:
            raise UserError(f"rows is {self.rows}; it must be at least 1.")


Config = PlanConfig


def run(config: PlanConfig) -> None:
    """Prints the plan; a run that does not fit is said so, and is no error."""
    from parrot_jax.train.topologies import (
        TOPOLOGIES,
        parse_topology,
        prepare_environment,
        topology_devices,
    )

    config.check_mask()
    if config.topology is None:
        raise UserError(f"--topology is missing; choose one of {', '.join(TOPOLOGIES)}.")
    topology = parse_topology(config.topology)
    # Before jax is loaded: it reads the environment then.
    prepare_environment(topology, config.xla_flags)

    import json

    from parrot_jax.core.logs import console
    from parrot_jax.train import plan as planning

    devices = topology_devices(topology)
    train = TrainConfig.of(config)
    compiled: list[tuple[TrainConfig, planning.Plan]] = []
    for candidate, plan in planning.search(train, topology, devices, widely=config.search):
        compiled.append((candidate, plan))
        if config.search and not config.json:
            console.print(planning.describe_briefly(plan))
    # The last that fits is the answer of a search; where none does, the last shows by how much.
    train, plan = next((pair for pair in reversed(compiled) if pair[1].fits), compiled[-1])
    compiles = len(compiled)
    times = planning.times(plan, train, topology.chip, config.mfu, config.rows)
    if config.json:
        values: dict[str, Any] = {
            **asdict(plan), "margin": planning.MARGIN, "free_share": plan.free_share,
            "flops_per_step": plan.flops_per_step, "times": [asdict(time) for time in times],
            "compiles": compiles, "label": "predicted",
        }  # fmt: skip
        print(json.dumps(values))
    else:
        for line in planning.describe(plan, times, compiles):
            console.print(line)
