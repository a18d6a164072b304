"""List the shipped configs with their purpose, hardware and command."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple


@dataclass(frozen=True, kw_only=True)
class ConfigsConfig:
    """No options; `parrot configs copy NAME` copies a listed config."""


Config = ConfigsConfig


class ConfigKind(NamedTuple):
    """The kind of configs in a folder: their dataclass and the command that reads them."""

    module: str
    name: str
    command: str

    def type(self) -> type:
        """Imports the class."""
        import importlib

        return getattr(importlib.import_module(f"parrot_jax.{self.module}"), self.name)


KINDS = {
    "train": ConfigKind("train.train_config", "TrainConfig", "parrot train"),
    "collect": ConfigKind("collect.collect_config", "CollectConfig", "parrot collect"),
    "data": ConfigKind("commands.data_clean", "DataCleanConfig", "parrot data clean"),
    "stats": ConfigKind("stats.judge_config", "JudgeConfig", "parrot stats --judge"),
    "answer": ConfigKind("evaluate.answer_config", "AnswerConfig", "parrot evaluate answer"),
    "judge": ConfigKind("evaluate.judge_config", "JudgeConfig", "parrot evaluate judge"),
    "askers": ConfigKind("askers.asker_config", "AskerEndpointConfig", "parrot evaluate asker"),
    "build": ConfigKind("evaluate.build_config", "BuildConfig", "parrot evaluate build"),
    "select": ConfigKind("negatives.select_config", "SelectConfig", "parrot negatives select"),
    "negatives": ConfigKind(
        "negatives.negatives_config", "NegativesConfig", "parrot negatives build"
    ),
    "moderation": ConfigKind(
        "api.endpoint_config", "EndpointConfig", "parrot collect export --moderation"
    ),
}
"""Keyed by folder of the shipped configs."""

CHAT_TEMPLATE_COMMAND = "vllm serve MODEL --chat-template"
"""Reads the shipped chat templates, once they are copied into a folder."""


def run(config: ConfigsConfig) -> None:
    """Prints the list."""
    from itertools import groupby

    from parrot_jax.core.logs import console
    from parrot_jax.core.shipped import shipped_chat_templates, shipped_configs

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
    console.print(f"{CHAT_TEMPLATE_COMMAND} FILE (a copy)", style="bold")
    for path in shipped_chat_templates():
        console.print(f"  {path}")
    console.print(
        "\nThese paths work in any working directory; your own file with the same path takes "
        "precedence.\n`parrot configs copy NAME [PATH]` copies one for editing."
    )


def read_header(path: str) -> dict[str, str]:
    """Reads the parts of a shipped config's header by name (e.g. `Purpose`), each as one line.

    Args:
      path: A path that `shipped_configs` lists.
    """
    from parrot_jax.core.files import open_input

    parts: dict[str, str] = {}
    name = None
    with open_input(path) as file:
        for line in file:
            first = re.match(r"# ([A-Z][a-z]+) {2,}(\S.*)", line)
            continuation = re.match(r"# {5,}(\S.*)", line)
            if first:
                name = first[1]
                parts[name] = first[2].strip()
            elif continuation and name:
                parts[name] += " " + continuation[1].strip()
            else:
                name = None
            if not line.startswith("#"):
                return parts
    return parts


def commands_for(values: Mapping[str, Any]) -> str:
    """Returns the commands whose configs have all of these keys, as text; empty if none has."""
    from parrot_jax.core.config import field_types

    kinds = KINDS.values() if values else ()
    return " or ".join(
        f"`{kind.command}`" for kind in kinds if values.keys() <= {*field_types(kind.type())}
    )
