"""YAML files of plain values: what else YAML can do is refused, in one line that names the place.

Refused are keys that stand twice (YAML takes the last one), tags, which name types of a program,
numbers that versions of YAML read differently (0100 is 64 or 100, 17:04 is 1024 or a text), and
aliases that stand for more than a config can hold (a few lines can stand for gigabytes).
"""

import re
from typing import Any

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from parrot_jax.core.errors import UserError
from parrot_jax.core.files import open_input
from parrot_jax.core.paths import AnyPath

MAX_BYTES = 1 << 18
"""Largest file. The reader takes about a second for it."""
MAX_VALUES = 20_000
"""Most values, each counted as often as it is used."""

_STANDARD = "tag:yaml.org,2002:"
_PLAIN_TAGS = {
    _STANDARD + name for name in ("null", "bool", "int", "float", "str", "seq", "map", "merge")
}
_UNCLEAR_NUMBER = re.compile(r"[-+]?0[0-9_]+|.*:.*")
_MAX_CHARS = 80


class _Loader(yaml.SafeLoader):
    """Reads a date as text: no config has dates, but a folder may be named by one."""

    yaml_implicit_resolvers = {  # noqa: RUF012  # of the base class
        first: [pair for pair in pairs if pair[0] != _STANDARD + "timestamp"]
        for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


def read_yaml(path: AnyPath | str) -> Any:
    """The values of a YAML file: dicts, lists, texts, numbers, booleans, None.

    Raises:
      UserError: The file cannot be read, or is not the YAML of plain values.
    """
    with open_input(path, "rb") as file:
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise UserError(f"{path} is larger than {MAX_BYTES:,} bytes: it is no config.")
    try:
        loader = _Loader(data.decode("utf-8"))
        node = loader.get_single_node()
        if node is None:
            return None
        _check(node, str(path))
        return loader.construct_document(node)
    except UnicodeDecodeError:
        raise UserError(f"{path} is not UTF-8 text: it is no config.") from None
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not valid YAML: {_problem(error)}") from None
    except RecursionError:
        raise UserError(f"{path} is not a config: its values lie in too many others.") from None
    except ValueError as error:  # an explicit `!!int x`
        raise UserError(f"{path} is not valid YAML: {error}.") from None


def _problem(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    if mark is None:
        return " ".join(str(error).split())
    text = f"line {mark.line + 1}: {getattr(error, 'problem', error)}"
    return f"{text}; indent with spaces" if r"'\t'" in text else text


def _check(root: Node, path: str) -> None:
    """Refuses what is not plain.

    Raises:
      UserError: Something is not; the text says where.
    """
    sizes: dict[int, int] = {}
    """Values of each node, aliases followed; 0 = the node is being counted."""

    def refuse(node: Node, what: str) -> UserError:
        return UserError(f"{path}, line {node.start_mark.line + 1}: {what}")

    def size(node: Node) -> int:
        known = sizes.get(id(node))
        if known == 0:
            raise refuse(node, "a value contains itself; write it out.")
        if known is not None:
            return known
        sizes[id(node)] = 0
        if node.tag not in _PLAIN_TAGS:
            tag = _shortened(node.tag.replace(_STANDARD, "!!"))
            raise refuse(node, f"the tag {tag} is not allowed; a config has plain values only.")
        if isinstance(node, MappingNode):
            check_keys(node)
        if isinstance(node, ScalarNode):
            check_number(node)
        total = 1 + sum(size(child) for child in _children(node))
        if total > MAX_VALUES:
            raise refuse(node, f"this stands for more than {MAX_VALUES:,} values.")
        sizes[id(node)] = total
        return total

    def check_number(node: ScalarNode) -> None:
        is_number = node.tag in (_STANDARD + "int", _STANDARD + "float")
        if is_number and _UNCLEAR_NUMBER.fullmatch(node.value):
            raise refuse(
                node,
                f"versions of YAML differ in what {_shortened(node.value)} is; write a number "
                f"without leading zeros and colons, or a text as '{_shortened(node.value)}'.",
            )

    def check_keys(node: MappingNode) -> None:
        lines: dict[tuple[str, str], int] = {}
        for key, _ in node.value:
            if not isinstance(key, ScalarNode):
                raise refuse(key, "a key must be a word.")
            name = (key.tag, key.value)
            if name in lines:
                raise refuse(
                    key,
                    f"`{_shortened(key.value)}` is there twice, first in line {lines[name]}; "
                    "keep one.",
                )
            lines[name] = key.start_mark.line + 1

    size(root)


def _children(node: Node) -> list[Node]:
    if isinstance(node, MappingNode):
        return [child for pair in node.value for child in pair]
    return node.value if isinstance(node, SequenceNode) else []


def _shortened(text: str) -> str:
    return text if len(text) <= _MAX_CHARS else text[:_MAX_CHARS] + "..."
