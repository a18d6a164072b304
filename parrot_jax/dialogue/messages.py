"""Converts a list of messages, in any of the known forms, to turns.

Reads speakers and texts; the other keys are handled by `keys`. Rows that would need a guess (an
unknown speaker, an image) are rejected.
"""

import contextlib
import json
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

from parrot_jax.dialogue.keys import MESSAGE_KEYS, PART_KEYS, is_empty, plain_word, read_keys
from parrot_jax.dialogue.raw_rows import BrokenRowError
from parrot_jax.dialogue.turns import KEPT_AS_CONTEXT, RowPlace
from parrot_jax.dialogue.types import Turn

MessageRole = Literal["system", "user", "assistant", "tool"]

_NAMES: Mapping[MessageRole, str] = MappingProxyType(
    {
        "system": "system developer",
        "user": "user human prompter",
        "assistant": "assistant gpt chatgpt bard bing model bot ai chatbot",
        "tool": "tool tools function function_call function_response function_call_output "
        "function_result observation tool_call tool_calls tool_use tool_response tool_result "
        "tool_output ipython environment",
    }
)
ROLES: Mapping[str, MessageRole] = MappingProxyType(
    {name: speaker for speaker, names in _NAMES.items() for name in names.split()}
)
"""Speakers by the names that dialogue files use, in lower case."""

_KIND_KEYS = ("type", "kind")
"""Keys that may mark an assistant's message as a tool call or a tool result."""
SPEAKER_KEYS = ("role", "from", "speaker", "sender", "type")
TEXT_KEYS = ("content", "value", "text", "message", "utterance")
_CALL_KEYS = ("tool_calls", "function_call")
_TEXT_PARTS = frozenset({"text", "input_text", "output_text"})


class ReadMessages(NamedTuple):
    """The content of a list of messages."""

    turns: list[Turn]
    """As read: speakers need not alternate, texts may be blank."""
    system: str
    """The texts of the system messages; empty = none."""


def read_messages(messages: Any, place: RowPlace) -> ReadMessages:
    """Reads a list of `{"role", "content"}` or `{"from", "value"}` objects.

    Tool calls and their results become context without text, in an assistant turn.

    Args:
      messages: The row's list of messages, not yet checked.
      place: The row's place; counts repairs and ignored keys.

    Raises:
      BrokenRowError: The messages cannot be read without a guess.
    """
    if not isinstance(messages, Sequence) or isinstance(messages, str):
        raise BrokenRowError("the messages are not a list", f"but {type(messages).__name__}")
    system: list[str] = []
    turns: list[Turn] = []
    for number, value in enumerate(messages, start=1):
        where = f"message {number}"
        message = _read_message(value, where, place)
        if message.speaker == "system":
            if turns:
                raise BrokenRowError("system text after the first turn", where)
            system += [message.text] if message.text.strip() else []
            continue
        if message.text or not message.context:
            role = "user" if message.speaker == "user" else "assistant"
            turns.append(Turn(role, message.text, message.weight))
        if message.context:
            place.repairs[KEPT_AS_CONTEXT] += 1
            turns.append(Turn("assistant", "", context=message.context))
    return ReadMessages(turns, "\n\n".join(system))


def is_message(value: Any) -> bool:
    """Whether a value is an object with a speaker, like a message."""
    return isinstance(value, Mapping) and any(value.get(key) is not None for key in SPEAKER_KEYS)


class _Message(NamedTuple):
    speaker: MessageRole
    text: str
    context: str
    """Tool calls or a tool result."""
    weight: float


def _read_message(message: Any, where: str, place: RowPlace) -> _Message:
    if not isinstance(message, Mapping):
        raise BrokenRowError("a message is not an object", where)
    speaker, speaker_keys = _read_speaker(message, where)
    text_keys = _text_keys(message, where)
    text_key = text_keys[0] if text_keys else None
    calls = [_call_text(message[key]) for key in _CALL_KEYS if not is_empty(message.get(key))]
    # The tool's name is in its call.
    read = {*speaker_keys, *text_keys, *_CALL_KEYS, *(["name"] if speaker == "tool" else [])}
    weight, _ = read_keys(
        message, MESSAGE_KEYS, read=read, where=where, passed_over=place.passed_over
    )
    if text_key is None and not calls:
        missing = "value" if "from" in speaker_keys else "content"
        keys = ", ".join(repr(key) for key, value in message.items() if value is not None)
        raise BrokenRowError(f"a message has no {missing!r}", f"{where} has {keys}")
    if calls and speaker in ("system", "user"):
        raise BrokenRowError(f"a tool call by the {speaker}", where)
    text = _read_content(message[text_key], where, speaker, place) if text_key else ""
    if speaker == "tool":
        calls, text = [text, *calls], ""
    context = "\n".join(call for call in calls if call.strip())
    return _Message(speaker, text, context, weight)


def _text_keys(owner: Mapping[str, Any], where: str) -> list[str]:
    """The keys of a message or a part that have its text; the first one is used.

    Raises:
      BrokenRowError: Two of them have different texts.
    """
    keys = [key for key in TEXT_KEYS if owner.get(key) is not None]
    filled = [key for key in keys if not is_empty(owner[key])]
    texts = [key for key in filled if isinstance(owner[key], str | list)]
    for key in texts[1:]:
        if owner[key] != owner[texts[0]]:
            raise BrokenRowError(f"two texts, under {texts[0]!r} and {key!r}", where)
    first = next(iter([*texts, *filled, *keys]), None)
    if first is None:
        return []
    # Other non-text values are handled like any other key.
    others = [key for key in keys if key != first and (key in texts or key not in filled)]
    return [first, *others]


def _read_speaker(message: Mapping[str, Any], where: str) -> tuple[MessageRole, list[str]]:
    named = [key for key in SPEAKER_KEYS if message.get(key) is not None]
    found = {}
    for key in named:
        name = message[key]
        known = ROLES.get(name.strip().lower()) if isinstance(name, str) else None
        if known:
            found[key] = known
    for key in _KIND_KEYS:
        word = plain_word(message.get(key))
        if ROLES.get(word) == "tool" and set(found.values()) <= {"assistant", "tool"}:
            return "tool", [*found, key]
    if len(set(found.values())) == 1:
        return next(iter(found.values())), list(found)
    if found:
        raise BrokenRowError("a message has two speakers", f"{where}: {found}")
    if not named:
        raise BrokenRowError(
            "a message has no 'role'", f"{where} has {', '.join(map(repr, message))}"
        )
    name = message[named[0]]
    shown = name[:40] if isinstance(name, str) else type(name).__name__
    raise BrokenRowError(f"unknown role {shown!r}", where)


def _read_content(content: Any, where: str, speaker: MessageRole, place: RowPlace) -> str:
    if isinstance(content, str):
        return content
    if speaker == "tool" and not _is_parts(content):
        return _json_text(content)
    if not isinstance(content, Sequence):
        raise BrokenRowError(f"content is {_json_type(content)}, not text", where)
    return "\n".join(
        _read_part(part, f"part {number} of {where}", place)
        for number, part in enumerate(content, start=1)
    )


def _read_part(part: Any, where: str, place: RowPlace) -> str:
    if isinstance(part, str):
        return part
    kind = part.get("type") if isinstance(part, Mapping) else None
    if kind not in _TEXT_PARTS:
        shown = kind[:40] if isinstance(kind, str) else type(part).__name__
        raise BrokenRowError(f"content part of type {shown!r}", where)
    text_keys = _text_keys(part, where)
    text = part[text_keys[0]] if text_keys else None
    read = {"type", *text_keys}
    read_keys(part, PART_KEYS, read=read, where=where, passed_over=place.passed_over)
    if not isinstance(text, str):
        keys = ", ".join(map(repr, part))
        raise BrokenRowError("a content part of type 'text' has no 'text'", f"{where} has {keys}")
    return text


def _is_parts(content: Any) -> bool:
    return isinstance(content, list) and all(
        isinstance(part, Mapping) and part.get("type") in _TEXT_PARTS for part in content
    )


def _call_text(calls: Any) -> str:
    """Tool calls as text: a JSON object for each, with name and arguments."""
    if isinstance(calls, str):
        return calls
    calls = calls if isinstance(calls, list) else [calls]
    return "\n".join(map(_one_call, calls))


def _one_call(call: Any) -> str:
    function = call.get("function", call) if isinstance(call, Mapping) else call
    if not isinstance(function, Mapping) or "name" not in function:
        return _json_text(call)
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        # A model wrote them, so they may not be JSON.
        with contextlib.suppress(ValueError, RecursionError):
            arguments = json.loads(arguments)
    return _json_text({"name": function["name"], "arguments": arguments})


def _json_text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _json_type(value: Any) -> str:
    return {bool: "a boolean", int: "a number", float: "a number"}.get(type(value), "an object")
