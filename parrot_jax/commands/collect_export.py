"""A collection as a dataset for others: filtered, with a card, in the forms that programs read."""

from dataclasses import dataclass, field
from typing import Annotated

import tyro

from parrot_jax.collect.filters import RepeatsConfig
from parrot_jax.core.paths import require_local_folder


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """What to export, where to, and what to leave out."""

    run: Annotated[str, tyro.conf.Positional]
    """The folder of the collection; it may still be running."""

    out: str
    """The folder to write; an earlier export in it is replaced."""

    license: str | None = None
    """A name of the hub's list for the card, e.g. cc-by-nc-4.0; null = not stated."""

    repeats: RepeatsConfig = field(default_factory=RepeatsConfig)
    """Questions that were asked before in another dialogue."""

    moderation: str | None = None
    """The config of an endpoint with /moderations; a dialogue ends before what it flags. Null = not
    asked. configs/moderation/openai.yaml is one."""

    def __post_init__(self) -> None:
        require_local_folder(self.out, "out")


Config = ExportConfig


def run(config: ExportConfig) -> None:
    """Writes the dataset and prints what is in it."""
    from parrot_jax.api.config import EndpointConfig
    from parrot_jax.collect.publish import export_dataset
    from parrot_jax.core.config import load_config
    from parrot_jax.core.logs import console
    from parrot_jax.core.signals import as_ctrl_c

    moderator = (
        None if config.moderation is None else load_config(EndpointConfig, config.moderation)
    )
    with as_ctrl_c():
        summary = export_dataset(
            config.run,
            config.out,
            license=config.license,
            repeats=config.repeats,
            moderator=moderator,
        )
    console.print("\n".join(summary.lines()), f"{config.out} is written", sep="\n")
