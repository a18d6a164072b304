"""Train an asker or an answerer on dialogues; run it again to resume."""

from dataclasses import dataclass

from parrot_jax.train.train_config import TrainConfig


@dataclass(frozen=True, kw_only=True)
class TrainOptions(TrainConfig):
    """A training run, and whether to only test it."""

    preflight: bool = False
    """Test data, steps, a checkpoint round trip, disk, memory and network on this machine at full
    size, without training. Fails if the run could not finish."""

    allow_changes: tuple[str, ...] = ()
    """Keys or groups of keys that may differ from the resumed run, e.g. `optim.lr`; `data.rows`
    allows other rows with the same config. Changes are logged in `changes.jsonl`."""


Config = TrainOptions


def run(options: TrainOptions) -> None:
    """Starts or resumes the run in `options.out`."""
    from parrot_jax.core.xla_flags import set_xla_flags
    from parrot_jax.distributed import join_processes

    set_xla_flags(options.xla_flags)  # before jax initializes its backend
    join_processes(options.distributed)
    config = TrainConfig.of(options)
    if options.preflight:
        from parrot_jax.train.preflight import preflight

        preflight(config, allow_changes=options.allow_changes)
    else:
        from parrot_jax.train.loop import train

        train(config, allow_changes=options.allow_changes)
