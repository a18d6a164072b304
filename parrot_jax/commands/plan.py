"""Compile a run's train step for hardware you don't have; print its memory and time."""

from dataclasses import asdict, dataclass
from typing import Any

from parrot_jax.core.errors import UserError
from parrot_jax.train.train_config import TrainConfig


@dataclass(frozen=True, kw_only=True)
class PlanConfig(TrainConfig):
    """A training run, and the hardware to compile it for."""

    topology: str | None = None
    """Hardware to compile for, as chip:shape. `v5p:2x2x4` is a slice of 16 chips, `a100-80g:2x8` is
    two hosts of 8 GPUs; the error for an unknown name lists the valid ones."""

    rows: int | None = None
    """Number of rows of the data, from `parrot data prepare`; needed to predict the hours of the
    run."""

    mfu: tuple[float, ...] = (0.3, 0.4, 0.5)
    """Model FLOPs utilisations to predict times for, each in (0, 1]."""

    search: bool = False
    """Find the largest `micro_rows` that fits, and the `remat` that recomputes least and
    still fits; at most 8 compiles."""

    json: bool = False
    """Print one JSON object and nothing else."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.mfu or not all(0 < mfu <= 1 for mfu in self.mfu):
            raise UserError(f"mfu is {list(self.mfu)}; set one or more values in (0, 1].")
        if self.rows is not None and self.rows < 1:
            raise UserError(f"rows is {self.rows}; it must be at least 1.")


Config = PlanConfig


def run(config: PlanConfig) -> None:
    """Prints the plan; a run that does not fit is reported, not an error."""
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
    # jax reads the environment when it is imported.
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
    # Report the last candidate that fits; if none fits, the last one, to show how much is missing.
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
