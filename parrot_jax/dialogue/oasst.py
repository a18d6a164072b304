"""OpenAssistant message trees: every path from the first message to a leaf is one dialogue."""

from collections.abc import Iterator, Mapping
from typing import Any

from parrot_jax.dialogue.json_stream import BrokenRowError
from parrot_jax.dialogue.turns import RowPlace, dialogue_of_messages
from parrot_jax.dialogue.types import Dialogue

PRUNED = "deleted or rejected reply pruned"
_ABANDONED_STATES = frozenset({"aborted_low_grade", "halted_by_moderator"})


def parse_oasst_tree(row: Mapping[str, Any], place: RowPlace) -> list[Dialogue]:
    """Turns one tree into its root-to-leaf paths, in the order of the file.

    A reply that is deleted, failed its review (`review_result` false) or is blank is pruned with
    all below it. Its parent then ends a path if no other reply is left; otherwise the parent is
    covered by the other paths, so no path is written twice.

    Args:
      row: `{"message_tree_id", "tree_state", "prompt": {...}}`; messages nest in `replies`.
      place: Where the row was read; counts the pruned replies.

    Returns:
      One dialogue a path, with the id of its last message, and `tree_id`, `tree_state` and `lang`
      in the metadata.

    Raises:
      BrokenRowError: The first message is unusable, or the tree was abandoned.
    """
    state = row.get("tree_state")
    if state in _ABANDONED_STATES:
        raise BrokenRowError(f"tree state {state!r}")
    prompt = row["prompt"]
    if not isinstance(prompt, Mapping):
        raise BrokenRowError("prompt is no message")
    if not _is_usable(prompt):
        raise BrokenRowError("the first message is deleted, rejected or blank")
    tree_id = row.get("message_tree_id", prompt.get("message_id"))
    metadata = {"tree_id": tree_id, "tree_state": state, "lang": prompt.get("lang")}
    return [
        dialogue_of_messages(
            [{"role": message.get("role"), "content": message["text"]} for message in path],
            place,
            id=path[-1].get("message_id"),
            metadata={key: value for key, value in metadata.items() if value is not None},
        )
        for path in _paths(prompt, place)
    ]


def _paths(prompt: Mapping[str, Any], place: RowPlace) -> Iterator[list[Mapping[str, Any]]]:
    # A stack of our own: a tree as deep as its file allows must not end in a RecursionError.
    stack: list[tuple[int, Mapping[str, Any]]] = [(0, prompt)]
    path: list[Mapping[str, Any]] = []
    while stack:
        depth, message = stack.pop()
        del path[depth:]
        path.append(message)
        replies = message.get("replies") or []
        if not isinstance(replies, list) or not all(isinstance(r, Mapping) for r in replies):
            raise BrokenRowError("replies are no list of messages")
        usable = [reply for reply in replies if _is_usable(reply)]
        if len(usable) < len(replies):
            place.repairs[PRUNED] += len(replies) - len(usable)
        stack.extend((depth + 1, reply) for reply in reversed(usable))
        if not usable:
            yield list(path)


def _is_usable(message: Mapping[str, Any]) -> bool:
    text = message.get("text")
    if not isinstance(text, str) or not text.strip():
        return False
    # The review is missing or null where a message was never reviewed, which rejects nothing.
    return not message.get("deleted") and message.get("review_result") is not False
