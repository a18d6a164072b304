"""The help of a config is itself a config: YAML with every key explained."""

import importlib
import re
from dataclasses import dataclass, field
from typing import Annotated

import pytest
import yaml

from parrot_jax.cli import VERBS
from parrot_jax.core.config import Named, config_from_dict
from parrot_jax.core.config_help import config_help


@dataclass(frozen=True, kw_only=True)
class Source:
    """A source of rows."""

    path: str
    """A file."""
    limit: int | None = None
    """The most rows."""


@dataclass(frozen=True, kw_only=True)
class Root:
    name: str
    """The name."""
    first: Source | None = None
    """Read first."""
    sources: tuple[Source, ...] = ()
    """Read then."""
    last: Source = field(default_factory=lambda: Source(path="z"))
    roles: tuple[str, ...] = ("user",)
    """Who speaks."""


def test_every_key_with_its_text_its_default_and_its_type() -> None:
    assert config_help(Root).splitlines() == [
        "# The name.",
        "name:  # required, str",
        "",
        "# Read first.",
        "first: null  # off; to switch on:",
        "#   # A file.",
        "#   path:  # required, str",
        "#   # The most rows.",
        "#   limit: null  # int | null",
        "",
        "# Read then.",
        "sources: []  # a list of:",
        "#     # A file.",
        "#   - path:  # required, str",
        "#     # The most rows.",
        "#     limit: null  # int | null",
        "",
        "last:",
        "  # A file.",
        '  path: "z"  # str',
        "  # The most rows.",
        "  limit: null  # int | null",
        "",
        "# Who speaks.",
        'roles: ["user"]  # list of str',
    ]


@dataclass(frozen=True, kw_only=True)
class Run:
    source: Annotated[Source, Named({"all": Source(path="a"), "none": Source(path="b", limit=0)})]
    """What to read."""


def test_a_key_that_takes_names_lists_them() -> None:
    assert config_help(Run).splitlines()[:4] == [
        "# What to read. Or one of these names: all, none.",
        "source:",
        "  # A file.",
        "  path:  # required, str",
    ]


def test_values_are_shown_and_read_back() -> None:
    config = Root(
        name="ä: # b",
        first=Source(path="a"),
        sources=(Source(path="b", limit=2), Source(path="c")),
        roles=(),
    )
    shown = yaml.safe_load(config_help(Root, config))
    assert config_from_dict(Root, shown, where="help") == config


@pytest.mark.parametrize("verb", [verb.module for verb in VERBS if verb.argument == "CONFIG"])
def test_every_key_of_a_verb_is_explained(verb: str) -> None:
    lines = config_help(importlib.import_module(f"parrot_jax.commands.{verb}").Config).splitlines()
    is_key = re.compile(r" *(- )?\w+:").match
    bare = [
        line
        for above, line in zip(["", *lines], lines, strict=False)
        if is_key(line) and not above.lstrip().startswith("#")
    ]
    assert not bare
