"""What a person's decision on a question does to a built benchmark, and the file it is saved in."""

import contextlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Literal, NamedTuple

from parrot_jax.api.journal_file import take_lock
from parrot_jax.core.errors import UserError, disk_full_is_a_user_error
from parrot_jax.core.logs import visible
from parrot_jax.core.paths import require_local
from parrot_jax.evaluate.built import BuiltDialogue, Note, read_built, write_built


class Decision(NamedTuple):
    """What a person decided on a question."""

    choice: Literal["accept", "edit", "reject"]
    text: str = ""
    """The new text of an edit; else empty."""


class ReviewedFile:
    """A file of `parrot evaluate build` while one process reviews it.

    Attributes:
      path: The file.
      dialogues: Its rows.
    """

    def __init__(self, path: str) -> None:
        """Locks and reads the file.

        Raises:
          UserError: There is no such local file, it is invalid, or another process is writing it.
        """
        require_local(path, "FILE")
        self.path = Path(path)
        if not self.path.is_file():
            raise UserError(
                f"there is no file {path}; `parrot evaluate build` writes questions.jsonl."
            )
        with contextlib.ExitStack() as stack:
            stack.enter_context(contextlib.closing(take_lock(self.path)))
            self._text = self.path.read_bytes()
            self.dialogues = read_built(self.path)
            self._held = stack.pop_all()

    def __enter__(self) -> "ReviewedFile":
        """Returns the file itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Releases the lock."""
        self._held.close()

    def save(self, number: int, dialogue: BuiltDialogue) -> None:
        """Replaces a row; it is on disk when this returns.

        Args:
          number: Of the row, from 0.
          dialogue: The new row.

        Raises:
          UserError: The file has changed since it was read, e.g. in an editor; it is left as it is.
          DiskFullError: The disk is full; nothing was changed.
        """
        # The lock only keeps out other commands of parrot.
        if not self.path.is_file() or self.path.read_bytes() != self._text:
            raise UserError(
                f"another program has changed, moved or deleted {self.path}; the decision is not "
                "saved. Start the review again, with the file as it shall be."
            )
        changed = [*self.dialogues]
        changed[number] = dialogue
        with disk_full_is_a_user_error(f"the decisions in {self.path}"):
            write_built(self.path, changed)
        self._text, self.dialogues = self.path.read_bytes(), changed


def open_turns(one: BuiltDialogue) -> Sequence[int]:
    """The turns that nobody has decided on, from 0."""
    new = range(one.seed_turns, len(one.turns))
    return [place for place in new if one.turns[place].accepted_by is None]


def edit_decision(old: str, new: str) -> Decision:
    """The decision that a typed text makes.

    >>> edit_decision("Why?", " Why not? ")
    Decision(choice='edit', text='Why not?')

    Args:
      old: The question so far.
      new: What was typed. An unchanged text accepts, and keeps its author and its reference.

    Raises:
      ValueError: It is empty or has a control character.
    """
    text = new.strip()
    if not text:
        raise ValueError("an edit needs a text")
    if visible(text) != text:
        raise ValueError(f"{visible(text)[:80]!r} has a control character")
    return Decision("accept") if text == old else Decision("edit", text)


def decided(one: BuiltDialogue, place: int, made: Decision, reviewer: str) -> BuiltDialogue:
    """The dialogue after a decision.

    Args:
      one: The dialogue.
      place: The turn, from 0.
      made: The decision.
      reviewer: The person's name.
    """
    turn = one.turns[place]
    before, after = one.turns[:place], one.turns[place + 1 :]
    note = Note(turn=place + 1, text=turn.text, written_by=turn.written_by, why=reviewer)
    if made.choice == "accept":
        turns = (*before, replace(turn, accepted_by=reviewer), *after)
        return replace(one, turns=turns)
    if made.choice == "edit":
        by = f"{reviewer} (edited {turn.written_by})"
        edited = replace(turn, text=made.text, written_by=by, accepted_by=reviewer)
        # The later questions and answers followed the old question: they are looked at again.
        followed = (replace(later, accepted_by=None) for later in after)
        changed = tuple(later.without_reference() for later in (edited, *followed))
        return replace(
            one, turns=(*before, *changed), given=len(one.turns), edited=(*one.edited, note)
        )
    return replace(
        one,
        turns=before,
        given=len(before),
        short=f"turn {place + 1} was rejected",
        dropped=tuple(other for other in one.dropped if other.turn <= place),
        rejected=(*one.rejected, note),
    )
