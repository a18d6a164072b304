"""Write an HTML report of training runs or collections: curves, samples, counts, cost."""

from dataclasses import dataclass
from typing import Annotated

import tyro

from parrot_jax.core.errors import UserError


@dataclass(frozen=True, kw_only=True)
class ReportConfig:
    """The runs, and where the report goes.

    Raises:
      UserError: No run was given.
    """

    runs: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN...")]
    """Folders of `parrot train`, or of `parrot collect`; several are put side by side."""

    out: str = "report.html"
    """The page; it needs no other file and no network."""

    def __post_init__(self) -> None:
        if not self.runs:
            raise UserError("no run was given; name at least one.")


Config = ReportConfig


def run(config: ReportConfig) -> None:
    """Reads the runs and writes the page."""
    from pathlib import Path

    from parrot_jax.core.logs import console
    from parrot_jax.core.paths import require_page
    from parrot_jax.runs.writing import write_report

    require_page(config.out, "--out")
    write_report(config.runs, Path(config.out))
    console.print(f"see {config.out}")
