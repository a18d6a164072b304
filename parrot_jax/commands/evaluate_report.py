"""Report scores by turn, category and history: console, JSON, Markdown and HTML, with intervals."""

from dataclasses import dataclass
from typing import Annotated

import tyro

from parrot_jax.core.errors import UserError


@dataclass(frozen=True, kw_only=True)
class ReportConfig:
    """Judgments, and where the report goes.

    Raises:
      UserError: No run was given.
    """

    runs: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN...")]
    """Folders of `parrot evaluate judge`, or files of FastChat's `model_judgment/` with single
    grades."""

    out: str | None = None
    """Folder for report.json, report.md, report.html and the figures."""

    inspect: str | None = None
    """Folder for logs that `inspect view` opens, one for each model, history and judge; needs the
    extra `inspect`."""

    json: bool = False
    """Print one JSON object and nothing else."""

    def __post_init__(self) -> None:
        if not self.runs:
            raise UserError("no run was given; name at least one.")


Config = ReportConfig


def run(config: ReportConfig) -> None:
    """Reads the judgments, prints and writes the report."""
    from pathlib import Path

    from parrot_jax.evaluate.scores import read_scores
    from parrot_jax.evaluate.summary import make_report

    if config.inspect:
        from parrot_jax.evaluate.inspect_logs import require_inspect

        require_inspect()
    report = make_report(read_scores(config.runs))
    written = []
    if config.out:
        from parrot_jax.evaluate.writing import write_report  # loads matplotlib

        written = write_report(report, Path(config.out))
    if config.inspect:
        from parrot_jax.evaluate.inspect_logs import write_inspect_logs  # loads Inspect

        written += write_inspect_logs(config.runs, report.scores, Path(config.inspect))
    if config.json:
        from parrot_jax.evaluate.rows import print_json

        print_json(report.to_json(), report.scores.rejected)
        return
    from parrot_jax.evaluate.console import print_report

    print_report(report, written)
