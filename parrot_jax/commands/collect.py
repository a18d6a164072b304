"""Let an asker and an answerer talk, and journal every word; run it again to continue."""

from parrot_jax.collect.config import CollectConfig

Config = CollectConfig


def run(config: CollectConfig) -> None:
    """Collects dialogues into `config.out`, or goes on with them."""
    from parrot_jax.collect.run import collect
    from parrot_jax.core.signals import as_ctrl_c

    with as_ctrl_c():
        collect(config)
