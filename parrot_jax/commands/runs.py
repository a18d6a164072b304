"""List the runs in a folder, also those that are being written: state, step, last loss."""

from dataclasses import dataclass
from typing import Annotated

import tyro

from parrot_jax.core.errors import UserError


@dataclass(frozen=True, kw_only=True)
class RunsConfig:
    """Where to look."""

    folder: Annotated[str, tyro.conf.Positional] = "runs"
    """Its runs, and those in its folders, are listed."""

    json: bool = False
    """Print one JSON object and nothing else."""


Config = RunsConfig


def run(config: RunsConfig) -> None:
    """Prints a table of the runs in `config.folder`."""
    import json
    from pathlib import Path

    from parrot_jax.core.logs import console
    from parrot_jax.core.paths import require_local
    from parrot_jax.report.console import print_table
    from parrot_jax.runs.finding import find_runs, runs_table

    require_local(config.folder, "FOLDER")
    folder = Path(config.folder)
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder; name the folder of your runs.")
    found = list(find_runs(folder))
    if config.json:
        runs = [one._asdict() | {"path": str(one.path)} for one in found]
        print(json.dumps({"runs": runs}))
    elif found:
        print_table(runs_table(found, folder), "")
    else:
        console.print(f"there is no run in {folder}")
