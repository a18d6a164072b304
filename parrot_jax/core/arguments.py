"""Parses a command's arguments: `CONFIG [--overrides]` or options only, and `--help`."""

import dataclasses
import textwrap
import types
import typing
from collections.abc import Collection, Sequence
from typing import Any

from parrot_jax.core.config import (
    ConfigT,
    config_from_dict,
    config_to_dict,
    field_types,
    load_config,
    names_of_values,
)
from parrot_jax.core.config_help import config_help, options_help
from parrot_jax.core.errors import UserError


def parse_arguments(
    config_type: type[ConfigT],
    arguments: Sequence[str],
    *,
    prog: str,
    description: str,
    passed_over: Collection[str] = (),
) -> ConfigT:
    """Builds a config from `CONFIG [--overrides]`, or prints help or an error and exits.

    Args:
      config_type: The root config class of the command.
      arguments: The arguments after the command's name; the first may be a YAML file.
      prog: The command as typed, for the usage line.
      description: One sentence on what the command does.
      passed_over: See `load_config`.

    Raises:
      UserError: The YAML file is invalid, or missing without `--help`.
      SystemExit: 0 after help, 2 after an invalid option.
    """
    overrides = [argument for argument in arguments if argument not in ("-h", "--help")]
    wants_help = len(overrides) < len(arguments)
    config = None
    if overrides and not overrides[0].startswith("-"):
        config = load_config(config_type, overrides.pop(0), passed_over=passed_over)
        if overrides:
            config = parse_options(
                config_type,
                overrides,
                prog=f"{prog} CONFIG",
                description=description,
                default=config,
            )
    if wants_help:
        about = (
            f"usage: {prog} CONFIG [--overrides]\n\n{description.strip()}\n\n"
            "This text is itself a config: save it, fill in the required keys and pass the file as "
            "CONFIG.\nOptions override keys: --a.b VALUE."
        )
        print(textwrap.indent(about, "# ", lambda line: True).replace("# \n", "#\n"), end="\n\n")
        print(config_help(config_type, config))
        if options := options_help(config_type, config):
            print(f"\n# Options for the command line only:\n{options}")
        raise SystemExit(0)
    if config is None:
        where = " before its options" if overrides else ""
        raise UserError(
            f"{prog} needs a config file{where}: `{prog} CONFIG [--overrides]`; `parrot configs` "
            f"lists examples, `{prog} --help` explains the keys."
        )
    return config


def parse_options(
    config_type: type[ConfigT],
    arguments: Sequence[str],
    *,
    prog: str,
    description: str,
    default: ConfigT | None = None,
) -> ConfigT:
    """Overrides `default` with options, or prints help or an error and exits.

    As in a file, `null` switches an optional key off.

    Raises:
      UserError: The config is invalid without a block that was switched off.
    """
    import tyro

    rest = list(arguments)
    if default is not None:
        default, rest = _set_blocks(config_type, default, rest)
    registry = tyro.constructors.ConstructorRegistry()

    @registry.primitive_rule
    def null(info: Any) -> Any:
        if info.type is not types.NoneType:
            return None
        return tyro.constructors.PrimitiveConstructorSpec(
            nargs=1, metavar="null", choices=("null", "None"), instance_from_str=lambda _: None,
            is_instance=lambda value: value is None, str_from_instance=lambda _: ["null"],
        )  # fmt: skip

    # tyro accepts `default=None`, but its type annotations do not.
    parse: Any = tyro.cli
    return parse(
        config_type,
        args=rest,
        registry=registry,
        prog=prog,
        description=description,
        default=default,
        config=(tyro.conf.AvoidSubcommands, tyro.conf.PositionalMetavarFromFieldName),
    )


def _set_blocks(
    config_type: type[ConfigT], config: ConfigT, arguments: Sequence[str]
) -> tuple[ConfigT, list[str]]:
    """Applies `--block null` and `--block NAME`, which tyro does not support.

    `--block.key VALUE` switches a block on whose keys all have defaults, e.g. `--lora.rank 8`.

    Returns:
      The config with these blocks, and the remaining arguments.

    Raises:
      UserError: The config is invalid with these blocks.
    """
    values, rest, left, is_on = config_to_dict(config), [], list(arguments), False
    while left:
        option, equals, value = left.pop(0).partition("=")
        if not equals and left:
            value = left[0]
        path = option.removeprefix("--").replace("-", "_").split(".")
        takes = _blocks(config, path) if option.startswith("--") else frozenset()
        if len(path) == 2 and option.startswith("--") and _is_off(config, values, path[0]):
            values[path[0]], is_on = {}, True
        is_null = value in ("null", "None")
        if not (("null" if is_null else "name") in takes and value):
            rest.append(f"{option}{equals}{value}" if equals else option)
            continue
        if not equals:
            left.pop(0)
        inner = typing.cast(Any, values)
        for part in path[:-1]:
            inner = inner[int(part) if isinstance(inner, list) else part]
        inner[path[-1]] = None if is_null else value
    if is_on or len(rest) < len(arguments):
        config = config_from_dict(config_type, values, where="the options")
    return config, rest


def _is_off(config: Any, values: dict[str, Any], name: str) -> bool:
    """Whether a key is null, and takes a block whose keys all have defaults."""
    if values.get(name, "") is not None:
        return False
    return any(
        dataclasses.is_dataclass(kind)
        and all(
            field.default is not dataclasses.MISSING
            or field.default_factory is not dataclasses.MISSING
            for field in dataclasses.fields(kind)
        )
        for kind in typing.get_args(field_types(type(config))[name])
    )


def _blocks(config: Any, path: Sequence[str]) -> frozenset[str]:
    """Returns what the key of a block accepts besides a block: "null", "name", both or neither."""
    for part in path[:-1]:
        if isinstance(config, tuple):
            config = config[int(part)] if part.isdecimal() and int(part) < len(config) else None
        else:
            config = getattr(config, part, None)
    if not dataclasses.is_dataclass(config):
        return frozenset()
    options = typing.get_args(field_types(type(config)).get(path[-1]))
    is_optional = types.NoneType in options and any(map(dataclasses.is_dataclass, options))
    is_named = path[-1] in names_of_values(type(config))
    return frozenset(["null"] * is_optional + ["name"] * is_named)
