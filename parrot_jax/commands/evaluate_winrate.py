"""AlpacaEval's win rate with its interval, from files of annotations."""

from dataclasses import dataclass
from typing import Annotated

import tyro

from parrot_jax.core.errors import UserError


@dataclass(frozen=True, kw_only=True)
class WinrateConfig:
    """Files, and the form of the result.

    Raises:
      UserError: No file was given, or `gamed` without `length_controlled`.
    """

    paths: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="FILE...")]
    """Annotation files of AlpacaEval 1 or 2."""

    length_controlled: bool = False
    """Also compute AlpacaEval's length-controlled win rate, which needs the extra `alpaca` and the
    outputs in the annotations."""

    gamed: str | None = None
    """AlpacaEval's df_gamed.csv, with the difficulties of its instructions; default: where
    `parrot evaluate download alpaca-eval` writes it, in benchmarks/alpaca-eval/."""

    json: bool = False
    """Print one JSON object and nothing else."""

    def __post_init__(self) -> None:
        if not self.paths:
            raise UserError("no file was given; name at least one.")
        if self.gamed is not None and not self.length_controlled:
            raise UserError("--gamed is for --length-controlled only; give both or neither.")


Config = WinrateConfig


def run(config: WinrateConfig) -> None:
    """Reads the files and prints the result."""
    from parrot_jax.evaluate.winrate import win_rates

    found = win_rates(config.paths)
    if config.length_controlled:
        from parrot_jax.evaluate.length_control import control_length  # loads scikit-learn

        control_length(found, config.paths, config.gamed)
    if config.json:
        from parrot_jax.evaluate.rows import print_json

        print_json(found.to_json(), found.rejected)
        return
    from parrot_jax.evaluate.console import print_win_rates

    print_win_rates(found)
