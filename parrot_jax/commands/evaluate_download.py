"""Download a public benchmark, or list those there are with their sources and licences."""

from dataclasses import dataclass
from typing import Annotated

import tyro

from parrot_jax.core.errors import UserError


@dataclass(frozen=True, kw_only=True)
class DownloadConfig:
    """The benchmark, and where it goes."""

    name: Annotated[str | None, tyro.conf.Positional] = None
    """mt-bench, mt-bench-101, mt-eval or alpaca-eval; default: list them, without a network."""

    out: str = "benchmarks"
    """Folder of all benchmarks; the files go to OUT/NAME/."""

    overwrite: bool = False
    """Replace files with another content."""


Config = DownloadConfig


def run(config: DownloadConfig) -> None:
    """Lists or downloads, and prints source and licence."""
    import difflib
    from pathlib import Path

    from parrot_jax.core.logs import console, visible
    from parrot_jax.evaluate.downloads import download, listed
    from parrot_jax.evaluate.published import PUBLIC_BENCHMARKS

    def show(line: str) -> None:
        console.print(visible(line), markup=False, highlight=False, soft_wrap=True)

    if config.name is None:
        for line in listed([*PUBLIC_BENCHMARKS.items()]):
            show(line)
        return
    benchmark = PUBLIC_BENCHMARKS.get(config.name)
    if benchmark is None:
        near = difflib.get_close_matches(config.name, PUBLIC_BENCHMARKS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(PUBLIC_BENCHMARKS)}."
        raise UserError(f"no benchmark is named {config.name!r}; {hint}")
    for one in download(benchmark, Path(config.out) / config.name, overwrite=config.overwrite):
        show(f"{one.state} {one.path}: {one.content}, {one.num_bytes:,} bytes, from {one.url}")
    show(f"source {benchmark.home}, licence {benchmark.licence}")
