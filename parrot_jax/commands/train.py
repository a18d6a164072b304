"""Train an asker or an answerer on dialogues; run again to continue where it stopped."""

from dataclasses import dataclass

from parrot_jax.train.config import TrainConfig


@dataclass(frozen=True, kw_only=True)
class TrainOptions(TrainConfig):
    """A training run, and whether to try it first."""

    preflight: bool = False
    """Try everything that the run needs on this machine, at full size, and train nothing: data,
    steps, a whole checkpoint there and back, disk, memory, network; refuse what cannot end well."""

    allow_changes: tuple[str, ...] = ()
    """Keys, or groups of keys, that may differ from the run that is continued, e.g. `optim.lr`;
    `data.rows` = other rows under the same config. The run's `changes.jsonl` keeps what changed."""


Config = TrainOptions


def run(options: TrainOptions) -> None:
    """Trains, or continues, the run in `options.out`."""
    from parrot_jax.core.xla_flags import set_xla_flags
    from parrot_jax.distributed import join_processes

    set_xla_flags(options.xla_flags)  # before jax makes its backend
    join_processes(options.distributed)
    config = TrainConfig.of(options)
    if options.preflight:
        from parrot_jax.train.preflight import preflight

        preflight(config, allow_changes=options.allow_changes)
    else:
        from parrot_jax.train.loop import train

        train(config, allow_changes=options.allow_changes)
