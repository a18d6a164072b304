"""Reads OpenAssistant message trees: every path from the root to a leaf is one dialogue."""

from collections.abc import Iterator, Mapping
from typing import Any

from parrot_jax.dialogue.messages import read_messages
from parrot_jax.dialogue.raw_rows import BrokenRowError
from parrot_jax.dialogue.turns import RowPlace, build_dialogue
from parrot_jax.dialogue.types import Dialogue

PRUNED = "deleted or rejected reply pruned"
_ABANDONED_STATES = frozenset({"aborted_low_grade", "halted_by_moderator"})
# Other keys of a tree's messages; the ones that matter are read here.
_MESSAGE_KEYS = frozenset(
    (
        *("replies", "deleted", "review_result", "review_count", "rank", "synthetic", "emojis"),
        *("labels", "user_id", "detoxify"),
    )
)


def parse_oasst_tree(row: Mapping[str, Any], place: RowPlace) -> list[Dialogue]:
    """Converts a tree to its root-to-leaf paths, in the order of the file.

    A reply that is deleted, failed its review (`review_result` false) or is blank is pruned with
    its subtree. If its parent has no other reply, the parent ends a path; otherwise the other paths
    cover it, so no path is written twice.

    Args:
      row: `{"message_tree_id", "tree_state", "prompt": {...}}`; messages nest in `replies`.
      place: The row's place; counts the pruned replies.

    Returns:
      One dialogue per path, with the id of its last message, and `tree_id`, `tree_state` and `lang`
      in the metadata.

    Raises:
      BrokenRowError: The first message is unusable, or the tree was abandoned.
    """
    state = row.get("tree_state")
    if state in _ABANDONED_STATES:
        raise BrokenRowError(f"tree state {state!r}")
    prompt = row["prompt"]
    if not isinstance(prompt, Mapping):
        raise BrokenRowError("prompt is not a message")
    if not _is_usable(prompt):
        raise BrokenRowError("the first message is deleted, rejected or blank")
    tree_id = row.get("message_tree_id", prompt.get("message_id"))
    about = {"tree_id": tree_id, "tree_state": state, "lang": prompt.get("lang")}
    rest = {key: row[key] for key in row if key not in ("message_tree_id", "prompt", "id")}
    dialogues = []
    for path in _paths(prompt, place):
        said = read_messages(
            [{k: v for k, v in message.items() if k not in _MESSAGE_KEYS} for message in path],
            place,
        )
        of_path = {**rest, **about, "id": path[-1].get("message_id")}
        dialogues.append(
            build_dialogue(said.turns, place, row=of_path, read=(), system=said.system)
        )
    return dialogues


def _paths(prompt: Mapping[str, Any], place: RowPlace) -> Iterator[list[Mapping[str, Any]]]:
    # An explicit stack, since a deep tree must not cause a RecursionError.
    stack: list[tuple[int, Mapping[str, Any]]] = [(0, prompt)]
    path: list[Mapping[str, Any]] = []
    while stack:
        depth, message = stack.pop()
        del path[depth:]
        path.append(message)
        replies = message.get("replies") or []
        if not isinstance(replies, list) or not all(isinstance(r, Mapping) for r in replies):
            raise BrokenRowError("replies is not a list of messages")
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
    # The review is missing or null if a message was never reviewed; such messages are kept.
    return not message.get("deleted") and message.get("review_result") is not False
