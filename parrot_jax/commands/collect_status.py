"""Show the state of a collection, also while it runs: counts, rates, stops, cost, forecast."""

from dataclasses import dataclass
from typing import Annotated

import tyro


@dataclass(frozen=True, kw_only=True)
class StatusConfig:
    """The collection to show."""

    run: Annotated[str, tyro.conf.Positional]
    """The folder of the collection."""

    json: bool = False
    """Print one JSON object and nothing else."""


Config = StatusConfig


def run(config: StatusConfig) -> None:
    """Prints the status of `config.run`."""
    import contextlib
    import json
    from dataclasses import asdict

    from parrot_jax.collect.folder import Collection
    from parrot_jax.collect.status import read_status, status_view
    from parrot_jax.core.logs import console

    with contextlib.closing(Collection(config.run)) as collection:
        status = read_status(collection)
        if config.json:
            print(json.dumps(asdict(status)))
        else:
            console.print(status_view(status))
