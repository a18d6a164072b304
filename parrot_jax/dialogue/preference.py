"""Reads preference pairs: a context, the chosen answer and the rejected one.

    {"prompt": [message, ..] or text, "chosen": .., "rejected": ..}      TRL, explicit prompt
    {"chosen": [message, ..], "rejected": [message, ..]}                 TRL, implicit prompt
    {"conversations": [..], "chosen": .., "rejected": ..}                LLaMA-Factory, ShareGPT
    {"instruction": .., "input": .., "chosen": .., "rejected": ..}       LLaMA-Factory, Alpaca

The chosen dialogue may be there twice, as in UltraFeedback: under `chosen` and under `messages`.
An answer is a text, a message or a list of messages. A pair becomes a `Dialogue` that ends with the
chosen answer, with the rejected one beside it. Only this answer is live: the context has weight 0.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from parrot_jax.dialogue.keys import plain_key
from parrot_jax.dialogue.messages import read_messages
from parrot_jax.dialogue.raw_rows import BrokenRowError
from parrot_jax.dialogue.turns import RowPlace
from parrot_jax.dialogue.types import Dialogue

PairKeys = tuple[tuple[str, str], ...]

_ANSWERS: PairKeys = (
    ("chosen", "rejected"),
    ("chosen_response", "rejected_response"),
    ("chosen_messages", "rejected_messages"),
)
_KIND = "kind"
"""The kind of the rejected answer, e.g. `neglect`; metadata, whatever its value is."""
_CONTEXTS = ("prompt", "messages", "conversations", "conversation")
"""Keys with the messages of the context. Also a text under `prompt`, or the keys of a question."""


def holds_preference(row: Mapping[str, Any]) -> bool:
    """Whether a row has a chosen and a rejected answer.

    >>> holds_preference({"prompt": "Hi", "chosen": "Hello!", "rejected": "No."})
    True
    """
    return _answer_keys(row) is not None


def parse_preference(
    row: Mapping[str, Any],
    place: RowPlace,
    *,
    parse: Callable[[Mapping[str, Any], RowPlace], list[Dialogue]],
) -> list[Dialogue]:
    """Parses such a row.

    Args:
      row: The row.
      place: The row's place; counts repairs and ignored keys.
      parse: Parses the row of a dialogue.

    Raises:
      BrokenRowError: The row has no pair, the answers are equal or have different contexts, or one
        of the dialogues cannot be read.
    """
    keys = _answer_keys(row)
    if keys is None:
        raise BrokenRowError("no chosen and rejected answer", f"the row has {', '.join(row)}")
    kind = next((key for key in row if plain_key(key) == _KIND), None)
    rest = {key: value for key, value in row.items() if key not in (*keys, kind)}
    rest = {k: v for k, v in rest.items() if k not in _CONTEXTS or v != row[keys[0]]}
    if others := _answer_keys(rest):
        raise BrokenRowError("two pairs of answers", f"under {keys[0]!r} and {others[0]!r}")
    read = []
    # Repairs and ignored keys are counted once.
    for key, counted in zip(keys, (place, RowPlace(place.source, place.line)), strict=True):
        try:
            (dialogue,) = parse(_with_answer(rest, row[key], key), counted)
        except BrokenRowError as error:
            raise BrokenRowError(error.reason, f"{key}: {error.detail}") from None
        if dialogue.turns[-1].role != "assistant" or len(dialogue.turns) < 2:
            raise BrokenRowError(f"no answer under {key!r}", "the dialogue ends with a question")
        read.append(dialogue)
    chosen, rejected = read
    if chosen.turns[:-1] != rejected.turns[:-1] or chosen.system != rejected.system:
        raise BrokenRowError("chosen and rejected have different contexts")
    if chosen.turns[-1].whole.strip() == rejected.turns[-1].whole.strip():
        raise BrokenRowError("chosen and rejected are the same answer")
    if chosen.turns[-1].weight != rejected.turns[-1].weight:
        raise BrokenRowError("chosen and rejected have different weights")
    turns = tuple(replace(turn, weight=0.0) for turn in chosen.turns[:-1])
    metadata = dict(chosen.metadata)
    if kind is not None:
        metadata[_KIND] = row[kind]
    return [
        replace(
            chosen,
            turns=(*turns, chosen.turns[-1]),
            rejected=rejected.turns[-1],
            metadata=MappingProxyType(metadata),
        )
    ]


def kind_of(dialogue: Dialogue) -> str:
    """The kind of a pair's rejected answer, a text or a number; empty = none."""
    kind = dialogue.metadata.get(_KIND)
    return str(kind) if isinstance(kind, str | int) else ""


def _answer_keys(row: Mapping[str, Any]) -> tuple[str, str] | None:
    present = {plain_key(key): key for key, value in row.items() if value is not None}
    for chosen, rejected in _ANSWERS:
        if chosen in present and rejected in present:
            return present[chosen], present[rejected]
    return None


def _with_answer(rest: Mapping[str, Any], answer: Any, key: str) -> dict[str, Any]:
    """The row of a dialogue that ends with an answer."""
    said = answer if isinstance(answer, list) else [answer]
    said = [{"role": "assistant", "content": one} if isinstance(one, str) else one for one in said]
    if not said:
        raise BrokenRowError(f"{key!r} is empty")
    places = [name for name in _CONTEXTS if isinstance(rest.get(name), list)]
    if places:
        before = rest[places[0]]
        if any(rest[name] != before for name in places):
            raise BrokenRowError("two contexts", f"under {' and '.join(map(repr, places))}")
        others = {name: value for name, value in rest.items() if name not in places}
        # Some files repeat the context before the answer.
        repeats = said[: len(before)] == before and len(said) > len(before)
        _check_joint(before, said[len(before) :] if repeats else said, key)
        return {**others, "messages": said if repeats else before + said}
    if isinstance(answer, str):
        if "output" in rest:
            raise BrokenRowError(f"two answers, under {key!r} and 'output'")
        return {**rest, "output": answer}
    if len(said) > 1:
        # The prompt is a text that the messages may repeat.
        return {**rest, "messages": said}
    if isinstance(rest.get("prompt"), str):
        others = {name: value for name, value in rest.items() if name != "prompt"}
        return {**others, "messages": [{"role": "user", "content": rest["prompt"]}, *said]}
    raise BrokenRowError("no context", f"{key!r} has one message, and the row has no prompt")


def _check_joint(before: list[Any], said: list[Any], key: str) -> None:
    """Checks that messages end with a question, and that those after them are only an answer.

    Otherwise texts would be joined that do not follow each other. A context without any turn may
    come before a whole dialogue.
    """
    speakers, others = (
        [turn.role for turn in read_messages(part, RowPlace("", 0)).turns]
        for part in (before, said)
    )
    if speakers and speakers[-1] == "assistant":
        raise BrokenRowError("the context ends with an answer")
    if speakers and "user" in others:
        raise BrokenRowError(f"no answer under {key!r}", "it has a question of its own")
