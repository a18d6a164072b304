"""List the shipped configs: what each is for, on which hardware, and the command that takes it."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple


@dataclass(frozen=True, kw_only=True)
class ConfigsConfig:
    """Nothing to choose; `parrot configs copy NAME` writes one of the list."""


Config = ConfigsConfig


class Kind(NamedTuple):
    """What the configs of a folder are: the class of their values, and where they are given."""

    module: str
    name: str
    command: str

    def type(self) -> type:
        """The class, loaded."""
        import importlib

        return getattr(importlib.import_module(f"parrot_jax.{self.module}"), self.name)


KINDS = {
    "train": Kind("train.config", "TrainConfig", "parrot train"),
    "collect": Kind("collect.config", "CollectConfig", "parrot collect"),
    "data": Kind("commands.data_clean", "DataCleanConfig", "parrot data clean"),
    "stats": Kind("stats.config", "JudgeConfig", "parrot stats --judge"),
    "moderation": Kind("api.config", "EndpointConfig", "parrot collect export --moderation"),
}
"""By the folder of the shipped configs."""


def run(config: ConfigsConfig) -> None:
    """Prints the list."""
    from itertools import groupby

    from parrot_jax.core.logs import console
    from parrot_jax.core.shipped import shipped_configs

    def folder(path: str) -> str:
        return path.split("/")[1]

    by_folder = {name: list(paths) for name, paths in groupby(shipped_configs(), folder)}
    for name, kind in KINDS.items():
        console.print(f"{kind.command} CONFIG", style="bold")
        for path in by_folder[name]:
            header = read_header(path)
            console.print(f"  {path}")
            for part in ("Purpose", "Hardware"):
                console.print(f"      {part.lower():8}  {header[part]}")
    console.print(
        "\nA command takes these paths as they are, in any folder; a file of yours with the same "
        "path comes first.\n`parrot configs copy NAME [PATH]` writes one for you to change."
    )


def read_header(path: str) -> dict[str, str]:
    """The named parts of a shipped config's header, such as `Purpose`, each as one line.

    Args:
      path: As in `shipped_configs`.
    """
    from parrot_jax.core.files import open_input

    parts: dict[str, str] = {}
    name = None
    with open_input(path) as file:
        for line in file:
            begins = re.match(r"# ([A-Z][a-z]+) {2,}(\S.*)", line)
            goes_on = re.match(r"# {5,}(\S.*)", line)
            if begins:
                name = begins[1]
                parts[name] = begins[2].strip()
            elif goes_on and name:
                parts[name] += " " + goes_on[1].strip()
            else:
                name = None
            if not line.startswith("#"):
                return parts
    return parts


def commands_for(values: Mapping[str, Any]) -> str:
    """The commands whose configs have all of these keys, for a person; empty = there is none."""
    from parrot_jax.core.config import field_types

    kinds = KINDS.values() if values else ()
    return " or ".join(
        f"`{kind.command}`" for kind in kinds if values.keys() <= {*field_types(kind.type())}
    )
