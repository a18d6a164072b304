"""Strict YAML of plain values. Errors are one line with the place in the file.

These are rejected: duplicate keys (YAML takes the last one), tags (which can name Python types),
numbers that versions of YAML read differently (0100 is 64 or 100, 17:04 is 1024 or a string), and
aliases that expand to more than a config can hold (a few lines can expand to gigabytes).
"""

import re
from typing import Any

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from parrot_jax.core.errors import UserError
from parrot_jax.core.files import open_input
from parrot_jax.core.paths import AnyPath

MAX_BYTES = 1 << 18
"""Largest file; it takes about a second to parse."""
MAX_VALUES = 20_000
"""Most values, with aliases expanded."""

_STANDARD = "tag:yaml.org,2002:"
_PLAIN_TAGS = {
    _STANDARD + name for name in ("null", "bool", "int", "float", "str", "seq", "map", "merge")
}
_UNCLEAR_NUMBER = re.compile(r"[-+]?0[0-9_]+|.*:.*")
_MAX_CHARS = 80


class _Loader(yaml.SafeLoader):
    """Reads dates as strings: no config has dates, but the name of a folder may look like one."""

    yaml_implicit_resolvers = {  # noqa: RUF012  # of the base class
        first: [pair for pair in pairs if pair[0] != _STANDARD + "timestamp"]
        for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


def read_yaml(path: AnyPath | str) -> Any:
    """Reads a YAML file: dicts, lists, strings, numbers, booleans, None.

    Raises:
      UserError: The file cannot be read, or is not YAML of plain values.
    """
    with open_input(path, "rb") as file:
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise UserError(f"{path} is larger than {MAX_BYTES:,} bytes, so it is not a config.")
    try:
        loader = _Loader(data.decode("utf-8"))
        node = loader.get_single_node()
        if node is None:
            return None
        _check(node, str(path))
        return loader.construct_document(node)
    except UnicodeDecodeError:
        raise UserError(f"{path} is not UTF-8 text, so it is not a config.") from None
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not valid YAML: {_problem(error)}") from None
    except RecursionError:
        raise UserError(f"{path} is not a config: its values are nested too deeply.") from None
    except ValueError as error:  # an explicit `!!int x`
        raise UserError(f"{path} is not valid YAML: {error}.") from None


def _problem(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    if mark is None:
        return " ".join(str(error).split())
    text = f"line {mark.line + 1}: {getattr(error, 'problem', error)}"
    return f"{text}; indent with spaces" if r"'\t'" in text else text


def _check(root: Node, path: str) -> None:
    """Rejects all but plain values.

    Raises:
      UserError: With the line of the rejected node.
    """
    sizes: dict[int, int] = {}
    """Number of values of each node, with aliases expanded; 0 = the node is being counted."""

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
            raise refuse(node, f"this expands to more than {MAX_VALUES:,} values.")
        sizes[id(node)] = total
        return total

    def check_number(node: ScalarNode) -> None:
        is_number = node.tag in (_STANDARD + "int", _STANDARD + "float")
        if is_number and _UNCLEAR_NUMBER.fullmatch(node.value):
            raise refuse(
                node,
                f"versions of YAML read {_shortened(node.value)} differently; write a number "
                f"without leading zeros and colons, or a string as '{_shortened(node.value)}'.",
            )

    def check_keys(node: MappingNode) -> None:
        lines: dict[tuple[str, str], int] = {}
        for key, _ in node.value:
            if not isinstance(key, ScalarNode):
                raise refuse(key, "a key must be a word, not a list or a block.")
            name = (key.tag, key.value)
            if name in lines:
                raise refuse(
                    key,
                    f"duplicate key `{_shortened(key.value)}`, first in line {lines[name]}; "
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
