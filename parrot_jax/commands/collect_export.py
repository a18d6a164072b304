"""Write a collection as a dataset: filtered, with a card, as Parquet, `messages` and ShareGPT."""

from dataclasses import dataclass, field
from typing import Annotated

import tyro

from parrot_jax.collect.filters import RepeatsConfig
from parrot_jax.core.paths import require_local_folder


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """What to export, the output folder and the filters."""

    run: Annotated[str, tyro.conf.Positional]
    """The folder of the collection; it may still be running."""

    out: str
    """The output folder; an earlier export in it is replaced."""

    license: str | None = None
    """Licence id of the hub for the card, e.g. cc-by-nc-4.0; null = not stated."""

    repeats: RepeatsConfig = field(default_factory=RepeatsConfig)
    """Filter for questions that another dialogue has already asked."""

    moderation: str | None = None
    """Config of an endpoint with /moderations, e.g. configs/moderation/openai.yaml; a dialogue is
    cut before the first flagged text. Null = no moderation."""

    def __post_init__(self) -> None:
        require_local_folder(self.out, "out")


Config = ExportConfig


def run(config: ExportConfig) -> None:
    """Writes the dataset and prints its counts."""
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
    console.print("\n".join(summary.lines()), f"wrote {config.out}", sep="\n")
