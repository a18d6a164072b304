"""Write a shipped config to a file of your own, to change it."""

from dataclasses import dataclass
from typing import Annotated

import tyro

from parrot_jax.core.errors import UserError


@dataclass(frozen=True, kw_only=True)
class ConfigsCopyConfig:
    """Which one, and where to."""

    name: Annotated[str, tyro.conf.Positional]
    """As `parrot configs` lists it, e.g. configs/train/chat_cpu.yaml; chat_cpu is enough."""

    path: Annotated[str | None, tyro.conf.Positional] = None
    """The file to write, or a folder for it; without it, a file of the same name here. A file that
    is there already is never replaced."""


Config = ConfigsCopyConfig


def run(config: ConfigsCopyConfig) -> None:
    """Writes the file and says how to use it."""
    from pathlib import Path

    from parrot_jax.commands.configs import KINDS
    from parrot_jax.core.files import atomic_write
    from parrot_jax.core.logs import console
    from parrot_jax.core.paths import require_local
    from parrot_jax.core.shipped import shipped_file

    name = find_config(config.name)
    source = shipped_file(name)
    assert source is not None
    require_local(config.path or "", "PATH")
    target = Path(config.path or source.name)
    if target.is_dir() or (config.path or "").endswith("/"):
        target /= source.name
    if target.exists():
        raise UserError(f"{target} is there already; name another PATH.")
    with atomic_write(target, "wb") as file:
        file.write(source.read_bytes())
    console.print(f"wrote {target}: {KINDS[name.split('/')[1]].command} {target}")


def find_config(name: str) -> str:
    """The path of a shipped config, by that path or by a part of it that is enough.

    Raises:
      UserError: There is none, or more than one.
    """
    import difflib

    from parrot_jax.core.shipped import shipped_configs

    paths = shipped_configs()
    wanted = f"/{name.removesuffix('.yaml')}.yaml"
    found = [path for path in paths if f"/{path}".endswith(wanted)]
    if len(found) == 1:
        return found[0]
    if found:
        raise UserError(f"{name} may be {' or '.join(found)}; name one of them.")
    stems = {path.rpartition("/")[2].removesuffix(".yaml"): path for path in paths}
    near = difflib.get_close_matches(wanted.rpartition("/")[2].removesuffix(".yaml"), stems, n=1)
    hint = f"did you mean {stems[near[0]]}?" if near else "`parrot configs` lists them."
    raise UserError(f"no shipped config is named {name}; {hint}")
