"""Train an asker or an answerer on dialogues; run again to continue where it stopped."""

from parrot_jax.train.config import TrainConfig

Config = TrainConfig


def run(config: TrainConfig) -> None:
    """Trains, or continues, the run in `config.out`."""
    from parrot_jax.core.xla_flags import set_xla_flags
    from parrot_jax.distributed import join_processes

    set_xla_flags(config.xla_flags)  # before jax makes its backend
    join_processes(config.distributed)
    from parrot_jax.train.loop import train

    train(config)
