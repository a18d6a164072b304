"""Is B better than A, and at which turns? One sentence, only as sure as the interval."""

from dataclasses import dataclass
from typing import Annotated

import tyro


@dataclass(frozen=True, kw_only=True)
class CompareConfig:
    """Two judged models."""

    a: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="A")]
    """A folder of `parrot evaluate judge` or a file of grades; RUN:MODEL if it has several models,
    RUN:MODEL@none for another history."""

    b: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="B")]
    """The same; may be another model of the same run."""

    json: bool = False
    """Print one JSON object and nothing else."""


Config = CompareConfig


def run(config: CompareConfig) -> None:
    """Reads both and prints the sentence."""
    from parrot_jax.evaluate.comparing import compare
    from parrot_jax.evaluate.scores import read_series

    (first, second), rejected = read_series([config.a, config.b])
    found = compare(first, second)
    if config.json:
        from parrot_jax.evaluate.rows import print_json

        print_json(found.to_json() | {"rejected": dict(rejected.reasons)}, rejected)
        return
    from parrot_jax.evaluate.console import print_comparison

    print_comparison(found, rejected)
