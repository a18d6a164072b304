"""Look at dialogues in a browser: any file, collection or evaluation, also while it grows."""

from dataclasses import dataclass
from typing import Annotated

import tyro

from parrot_jax.core.errors import UserError


@dataclass(frozen=True, kw_only=True)
class ViewConfig:
    """What to look at.

    Raises:
      UserError: No path was given, or a number is outside its range.
    """

    paths: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="PATH...")]
    """Files of dialogues or of preference pairs, globs, folders of `parrot collect`, `parrot
    evaluate answer` or `parrot evaluate judge`, hf://owner/name, or training configs (*.yaml). The
    format is detected; kind:PATH sets it, e.g. sharegpt:a.json."""

    port: int = 0
    """Of the local web server; 0 = a free one. With a port of your own, links to a dialogue stay
    valid after a restart."""

    html: str | None = None
    """Write a sample to this file, to send to somebody, instead of serving pages."""

    sample: int = 20
    """Number of dialogues in that file, >= 1."""

    seed: int = 0
    """Seed of that sample, >= 0. With the same seed, a larger sample contains the smaller one."""

    cache_dir: str = ".parrot_cache"
    """Folder of the indexes; they can be deleted at any time."""

    def __post_init__(self) -> None:
        if not self.paths:
            raise UserError("no path was given; name at least one file or folder.")
        for name, least in (("port", 0), ("sample", 1), ("seed", 0)):
            if getattr(self, name) < least:
                raise UserError(f"--{name} is {getattr(self, name)}; it must be at least {least}.")
        if self.port > 65_535:
            raise UserError(f"--port is {self.port}; it must be at most 65535.")


Config = ViewConfig


def run(config: ViewConfig) -> None:
    """Serves pages until Ctrl-C, or writes a sample."""
    from parrot_jax.core.paths import require_local_folder, require_page
    from parrot_jax.view.opening import open_paths

    require_local_folder(config.cache_dir, "--cache-dir")
    parts = open_paths(list(config.paths), config.cache_dir)
    if config.html is not None:
        from parrot_jax.view.sample import write_sample

        require_page(config.html, "--html")
        write_sample(parts, config.html, size=config.sample, seed=config.seed)
        return
    from parrot_jax.view.serving import serve

    serve(parts, port=config.port)
