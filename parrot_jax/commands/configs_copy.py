"""Copy a shipped config or chat template to a file that you can edit."""

from dataclasses import dataclass
from typing import Annotated

import tyro

from parrot_jax.core.errors import UserError


@dataclass(frozen=True, kw_only=True)
class ConfigsCopyConfig:
    """The config to copy, and the target."""

    name: Annotated[str, tyro.conf.Positional]
    """Path as `parrot configs` lists it, e.g. configs/train/chat_cpu.yaml, or just chat_cpu."""

    path: Annotated[str | None, tyro.conf.Positional] = None
    """The file to write, or its folder; default: the same name in the working directory. Existing
    files are never overwritten."""


Config = ConfigsCopyConfig


def run(config: ConfigsCopyConfig) -> None:
    """Copies the file and prints the command that uses it."""
    from pathlib import Path

    from parrot_jax.commands.configs import CHAT_TEMPLATE_COMMAND, KINDS
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
        raise UserError(f"{target} already exists; choose another PATH.")
    with atomic_write(target, "wb") as file:
        file.write(source.read_bytes())
    kind = KINDS.get(name.split("/")[1])
    console.print(f"wrote {target}: {kind.command if kind else CHAT_TEMPLATE_COMMAND} {target}")


def find_config(name: str) -> str:
    """Finds a shipped config by its path or an unambiguous suffix of it.

    Raises:
      UserError: No config matches, or more than one.
    """
    import difflib

    from parrot_jax.core.shipped import shipped_chat_templates, shipped_configs

    def bare(path: str) -> str:
        return path.removesuffix(".yaml").removesuffix(".jinja")

    paths = [*shipped_configs(), *shipped_chat_templates()]
    wanted = bare(f"/{name}")
    found = [path for path in paths if bare(f"/{path}").endswith(wanted)]
    if len(found) == 1:
        return found[0]
    if found:
        raise UserError(f"{name} matches {' and '.join(found)}; give more of the path.")
    stems = {bare(path).rpartition("/")[2]: path for path in paths}
    near = difflib.get_close_matches(wanted.rpartition("/")[2], stems, n=1)
    hint = f"did you mean {stems[near[0]]}?" if near else "`parrot configs` lists them."
    raise UserError(f"no shipped config is named {name}; {hint}")
