"""What an annotator sees next, and what a verdict or an undo does."""

import unicodedata
from collections.abc import Sequence
from typing import NamedTuple, Protocol, runtime_checkable

from parrot_jax.annotate.items import Round
from parrot_jax.annotate.tasks import Task
from parrot_jax.annotate.verdict_file import Verdict, VerdictFile
from parrot_jax.core.errors import UserError
from parrot_jax.core.logs import visible

MAX_NAME = 60
"""Characters of a name."""


class StaleError(Exception):
    """A request about an item that is not the current one; nothing was saved."""


class Shown(NamedTuple):
    """An item on the page."""

    token: str
    """Sent back with the verdict, so that a verdict is never for another item."""
    rounds: Sequence[Round]
    system: str = ""
    note: str = ""


class State(NamedTuple):
    """Where one annotator is."""

    done: int
    total: int
    shown: Shown | None
    """None = nothing is left."""
    undo: str
    """The token of what an undo would take back; empty = nothing."""


@runtime_checkable
class Desk(Protocol):
    """Gives out items and takes verdicts. All methods run in one thread.

    Attributes:
      task: What people are asked.
    """

    task: Task

    def annotators(self) -> list[str]:
        """Everybody who has given a verdict."""
        ...

    def state(self, annotator: str) -> State:
        """What a person sees now."""
        ...

    def judge(self, annotator: str, token: str, value: str, text: str) -> str:
        """Saves a verdict on the current item; on disk when it returns.

        Args:
          annotator: A name from `clean_name`.
          token: Of the item that was judged.
          value: One of the task, or `skip`.
          text: The new text of an edit; else empty.

        Returns:
          What was saved, in words.

        Raises:
          StaleError: Another item is the current one.
          UserError: The verdict is invalid, or cannot be saved.
        """
        ...

    def undo(self, annotator: str, token: str) -> str:
        """Takes back the last verdict of a person.

        Returns:
          What was taken back, in words.

        Raises:
          StaleError: `token` is not what an undo would take back now.
          UserError: It cannot be saved.
        """
        ...


def clean_name(name: object) -> str:
    """A person's name, in one spelling.

    >>> clean_name(" Ada  Lovelace ")
    'Ada Lovelace'

    Raises:
      UserError: It is empty, too long, or has characters that cannot be seen.
    """
    text = " ".join(unicodedata.normalize("NFC", name).split()) if isinstance(name, str) else ""
    # Names of Persian and Indic scripts need invisible joiners, and so do some emoji.
    seen = text.replace("\u200c", "").replace("\u200d", "")
    if not seen or len(text) > MAX_NAME or not seen.isprintable():
        raise UserError(
            f"the name is {visible(text)[:MAX_NAME]!r}; give one of 1 to {MAX_NAME} letters, "
            "digits and signs."
        )
    return text


class VerdictDesk:
    """Everybody judges all items of a file, in its order; skipped ones do not come back."""

    def __init__(self, file: VerdictFile, task: Task) -> None:
        """Takes an open file."""
        self.task = task
        self._file = file
        self._given: dict[str, dict[int, Verdict]] = {}
        for verdict in file.verdicts:
            self._given.setdefault(verdict.annotator, {})[verdict.item] = verdict

    def annotators(self) -> list[str]:
        """Everybody who has given a verdict."""
        return sorted(name for name, given in self._given.items() if given)

    def state(self, annotator: str) -> State:
        """What a person sees now."""
        given, number = self._given.get(annotator, {}), self._current(annotator)
        shown = None
        if number:
            item = self._file.item(number)
            shown = Shown(str(number), item.rounds, item.system)
        last = self._last(annotator)
        undo = str(last.id) if last else ""
        return State(len(given), self._file.num_items, shown, undo)

    def judge(self, annotator: str, token: str, value: str, text: str) -> str:
        """See `Desk`."""
        if not self.task.allows(value) or text:
            raise UserError(f"{value!r:.40} is no verdict of the task {self.task.name}.")
        given, current = self._given.setdefault(annotator, {}), self._current(annotator)
        if not current or token != str(current):
            judged = given.get(int(token)) if token.isdecimal() and len(token) < 10 else None
            raise StaleError(
                f"this {self.task.marked} has the verdict “{judged.value}” already"
                if judged
                else f"another {self.task.marked} comes first"
            )
        given[current] = self._file.add(annotator, current, value)
        return value

    def undo(self, annotator: str, token: str) -> str:
        """See `Desk`."""
        last = self._last(annotator)
        if last is None or token != str(last.id):
            raise StaleError("the last verdict is another one")
        self._file.take_back(last)
        del self._given[annotator][last.item]
        return last.value

    def _current(self, annotator: str) -> int:
        """The number of the first item without a verdict; 0 = all have one."""
        given = self._given.get(annotator, {})
        return next((n for n in range(1, self._file.num_items + 1) if n not in given), 0)

    def _last(self, annotator: str) -> Verdict | None:
        """The newest verdict."""
        given = self._given.get(annotator, {}).values()
        return max(given, key=lambda verdict: verdict.id, default=None)
