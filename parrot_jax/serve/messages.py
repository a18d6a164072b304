"""Parses the messages of a request."""

import json
from collections.abc import Mapping
from typing import Any

from parrot_jax.dialogue.types import Role, is_unicode
from parrot_jax.serve.engine import Messages, RequestError

# `developer` is OpenAI's newer name for `system`.
_ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}

# Only role and content reach the model. `name` distinguishes speakers of one role and is ignored.
_READ = frozenset({"role", "content", "name"})

_SHOWN_CHARS = 60


def read_messages(values: Any) -> Messages:
    """Parses a list of messages in one pass, up to the first error.

    `content` is a text or a list of text parts, which are joined by newlines, as in data files.
    Other keys are accepted only if they are empty (`refusal: null`, `annotations: []`), so that
    clients can send back received messages.

    Raises:
      RequestError: A message is invalid.
    """
    if not isinstance(values, list):
        raise RequestError(
            f"`messages` must be a list of messages, found {shown(values)}.", param="messages"
        )
    return [_read_message(value, at) for at, value in enumerate(values)]


def split_turns(messages: Messages) -> tuple[str, list[tuple[Role, str]]]:
    """Splits messages into the system text (empty = none) and the turns.

    Raises:
      RequestError: A system message is not first, or the roles do not alternate.
    """
    system, turns = "", []
    for at, message in enumerate(messages):
        role, content = message["role"], message["content"]
        if role == "system" and at == 0:
            system = content
        elif role != ("user" if len(turns) % 2 == 0 else "assistant"):
            raise RequestError(
                f"message {at + 1} has role {role!r}; after an optional system message user "
                "and assistant must alternate, the user first.",
                param=f"messages.{at}.role",
            )
        else:
            turns.append((role, content))
    return system, turns


def says_nothing(value: Any) -> bool:
    """Whether a JSON value counts as absent: null, false, or empty."""
    return value is None or value is False or value in ("", [], {})


def shown(value: Any) -> str:
    """Returns the beginning of a JSON value, for an error, in constant time.

    >>> shown({"a": [1, "x"]})
    '{"a": [1, "x"]}'
    """
    if isinstance(value, str):
        value = value[: _SHOWN_CHARS + 1]
    text = ""
    try:
        for piece in json.JSONEncoder(ensure_ascii=False).iterencode(value):
            text += piece[: _SHOWN_CHARS + 1]
            if len(text) > _SHOWN_CHARS:
                return f"{text[:_SHOWN_CHARS]}..."
    except ValueError:  # Python does not print integers of thousands of digits
        return f"{text}(a very long number)"
    except TypeError:  # not from JSON: an argument of the Python API
        return repr(value)[:_SHOWN_CHARS]
    return text


def _read_message(value: Any, at: int) -> dict[str, str]:
    number, where = at + 1, f"messages.{at}"
    if not isinstance(value, Mapping):
        raise RequestError(
            f"message {number} must be an object, found {shown(value)}.", param=where
        )
    role = value.get("role")
    if not isinstance(role, str) or role not in _ROLES:
        raise RequestError(
            f"message {number} has the role {shown(role)}; use system, user or assistant.",
            param=f"{where}.role",
        )
    for key, each in value.items():
        if key not in _READ and not says_nothing(each):
            raise RequestError(
                f"message {number} has `{key[:_SHOWN_CHARS]}`: {shown(each)}, which this server "
                "does not support; omit it.",
                param=f"{where}.{key}",
            )
    if "content" not in value:
        raise RequestError(
            f"message {number} has no text: its `content` is missing.", param=f"{where}.content"
        )
    return {"role": _ROLES[role], "content": _text(value["content"], at)}


def _text(content: Any, at: int) -> str:
    param = f"messages.{at}.content"
    text = content if isinstance(content, str) else _joined(content, at, param)
    if not is_unicode(text):
        raise RequestError(
            f"message {at + 1} has half of a surrogate pair: {text[:_SHOWN_CHARS]!a}; send "
            "valid Unicode.",
            param=param,
        )
    return text


def _joined(content: Any, at: int, param: str) -> str:
    """The texts of a list of parts."""
    if not isinstance(content, list):
        raise RequestError(
            f"message {at + 1} has no text: its `content` is {shown(content)}.", param=param
        )
    texts = []
    for place, part in enumerate(content):
        kind, text = (part.get("type"), part.get("text")) if isinstance(part, Mapping) else (0, 0)
        if kind != "text" or not isinstance(text, str):
            raise RequestError(
                f'message {at + 1} has a part that is not text; parts are {{"type": "text", '
                f'"text": ..}}, found {shown(part)}.',
                param=f"{param}.{place}",
            )
        texts.append(text)
    return "\n".join(texts)
