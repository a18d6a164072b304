"""Collect dialogues between an asker and an answerer into a journal; run it again to resume."""

from parrot_jax.collect.collect_config import CollectConfig

Config = CollectConfig


def run(config: CollectConfig) -> None:
    """Starts or resumes the collection in `config.out`."""
    from parrot_jax.collect.run import collect
    from parrot_jax.core.signals import as_ctrl_c

    with as_ctrl_c():
        collect(config)
