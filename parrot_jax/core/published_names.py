"""Removes folders from names that may be paths, so that local folders are never published."""

import re
from collections.abc import Mapping
from typing import Any

_PUBLIC_SCHEMES = ("hf://", "http://", "https://")
_LIKE_A_PATH = re.compile(
    r"""[/\\]                     # /home, \\host\share
    | ~[\w.-]*[/\\]              # ~/data, ~ann/data
    | \.{1,2}[/\\] | [a-z]:[/\\]
    | .*[/\\].*\.(jsonl?|gz|zst|parquet|csv|txt|arrow)$
    | file: | [a-z0-9+.-]+://""",
    re.I | re.X,
)


def without_folders(path: str) -> str:
    """Returns the last part of a path, or a public address unchanged.

    >>> [without_folders(path) for path in ("/home/ann/people.jsonl", "hf://allenai/WildChat")]
    ['people.jsonl', 'hf://allenai/WildChat']
    """
    if path.startswith(_PUBLIC_SCHEMES):
        return path
    return re.split(r"[/\\]", path.rstrip("/\\"))[-1] or path


def name_to_publish(text: str) -> str:
    """Removes the folders from a text that looks like a path, e.g. the name of a model.

    A text of several lines is not a path.

    >>> [name_to_publish(name) for name in ("/srv/llama-3", "meta-llama/Llama-3", "a/b.jsonl")]
    ['llama-3', 'meta-llama/Llama-3', 'b.jsonl']
    """
    name = text.strip()
    return without_folders(name) if "\n" not in name and _LIKE_A_PATH.match(name) else text


def value_to_publish(value: Any) -> Any:
    r"""Applies `name_to_publish` to every string in a JSON value, including keys.

    >>> value_to_publish({"file": "/home/ann/a.json", "turns": [2, "C:\\data\\b"]})
    {'file': 'a.json', 'turns': [2, 'b']}
    """
    if isinstance(value, str):
        return name_to_publish(value)
    if isinstance(value, Mapping):
        published: dict[str, Any] = {}
        for key, inner in value.items():
            name = name_to_publish(key)
            while name in published:  # files of the same name in two folders
                name += "+"
            published[name] = value_to_publish(inner)
        return published
    if isinstance(value, list | tuple):
        return [value_to_publish(inner) for inner in value]
    return value
