"""Run the whole loop on synthetic data: ask, collect, chat, measure, report. No key, no network."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class QuickstartConfig:
    """Output folder and seed."""

    out: str = "runs/quickstart"
    """Output folder; run the same command again to resume."""

    seed: int = 0
    """Seed of the world, its users, the weights and the sampling."""


Config = QuickstartConfig


def run(config: QuickstartConfig) -> None:
    """Runs the loop and prints the figures."""
    from pathlib import Path

    from parrot_jax.core.logs import console
    from parrot_jax.core.paths import require_local
    from parrot_jax.world.quickstart import quickstart
    from parrot_jax.world.summary import as_text

    require_local(config.out, "--out")
    summary = quickstart(Path(config.out), seed=config.seed)
    console.print(as_text(summary))
    console.print(f"see {config.out}/report.html")
