"""Report what annotators said: rates with intervals, agreement, people against a judge."""

from dataclasses import dataclass
from typing import Annotated

import tyro


@dataclass(frozen=True, kw_only=True)
class ReportConfig:
    """The file, and where the report goes."""

    file: Annotated[str, tyro.conf.Positional]
    """The --out of `parrot annotate`; it may be in use."""

    judgments: tuple[str, ...] = ()
    """grade, compare: files of FastChat's `model_judgment/`, to hold judges against people."""

    out: str | None = None
    """A page for the report; it needs no other file and no network."""

    json: bool = False
    """Print one JSON object and nothing else."""


Config = ReportConfig


def run(config: ReportConfig) -> None:
    """Reads the file, prints and writes the report."""
    import json
    from pathlib import Path

    from parrot_jax.annotate.results import make_results
    from parrot_jax.annotate.tables import make_page, notes, tables
    from parrot_jax.core.errors import UserError
    from parrot_jax.core.logs import console, visible
    from parrot_jax.core.paths import require_local
    from parrot_jax.report.console import print_table
    from parrot_jax.report.page import write_page

    for path, what in ((config.file, "FILE"), (config.out, "--out")):
        if path is not None:
            require_local(path, what)
    if config.out is not None and Path(config.out).exists():
        for path in (config.file, *config.judgments):
            if Path(path).exists() and Path(path).samefile(config.out):
                raise UserError(
                    f"--out is {config.out}, which this report is made from; choose another name."
                )
    results = make_results(Path(config.file), config.judgments)
    if config.out is not None:
        write_page(Path(config.out), make_page(results))
    if config.json:
        print(json.dumps(results.to_json(), ensure_ascii=False, allow_nan=False))
        return
    for title, table in tables(results):
        print_table(table, title)
    for note in notes(results):
        console.print(visible(note))
    if config.out is not None:
        console.print(visible(f"see {config.out}"))
