"""One parser for each format of dialogue files, from a JSON row to dialogues.

A parser gets one row and its place and returns its dialogues (a tree has many), or raises
`BrokenRowError`. `json_stream` reads the bytes, `turns` repairs, and `sources` handles files,
weights and limits.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from parrot_jax.dialogue.json_stream import stream_rows
from parrot_jax.dialogue.messages import is_message, read_messages
from parrot_jax.dialogue.oasst import parse_oasst_tree
from parrot_jax.dialogue.pairs import QUESTION_KEYS, holds_pairs, parse_pairs
from parrot_jax.dialogue.preference import holds_preference, parse_preference
from parrot_jax.dialogue.raw_rows import BrokenRowError, JsonRow
from parrot_jax.dialogue.turns import RowPlace, build_dialogue
from parrot_jax.dialogue.types import Dialogue, Turn

FileKind = Literal["messages", "sharegpt", "pairs", "ultrachat", "baize", "oasst", "preference"]
Parser = Callable[[Mapping[str, Any], RowPlace], list[Dialogue]]

SHAREGPT_KEYS = ("conversations", "conversation", "items")
_MESSAGE_LISTS = ("dialogue", "dialog", "chat", "turns", "history")
"""Other keys that may have a list of messages."""
_BAIZE_SPEAKER = re.compile(r"\[\|(Human|AI)\|\]")


class WrongKindError(BrokenRowError):
    """The row lacks the keys of its kind; the detail names the kind that it looks like."""


@dataclass(frozen=True, slots=True)
class ReadRow:
    """The result of one row: dialogues, or a problem."""

    place: RowPlace
    dialogues: tuple[Dialogue, ...] = ()
    problem: BrokenRowError | None = None


def detect_kind(row: Mapping[str, Any]) -> FileKind | None:
    """Guesses the format of a row from its keys; `None` if no format fits.

    >>> detect_kind({"id": "7", "conversations": []})
    'sharegpt'
    """
    row = {key: value for key, value in row.items() if value is not None}
    if holds_preference(row):
        return "preference"
    if holds_pairs(row) and not is_message(_first(row.get("messages"))):
        return "pairs"
    if "messages" in row:
        return "messages"
    if _sharegpt_key(row) is not None:
        return "sharegpt"
    if isinstance(row.get("prompt"), Mapping) and "replies" in row["prompt"]:
        return "oasst"
    if isinstance(row.get("data"), list):
        return "ultrachat"
    if "topic" in row and "input" in row:
        return "baize"
    return None


def read_json_file(path: Path | str, kind: FileKind) -> Iterator[ReadRow]:
    """Reads a file of one of the JSON formats, row by row.

    Args:
      path: A JSON-lines file, or a file that is one JSON list.
      kind: The format of its rows.

    Yields:
      Every row in order, with its line.

    Raises:
      UserError: The file cannot be opened.
    """
    for row in stream_rows(path):
        yield parse_row(row, str(path), PARSERS[kind])


def parse_row(row: JsonRow, source: str, parser: Parser) -> ReadRow:
    """Parses one row; the parser's error becomes the row's problem."""
    place = RowPlace(source, row.line)
    if row.repair:
        place.repairs[row.repair] += 1
    if row.problem:
        return ReadRow(place, problem=row.problem)
    if not isinstance(row.value, Mapping):
        detail = f"but {type(row.value).__name__}"
        return ReadRow(place, problem=BrokenRowError("row is not a JSON object", detail))
    present = {key: value for key, value in row.value.items() if value is not None}
    try:
        return ReadRow(place, tuple(parser(present, place)))
    except RecursionError:
        place.repairs.clear()
        place.passed_over.clear()
        return ReadRow(place, problem=BrokenRowError("JSON nested too deeply"))
    except BrokenRowError as problem:
        # Repairs of a rejected row do not count.
        place.repairs.clear()
        place.passed_over.clear()
        return ReadRow(place, problem=problem)


def parse_messages(row: Mapping[str, Any], place: RowPlace) -> list[Dialogue]:
    """`{"id"?, "messages": [{"role", "content", "weight"?}]}`, the form this project writes."""
    _require(row, "messages")
    return [_dialogue_of(row, "messages", place)]


def parse_sharegpt(row: Mapping[str, Any], place: RowPlace) -> list[Dialogue]:
    """`{"id", "conversations": [{"from", "value"}]}`, with the irregularities of real files."""
    key = _sharegpt_key(row) or SHAREGPT_KEYS[0]
    _require(row, key)
    return [_dialogue_of(row, key, place)]


def parse_ultrachat(row: Mapping[str, Any], place: RowPlace) -> list[Dialogue]:
    """`{"id", "data": [question, answer, question, ...]}`."""
    texts = _require(row, "data")
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise BrokenRowError("data is not a list of texts")
    turns = [Turn("assistant" if n % 2 else "user", text) for n, text in enumerate(texts)]
    return [build_dialogue(turns, place, row=row, read={"data"})]


def parse_baize(row: Mapping[str, Any], place: RowPlace) -> list[Dialogue]:
    """`{"topic", "input": "...[|Human|] question [|AI|] answer ... [|Human|]"}`.

    The sentence before the first speaker and the empty `[|Human|]` at the end are part of the
    format and do not count as repairs.
    """
    text = _require(row, "input")
    if not isinstance(text, str):
        raise BrokenRowError("input is not text")
    _, *pieces = _BAIZE_SPEAKER.split(text)
    if not pieces:
        raise BrokenRowError("input has no [|Human|]")
    if not pieces[-1].strip():
        pieces = pieces[:-2]
    turns = [
        Turn("user" if speaker == "Human" else "assistant", said.strip())
        for speaker, said in zip(pieces[::2], pieces[1::2], strict=True)
    ]
    return [build_dialogue(turns, place, row=row, read={"input"})]


def parse_oasst(row: Mapping[str, Any], place: RowPlace) -> list[Dialogue]:
    """`{"message_tree_id", "tree_state", "prompt": {"text", "role", "replies": [...]}}`."""
    _require(row, "prompt")
    return parse_oasst_tree(row, place)


def parse_pairs_row(row: Mapping[str, Any], place: RowPlace) -> list[Dialogue]:
    """`{"instruction", "input"?, "output"}`, `{"history": [{"user", "bot"}]}` and the like."""
    if not holds_pairs(row):
        raise _wrong_kind(row, "no question with an answer")
    return parse_pairs(row, place)


def parse_preference_row(row: Mapping[str, Any], place: RowPlace) -> list[Dialogue]:
    """`{"prompt", "chosen", "rejected"}` and the like: preference pairs."""
    if not holds_preference(row):
        raise _wrong_kind(row, "no chosen and rejected answer")
    return parse_preference(row, place, parse=parse_any)


def parse_any(row: Mapping[str, Any], place: RowPlace) -> list[Dialogue]:
    """Detects the format by the keys; for data sets of the hub."""
    kind = detect_kind(row)
    if kind is None:
        raise WrongKindError("no column holds a dialogue", f"the columns are {', '.join(row)}")
    return PARSERS[kind](row, place)


PARSERS: Mapping[FileKind, Parser] = {
    "messages": parse_messages,
    "sharegpt": parse_sharegpt,
    "pairs": parse_pairs_row,
    "ultrachat": parse_ultrachat,
    "baize": parse_baize,
    "oasst": parse_oasst,
    "preference": parse_preference_row,
}


def _dialogue_of(row: Mapping[str, Any], key: str, place: RowPlace) -> Dialogue:
    if _is_list_of_pairs(row[key]):
        raise _wrong_kind(row, f"{key!r} holds no messages")
    said = read_messages(row[key], place)
    # Many files repeat the first question in a separate column.
    first = next((turn.text for turn in said.turns if turn.role == "user"), None)
    repeated = {name for name in QUESTION_KEYS if name in row and row[name] == first}
    return build_dialogue(said.turns, place, row=row, read={key, *repeated}, system=said.system)


def _sharegpt_key(row: Mapping[str, Any]) -> str | None:
    key = next((key for key in SHAREGPT_KEYS if row.get(key) is not None), None)
    return key or next((key for key in _MESSAGE_LISTS if is_message(_first(row.get(key)))), None)


def _first(value: Any) -> Any:
    return value[0] if isinstance(value, list) and value else None


def _is_list_of_pairs(value: Any) -> bool:
    return not is_message(_first(value)) and holds_pairs({"messages": value})


def _require(row: Mapping[str, Any], key: str) -> Any:
    if key in row:
        return row[key]
    raise _wrong_kind(row, f"no key {key!r}")


def _wrong_kind(row: Mapping[str, Any], reason: str) -> WrongKindError:
    kind = detect_kind(row)
    found = f"the row has {', '.join(map(repr, row)) or 'no keys'}"
    hint = f"; this looks like kind: {kind}" if kind else ""
    return WrongKindError(reason, found + hint)
