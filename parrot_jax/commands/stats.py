"""Dataset statistics for any files: Table 1 and Figure 3 of the papers, and how users ask."""

from dataclasses import dataclass
from typing import Annotated

import tyro

from parrot_jax.core.errors import UserError


@dataclass(frozen=True, kw_only=True)
class StatsConfig:
    """Files to measure, and options.

    Raises:
      UserError: A value is outside its range, or --judge has no --out.
    """

    paths: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="PATH...")]
    """Dialogue files, one column each: a file, a glob, the folder of a collection, or
    hf://owner/name. The format is detected; kind:PATH sets it, e.g. sharegpt:a.json."""

    tokenizer: str | None = None
    """A LLaMA tokenizer.model, or a folder with one; without it, tokens are not counted."""

    judge: str | None = None
    """Config of the endpoint that judges topics, references and context-dependent questions; see
    configs/stats."""

    sample: int = 200
    """Number of sessions to judge in each file, >= 1; drawn by seed and content."""

    out: str | None = None
    """Folder for stats.json, stats.md, stats.html, the figure and the judge's journal. Run the same
    command again to resume."""

    json: bool = False
    """Print one JSON object and nothing else."""

    seed: int = 0
    """Seed for the judged sessions and the bootstrap intervals; >= 0."""

    def __post_init__(self) -> None:
        for name, least in (("sample", 1), ("seed", 0)):
            if getattr(self, name) < least:
                raise UserError(f"{name} is {getattr(self, name)}; it must be at least {least}.")
        if not self.paths:
            raise UserError("no path was given; pass at least one file of dialogues.")
        if self.judge is not None and self.out is None:
            raise UserError(
                "--judge needs --out, the folder in which the judge's paid replies are stored."
            )


Config = StatsConfig


def run(config: StatsConfig) -> None:
    """Measures the files, judges them if a judge is given, prints and writes the results."""
    import json
    from pathlib import Path

    from parrot_jax.core.signals import as_ctrl_c
    from parrot_jax.stats.console import print_statistics
    from parrot_jax.stats.run import compute_statistics

    with as_ctrl_c():
        statistics = compute_statistics(
            config.paths,
            tokenizer=config.tokenizer,
            judge=config.judge,
            sample=config.sample,
            out=config.out,
            seed=config.seed,
        )
    written = []
    if config.out:
        from parrot_jax.stats.writing import write_statistics  # loads matplotlib

        written = write_statistics(statistics, Path(config.out))
    if config.json:
        print(json.dumps(statistics.to_json(), ensure_ascii=False))
    else:
        print_statistics(statistics, written)
    # Raised last, so that the results so far are written.
    if statistics.judgments is not None and statistics.judgments.problem is not None:
        raise statistics.judgments.problem
