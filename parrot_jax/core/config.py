"""Configs: frozen dataclasses read from one YAML file and overridden by options.

A config class is a keyword-only frozen dataclass; the docstring under each field is its help text.
All errors in a YAML file are reported together, each with the path of its key and, for an unknown
key, the nearest known one.
"""

import dataclasses
import difflib
import os
import sys
import types
import typing
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from parrot_jax.core.errors import UserError
from parrot_jax.core.files import atomic_write
from parrot_jax.core.paths import AnyPath, as_path
from parrot_jax.core.remote import RemotePath
from parrot_jax.core.shipped import shipped_configs

ConfigT = TypeVar("ConfigT")

_MAX_PROBLEMS = 20
_MAX_CHARS = 100


class ConfigError(UserError):
    """A config has wrong keys or values.

    Attributes:
      values: The values of the config.
      has_foreign_keys: Whether a top-level key is unknown: it may be the config of another command.
    """

    def __init__(self, text: str, values: Mapping[str, Any], *, has_foreign_keys: bool) -> None:
        super().__init__(text)
        self.values, self.has_foreign_keys = values, has_foreign_keys


class Named:
    """Annotates a key that accepts the name of a preset as well as a block.

    `model: Annotated[ModelConfig, Named(PRESETS)]` reads `model: llama2-13b`. The config holds the
    value, so a saved config has the block.
    """

    def __init__(self, values: Mapping[str, Any]) -> None:
        self.values = values

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        """Tells pydantic how to read such a key; keeps pydantic out of the other packages."""
        from pydantic_core import PydanticCustomError, core_schema

        def value_of(given: Any) -> Any:
            if isinstance(given, dict) or dataclasses.is_dataclass(given):
                return given
            if not isinstance(given, str) or given not in self.values:
                message = f"must be one of {', '.join(self.values)}, or a block of keys"
                raise PydanticCustomError("unknown_name", message)  # type: ignore[arg-type]
            return self.values[given]

        return core_schema.no_info_before_validator_function(value_of, handler(source))


def load_config(
    config_type: type[ConfigT], path: AnyPath | str, *, passed_over: Collection[str] = ()
) -> ConfigT:
    """Reads a YAML file into `config_type`.

    Args:
      config_type: A frozen dataclass; its fields may be dataclasses and tuples of them.
      path: The YAML file. Paths inside it are relative to the working folder.
      passed_over: Top-level keys to ignore, for files that other commands read too.

    Raises:
      UserError: The file cannot be read or is not YAML, or a key is unknown, missing or of the
        wrong type; the message lists every such key.
    """
    # Imported here to keep `--help` fast.
    from parrot_jax.core.yaml_files import read_yaml

    try:
        values = read_yaml(path)
    except UserError as error:
        raise UserError(f"{error}{_advice(path)}") from None
    if isinstance(values, dict):
        values = {key: value for key, value in values.items() if key not in passed_over}
    return config_from_dict(config_type, values if values is not None else {}, where=str(path))


def _advice(path: AnyPath | str) -> str:
    """Suggests what may have been meant by the path of an unreadable config."""
    local = as_path(path)
    if isinstance(local, RemotePath):
        return ""
    if os.path.isdir(local):
        return f" Name a file, such as {path}/config.yaml."
    if os.path.exists(local):
        is_yaml = local.suffix in (".yaml", ".yml")
        return "" if is_yaml else " CONFIG is a YAML file; `parrot configs` lists examples."
    by_name = {Path(shipped).stem: shipped for shipped in shipped_configs()}
    near = difflib.get_close_matches(local.stem, by_name, n=1)
    return f" Did you mean {by_name[near[0]]}?" if near else " `parrot configs` lists examples."


def config_from_dict(config_type: type[ConfigT], values: Any, *, where: str) -> ConfigT:
    """Converts plain values to `config_type`; `where` names their source in errors.

    Raises:
      UserError: As in `load_config`.
    """
    import pydantic

    if not isinstance(values, dict):
        raise UserError(f"{where}: expected `key: value` lines, found {type(values).__name__}.")
    for nested in _dataclasses_in(config_type):
        # pydantic reads this attribute. Setting it here keeps pydantic out of the other packages.
        if "__pydantic_config__" not in vars(nested):
            nested.__pydantic_config__ = {"extra": "forbid"}  # type: ignore[attr-defined]
    try:
        return pydantic.TypeAdapter(config_type).validate_python(values)
    except pydantic.ValidationError as error:
        known = sorted(_dotted_keys(config_type))
        problems = [_describe(problem, known) for problem in error.errors()]
        more = len(problems) - _MAX_PROBLEMS
        rest = [f"and {more:,} more"] if more > 0 else []
        text = "; ".join(problems[:_MAX_PROBLEMS] + rest)
        foreign = not values.keys() <= {*field_types(config_type)}
        raise ConfigError(f"{where}: {text}", values, has_foreign_keys=foreign) from None
    except UserError as error:
        raise UserError(f"{where}: {error}") from None


def config_to_dict(config: Any) -> dict[str, Any]:
    """Returns the config as plain values; `config_from_dict` restores an equal config."""

    def plain(value: Any) -> Any:
        if dataclasses.is_dataclass(value):
            return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
        if isinstance(value, (tuple, list)):
            return [plain(item) for item in value]
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items()}
        return str(value) if isinstance(value, Path | RemotePath) else value

    return plain(config)


def check_config(config: Any, config_type: type) -> None:
    """Rejects an argument of a public function that is not the config it needs.

    Raises:
      UserError: It has another type; the message says how to make the right one.
    """
    if not isinstance(config, config_type):
        name = config_type.__name__
        raise UserError(
            f"the config is {_shortened(repr(config))}; it must be a {name}: make one, or read it "
            f"from a YAML file with `load_config({name}, PATH)`."
        )


def save_config(config: Any, path: AnyPath | str) -> None:
    """Writes the config as YAML, atomically; `load_config` restores an equal config."""
    import yaml

    with atomic_write(path) as file:
        yaml.safe_dump(config_to_dict(config), file, sort_keys=False, allow_unicode=True)


def changed_keys(old: Any, new: Any) -> list[str]:
    """Returns the dotted keys that differ between two configs, each as `key: old -> new`."""

    def walk(path: str, a: Any, b: Any) -> Iterator[str]:
        if isinstance(a, dict) and isinstance(b, dict):
            for key in {**a, **b}:
                yield from walk(f"{path}.{key}" if path else key, a.get(key), b.get(key))
        elif a != b:
            yield f"{path}: {a!r} -> {b!r}"

    return list(walk("", config_to_dict(old), config_to_dict(new)))


def _describe(problem: Any, known: list[str]) -> str:
    key = _shortened(".".join(str(part) for part in problem["loc"]))
    key = key if key.isprintable() else ascii(key)
    if problem["type"] == "unexpected_keyword_argument":
        pattern = ".".join("*" if isinstance(p, int) else str(p) for p in problem["loc"])
        near = difflib.get_close_matches(pattern, known, n=1, cutoff=0.6)
        if near:
            return f"unknown key `{key}`; did you mean `{near[0]}`?"
        return f"unknown key `{key}`; the keys are {', '.join(sorted(_siblings(pattern, known)))}"
    if problem["type"] in ("missing", "missing_argument"):
        return f"`{key}` is missing"
    if problem["input"] is None:
        return f"`{key}` has no value: {problem['msg']}"
    return f"`{key}`: {problem['msg']}, found {_shortened(repr(problem['input']))}"


def _shortened(text: str) -> str:
    return text if len(text) <= _MAX_CHARS else text[:_MAX_CHARS] + "..."


def _siblings(pattern: str, known: list[str]) -> set[str]:
    parent = pattern.rpartition(".")[0]
    prefix = f"{parent}." if parent else ""
    return {k for k in known if k.startswith(prefix) and "." not in k[len(prefix) :]}


def _dataclasses_in(annotation: Any) -> Iterator[type]:
    """Yields every dataclass in this type, including itself."""
    if dataclasses.is_dataclass(annotation) and isinstance(annotation, type):
        yield annotation
        for hint in field_types(annotation).values():
            yield from _dataclasses_in(hint)
    for argument in typing.get_args(annotation):
        if not isinstance(argument, str):
            yield from _dataclasses_in(argument)


def _dotted_keys(annotation: Any, prefix: str = "") -> Iterator[str]:
    origin = typing.get_origin(annotation)
    if origin in (typing.Union, types.UnionType, typing.Annotated):
        for argument in typing.get_args(annotation):
            yield from _dotted_keys(argument, prefix)
    elif origin in (tuple, list):
        yield from _dotted_keys(typing.get_args(annotation)[0], f"{prefix}*.")
    elif dataclasses.is_dataclass(annotation) and isinstance(annotation, type):
        for name, hint in field_types(annotation).items():
            yield f"{prefix}{name}"
            yield from _dotted_keys(hint, f"{prefix}{name}.")


def names_of_values(config_type: type) -> dict[str, tuple[str, ...]]:
    """Returns the preset names of each field annotated with `Named`."""
    hints = typing.get_type_hints(
        config_type, vars(sys.modules[config_type.__module__]), include_extras=True
    )
    return {
        name: tuple(extra.values)
        for name, hint in hints.items()
        for extra in getattr(hint, "__metadata__", ())
        if isinstance(extra, Named)
    }


def field_types(config_type: type) -> dict[str, Any]:
    """Returns the type of each field of a dataclass, in field order."""
    hints = typing.get_type_hints(config_type, vars(sys.modules[config_type.__module__]))
    return {f.name: hints[f.name] for f in dataclasses.fields(config_type)}
