"""Reads rows with questions and answers under two keys, once or in a list.

    {"instruction": .., "input": .., "output": .., "history": [[.., ..], ..]}      Alpaca
    {"conversation": [{"human": .., "assistant": ..}, ..]}                        Firefly
    {"history": [{"user": .., "bot": ..}, ..]}                                    MT-Bench-101
    {"prompt": .., "completion": ..}, {"question": .., "answer": ..}, ..

The two keys are found by their names, in any combination.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from parrot_jax.dialogue.keys import MESSAGE_KEYS, is_empty, plain_key, read_keys
from parrot_jax.dialogue.messages import is_message, read_messages
from parrot_jax.dialogue.raw_rows import BrokenRowError
from parrot_jax.dialogue.turns import RowPlace, build_dialogue
from parrot_jax.dialogue.types import Dialogue, Role, Turn
from parrot_jax.dialogue.unread import ANSWERS

QUESTION_KEYS = (
    *("instruction", "prompt", "question", "query", "human", "user", "problem", "input", "inputs"),
)
ANSWER_KEYS = (
    *("output", "response", "completion", "answer", "assistant", "bot", "reply", "target"),
    *("targets", "solution"),
)
_EXTRA_KEYS = ("input", "context")
"""Texts that are appended to the question after a blank line."""

_QUESTIONS = frozenset(("instruction", "prompt", "question", "query", "human", "problem"))
"""Keys of which a row may have only one. `user` may be the name of a user."""

LIST_KEYS = (
    *("history", "conversation", "conversations", "messages", "dialogue", "dialog", "turns"),
    *("items", "data"),
)


def holds_pairs(row: Mapping[str, Any]) -> bool:
    """Whether a row has a question and an answer, or a list of such pairs.

    >>> holds_pairs({"history": [{"user": "Hi", "bot": "Hello"}]}), holds_pairs({"question": "Hi"})
    (True, False)
    """
    return _is_pair(row) or _list_of_pairs(row) is not None


def parse_pairs(row: Mapping[str, Any], place: RowPlace) -> list[Dialogue]:
    """Parses such a row: the history, then the pairs, then the row's own pair.

    Raises:
      BrokenRowError: A question or an answer is not text, or there are two of them.
    """
    turns: list[Turn] = []
    read: set[str] = set()
    system: list[str] = []

    def add_messages(value: Any) -> None:
        said = read_messages(value, place)
        turns.extend(said.turns)
        system.extend([said.system] if said.system else [])

    list_key = _list_of_pairs(row) or ("history" if "history" in row else None)
    if list_key is not None:
        read.add(list_key)
        items = row[list_key]
        if _are_messages(items):
            add_messages(items)
        elif not isinstance(items, list):
            raise BrokenRowError(f"{list_key!r} is not a list")
        else:
            for number, item in enumerate(items, start=1):
                turns += _read_item(item, f"pair {number}", place)
    own = list(_own_keys(row)) if _is_pair(row) else []
    if own:
        _refuse_second(row, [key for key, _ in own], "row")
    for key, role in own:
        read.add(key)
        if _are_messages(row[key]):
            add_messages(row[key])
            continue
        text, keys = _said(row, key, role)
        read.update(keys)
        turns.append(Turn(role, text))
    return [build_dialogue(turns, place, row=row, read=read, system="\n\n".join(system))]


def _read_item(item: Any, where: str, place: RowPlace) -> list[Turn]:
    if isinstance(item, list) and len(item) == 2:
        roles: tuple[Role, Role] = ("user", "assistant")
        return [
            Turn(role, _text(where, text))
            for role, text in zip(roles, item, strict=True)
            if text is not None
        ]
    if not isinstance(item, Mapping):
        raise BrokenRowError("a pair is not a question with an answer", where)
    keys = list(_own_keys(item))
    if not keys:
        raise BrokenRowError("a pair has no question", f"{where} has {', '.join(map(repr, item))}")
    _refuse_second(item, [key for key, _ in keys], where)
    said = [_said(item, key, role) for key, role in keys]
    read = {key for _, names in said for key in names}
    weight, _ = read_keys(item, MESSAGE_KEYS, read=read, where=where, passed_over=place.passed_over)
    return [Turn(role, text, weight) for (_, role), (text, _) in zip(keys, said, strict=True)]


def _said(owner: Mapping[str, Any], key: str, role: Role) -> tuple[str, list[str]]:
    """A question with its extra texts, or an answer, and its keys."""
    extras = [
        name
        for name, value in owner.items()
        if role == "user" and name != key and value is not None and plain_key(name) in _EXTRA_KEYS
    ]
    texts = [_text(name, owner[name]) for name in (key, *extras)]
    return "\n\n".join(text for text in texts if text.strip()), [key, *extras]


def _refuse_second(owner: Mapping[str, Any], keys: Sequence[str], where: str) -> None:
    """Rejects two different questions or answers, since one of them would be lost.

    Raises:
      BrokenRowError: There are two; the reason names both keys.
    """
    for kind, names in (("questions", _QUESTIONS), ("answers", ANSWERS)):
        filled = [
            key
            for key, value in owner.items()
            if plain_key(key) in names and isinstance(value, str | list) and not is_empty(value)
        ]
        first = next((key for key in keys if key in filled), None)
        for key in filled:
            if first is not None and owner[key] != owner[first]:
                raise BrokenRowError(f"two {kind}, under {first!r} and {key!r}", where)


def _own_keys(owner: Mapping[str, Any]) -> Iterator[tuple[str, Role]]:
    question, answer = _key_of(owner, QUESTION_KEYS), _key_of(owner, ANSWER_KEYS)
    if question is not None:
        yield question, "user"
    if answer is not None:
        yield answer, "assistant"


def _key_of(owner: Mapping[str, Any], names: tuple[str, ...]) -> str | None:
    present = {plain_key(key): key for key, value in owner.items() if value is not None}
    return next((present[name] for name in names if name in present), None)


def _is_pair(owner: Any) -> bool:
    return isinstance(owner, Mapping) and not is_message(owner) and len(list(_own_keys(owner))) == 2


def _list_of_pairs(row: Mapping[str, Any]) -> str | None:
    for key in LIST_KEYS:
        items = row.get(key)
        if isinstance(items, list) and items and _is_pair(items[0]):
            return key
    return None


def _are_messages(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and is_message(value[0])


def _text(key: str, value: Any) -> str:
    if not isinstance(value, str):
        raise BrokenRowError(f"{key!r} is not text", f"but {type(value).__name__}")
    return value
