"""Parse the texts of FastChat's judgment files again; report means, duplicates, disagreements."""

from dataclasses import dataclass
from typing import Annotated

import tyro

from parrot_jax.core.errors import UserError


@dataclass(frozen=True, kw_only=True)
class RescoreConfig:
    """Files, and the form of the result.

    Raises:
      UserError: No file was given.
    """

    paths: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="FILE...")]
    """Files of FastChat's `model_judgment/`: JSON lines, single or pairwise."""

    json: bool = False
    """Print one JSON object and nothing else."""

    def __post_init__(self) -> None:
        if not self.paths:
            raise UserError("no file was given; name at least one.")


Config = RescoreConfig


def run(config: RescoreConfig) -> None:
    """Reads the files and prints the result."""
    from parrot_jax.evaluate.rescore import rescore

    found = rescore(config.paths)
    if config.json:
        from parrot_jax.evaluate.rows import print_json

        print_json(found.to_json(), found.rejected)
        return
    from parrot_jax.evaluate.console import print_rescored

    print_rescored(found)
