"""Writes dialogues: `messages` JSON lines for this project, ShareGPT rows for others."""

import json
from collections.abc import Iterable
from typing import Any

from parrot_jax.core.errors import UserError
from parrot_jax.core.files import atomic_write
from parrot_jax.core.paths import AnyPath
from parrot_jax.dialogue.types import Dialogue

DIALOGUES = "dialogues.jsonl"
"""The finished dialogues in the folder of a collection."""

_OWN_KEYS = frozenset({"id", "source", "messages"})


def messages_row(dialogue: Dialogue) -> dict[str, Any]:
    """The `messages` row of a dialogue; reading it back gives an equal dialogue.

    Metadata keys are at the top level, beside `id`, `source` and `messages`; a key with one of
    these names gets the prefix `source_`. The context of a turn becomes a tool message before it.

    Raises:
      UserError: It is a preference pair.

    >>> from parrot_jax.dialogue.types import Turn
    >>> messages_row(Dialogue(turns=(Turn("user", "Hi", weight=0.0),), id="7"))
    {'id': '7', 'messages': [{'role': 'user', 'content': 'Hi', 'weight': 0.0}]}
    """
    if dialogue.rejected is not None:
        raise UserError(
            f"{dialogue.id} is a preference pair, and its rejected answer would be lost here; use "
            "dialogues, and make pairs of the result."
        )
    messages: list[dict[str, Any]] = []
    if dialogue.system:
        messages.append({"role": "system", "content": dialogue.system})
    for turn in dialogue.turns:
        if turn.context:
            messages.append({"role": "tool", "content": turn.context})
        messages.append({"role": turn.role, "content": turn.text})
        if turn.weight != 1:
            messages[-1]["weight"] = turn.weight
    row: dict[str, Any] = {"id": dialogue.id, "source": dialogue.source, "messages": messages}
    for key, value in dialogue.metadata.items():
        row[f"source_{key}" if key in _OWN_KEYS else key] = value
    return {key: value for key, value in row.items() if value or key not in ("id", "source")}


def sharegpt_row(dialogue: Dialogue) -> dict[str, Any]:
    """The ShareGPT row of a dialogue, without metadata and weights.

    >>> from parrot_jax.dialogue.types import Turn
    >>> sharegpt_row(Dialogue(turns=(Turn("user", "Hi"),), id="7"))
    {'id': '7', 'conversations': [{'from': 'human', 'value': 'Hi'}]}
    """
    names = {"system": "system", "user": "human", "assistant": "gpt", "tool": "observation"}
    said = [
        {"from": names[message["role"]], "value": message["content"]}
        for message in messages_row(dialogue)["messages"]
    ]
    return {"id": dialogue.id, "conversations": said}


def messages_line(dialogue: Dialogue) -> str:
    """The row as one line of JSON with its newline.

    Raises:
      ValueError: The metadata contains NaN or an infinity.
      TypeError: The metadata contains a value that JSON cannot represent.
    """
    row = messages_row(dialogue)
    line = json.dumps(row, ensure_ascii=False, allow_nan=False)
    try:
        line.encode("utf-8")
    except UnicodeEncodeError:  # lone surrogates in metadata must be escaped
        line = json.dumps(row, allow_nan=False)
    return line + "\n"


def write_messages(path: AnyPath | str, dialogues: Iterable[Dialogue]) -> int:
    """Writes a `messages` file atomically.

    Args:
      path: The file; its folder is created if it is missing.
      dialogues: Consumed one by one, so they need not fit in memory.

    Returns:
      The number of dialogues written.
    """
    number = 0
    with atomic_write(path) as file:
        for dialogue in dialogues:
            file.write(messages_line(dialogue))
            number += 1
    return number
