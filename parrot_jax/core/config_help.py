"""The text of `parrot COMMAND --help`: the command's config as YAML, every key explained.

With the required keys filled in, the text is a valid config file. It is built from the config
classes without tyro, which takes too long to build a help text.
"""

import ast
import dataclasses
import inspect
import itertools
import json
import shutil
import textwrap
import types
import typing
from collections.abc import Iterable, Iterator
from typing import Any

from parrot_jax.core.config import field_types, names_of_values

_NARROWEST, _WIDEST = 60, 100


def config_help(config_type: type, config: Any = None) -> str:
    """Returns every key of a config as YAML, with its docstring above and its type after it.

    If a command's config extends that of another command, only the keys of the base class are
    shown, because both commands read the same file.

    Args:
      config_type: A dataclass with a docstring under each field.
      config: The config whose values are shown; None = the defaults, and no value for required
        keys.

    Returns:
      Lines that `yaml.safe_load` reads back to the values shown. A block that is null is shown as
      a comment, and so is one item of an empty list of blocks.
    """
    shown = _extended(config_type) or config_type
    return "\n\n".join("\n".join(lines) for lines in _fields(shown, config, _width()))


def options_help(config_type: type, config: Any = None) -> str:
    """Returns the fields that a config adds to its base class, as commented options with docs.

    Args:
      config_type: As in `config_help`.
      config: As in `config_help`.
    """
    extended = _extended(config_type)
    if extended is None:
        return ""
    known = {field.name for field in dataclasses.fields(extended)}
    texts, hints = _docstrings(config_type), field_types(config_type)
    lines = []
    for field in dataclasses.fields(config_type):
        if field.name not in known:
            value = _default(field) if config is None else getattr(config, field.name)
            shown = json.dumps(value, ensure_ascii=False)
            lines.append(
                f"--{field.name.replace('_', '-')} {shown}  # {_type_text(hints[field.name])}"
            )
            lines += (f"    {line}" for line in textwrap.wrap(texts[field.name], _width() - 6))
    return "\n".join(_comments(lines))


def _extended(config_type: type) -> type | None:
    """Returns the config class that a command's options extend, or None."""
    if ".commands." not in config_type.__module__:
        return None  # all its keys are in the file
    return next(filter(dataclasses.is_dataclass, config_type.__mro__[1:]), None)


def _width() -> int:
    return max(_NARROWEST, min(shutil.get_terminal_size().columns, _WIDEST))


def _fields(config_type: type, config: Any, width: int) -> Iterator[list[str]]:
    """Yields the lines of each field: its docstring as comments, then its key."""
    texts = _docstrings(config_type)
    hints, names = field_types(config_type), names_of_values(config_type)
    for field in dataclasses.fields(config_type):
        text = texts.get(field.name, "")
        if field.name in names:
            text += f" Or one of these names: {', '.join(names[field.name])}."
        text = textwrap.wrap(text, width - 2)
        value = _default(field) if config is None else getattr(config, field.name)
        key = _key(field.name, hints[field.name], value, width)
        yield [*(f"# {line}" for line in text), *key]


def _block(config_type: type, config: Any, width: int) -> Iterator[str]:
    return itertools.chain.from_iterable(_fields(config_type, config, width))


def _key(name: str, hint: Any, value: Any, width: int) -> Iterator[str]:
    part = _part(hint)
    if part is None:
        shown = "" if value is dataclasses.MISSING else " " + json.dumps(value, ensure_ascii=False)
        required = "required, " if value is dataclasses.MISSING else ""
        yield f"{name}:{shown}  # {required}{_type_text(hint)}"
    elif typing.get_origin(hint) is tuple:
        missing = value is dataclasses.MISSING
        items = (None,) if missing or not value else value
        lines = [line for item in items for line in _item(_block(part, item, width - 4))]
        if value == ():
            yield f"{name}: []  # a list of:"
            yield from _comments(lines)
        else:
            yield f"{name}:  # {'required, ' if missing else ''}a list of:"
            yield from lines
    elif value is None:
        yield f"{name}: null  # off; to switch on:"
        yield from _comments(f"  {line}" for line in _block(part, None, width - 4))
    else:
        yield f"{name}:"
        shown = None if value is dataclasses.MISSING else value
        yield from (f"  {line}" for line in _block(part, shown, width - 2))


def _item(lines: Iterator[str]) -> Iterator[str]:
    """Yields the lines of a block as a list item, with a dash before its first key."""
    dash = "- "
    for line in lines:
        if line.startswith("#"):
            yield f"    {line}"
        else:
            yield f"  {dash}{line}"
            dash = "  "


def _comments(lines: Iterable[str]) -> Iterator[str]:
    return (f"# {line}" for line in lines)


def _default(field: Any) -> Any:
    made = field.default_factory is not dataclasses.MISSING
    return field.default_factory() if made else field.default


def _part(hint: Any) -> Any:
    """Returns the dataclass in this type (itself, optional or in a tuple), or None."""
    inside = [hint] if isinstance(hint, type) else typing.get_args(hint)
    return next(filter(dataclasses.is_dataclass, inside), None)


def _type_text(hint: Any) -> str:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        return " | ".join(map(str, arguments))
    if origin is tuple:
        return f"list of {_type_text(arguments[0])}"
    if origin in (typing.Union, types.UnionType):
        return " | ".join(map(_type_text, arguments))
    return "null" if hint is types.NoneType else hint.__name__


def _docstrings(config_type: type) -> dict[str, str]:
    texts: dict[str, str] = {}
    for owner in reversed(config_type.__mro__[:-1]):
        tree = ast.parse(textwrap.dedent(inspect.getsource(owner))).body[0]
        assert isinstance(tree, ast.ClassDef)
        for field, below in zip(tree.body, tree.body[1:], strict=False):
            if (
                isinstance(field, ast.AnnAssign)
                and isinstance(field.target, ast.Name)
                and isinstance(below, ast.Expr)
                and isinstance(below.value, ast.Constant)
                and isinstance(below.value.value, str)
            ):
                texts[field.target.id] = " ".join(below.value.value.split())
    return texts
