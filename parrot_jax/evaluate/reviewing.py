"""People accept, edit or reject the questions of a built benchmark, in a terminal or from lines."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from parrot_jax.core.errors import UserError
from parrot_jax.core.logs import console, visible
from parrot_jax.evaluate.built import BuiltDialogue
from parrot_jax.evaluate.decisions import (
    Decision,
    ReviewedFile,
    decided,
    edit_decision,
    open_turns,
)

_CHOICES: Mapping[str, Literal["accept", "edit", "reject", "skip", "quit"]] = {
    "a": "accept", "e": "edit", "r": "reject", "s": "skip", "q": "quit",
}  # fmt: skip
_TYPED = {*_CHOICES, *_CHOICES.values()}
_ASKED = ", ".join(f"[{key}]{name[1:]}" for key, name in _CHOICES.items())


@dataclass(frozen=True, kw_only=True)
class ReviewSummary:
    """What was decided in one session."""

    accepted: int
    edited: int
    rejected: int
    skipped: int
    left: int
    """Questions that nobody has decided on, including skipped ones."""
    file: Path

    def lines(self) -> Iterator[str]:
        """The summary as text."""
        yield (
            f"{self.accepted:,} accepted, {self.edited:,} edited, {self.rejected:,} rejected, "
            f"{self.skipped:,} skipped; {self.left:,} are left in {self.file}"
        )
        if self.edited or self.rejected:
            yield (
                "run `parrot evaluate build` with the same config to answer what was edited and to "
                "replace what was rejected"
            )


def review(path: str, *, reviewer: str, read: Callable[[str], str] = input) -> ReviewSummary:
    """Shows each new question that nobody has decided on, and writes each decision at once.

    Args:
      path: A file of `parrot evaluate build`.
      reviewer: The person's name, for the file.
      read: Shows a text and returns the next line of input; raises `EOFError` at its end, which
        ends the review.

    Raises:
      UserError: The file is invalid, or another process is writing it or has changed it.
      DiskFullError: The disk is full.
    """
    with ReviewedFile(path) as file:
        session = _Session(file, reviewer, read)
        try:
            session.run()
        except EOFError:
            console.print()  # ends the line of the prompt
        return session.summary()


class _Session:
    """One review."""

    def __init__(self, file: ReviewedFile, reviewer: str, read: Callable[[str], str]) -> None:
        self._file, self._reviewer, self._read_line = file, reviewer, read
        self._counts = Counter[str]()

    def summary(self) -> ReviewSummary:
        """The counts so far."""
        return ReviewSummary(
            accepted=self._counts["accept"],
            edited=self._counts["edit"],
            rejected=self._counts["reject"],
            skipped=self._counts["skip"],
            left=self._num_open(),
            file=self._file.path,
        )

    def run(self) -> None:
        """Goes through the questions until the end of the file or of the input, or [q]uit."""
        for number in range(len(self._file.dialogues)):
            place, shown = self._file.dialogues[number].seed_turns, 0
            # A decision may remove later turns, or open them again.
            while place < len((one := self._file.dialogues[number]).turns):
                if place in open_turns(one):
                    _show(one, place, shown, left=self._num_open())
                    shown = place
                    made = self._decision(one.turns[place].text)
                    if made == "quit":
                        return
                    self._counts[made.choice if isinstance(made, Decision) else made] += 1
                    if isinstance(made, Decision):
                        self._file.save(number, decided(one, place, made, self._reviewer))
                place += 1

    def _num_open(self) -> int:
        return sum(len(open_turns(one)) for one in self._file.dialogues)

    def _decision(self, old: str) -> Decision | Literal["skip", "quit"]:
        """What the reviewer types about a question, until it can be understood."""
        while True:
            key = self._read(f"{_ASKED}: ").strip().lower()
            choice = _CHOICES.get(key[:1]) if key in _TYPED else None
            if choice is None:
                console.print(
                    f"{visible(key)!r:.40} is no choice; type one of {', '.join(_CHOICES)}"
                )
            elif choice == "edit":
                try:
                    return edit_decision(old, self._read("the question in one line: "))
                except ValueError as error:
                    console.print(f"{error}; choose again")
            elif choice == "accept" or choice == "reject":
                return Decision(choice)
            else:
                return choice

    def _read(self, prompt: str) -> str:
        try:
            return self._read_line(prompt)
        except UnicodeDecodeError as error:
            raise UserError(
                f"the input is not {error.encoding} text ({error.reason}); all earlier decisions "
                "are saved. Run the same command again to continue."
            ) from None


def _show(one: BuiltDialogue, place: int, shown: int, *, left: int) -> None:
    """Prints the dialogue from the turn after the last question shown, and the question."""
    title = f"dialogue {one.id}" + (f" ({one.category})" if one.category else "")
    console.rule(visible(f"{title}, question {place + 1}; {left:,} left"), characters="-")
    lines = []
    for number, turn in enumerate(one.turns[:place], 1):
        if number <= shown:
            continue
        lines += [f"[{number}] user: {turn.text}", ""]
        lines += [f"[{number}] assistant: {turn.reference or '(the next build answers)'}", ""]
    turn = one.turns[place]
    measured = turn.context_similarity
    likeness = "not measured" if measured is None else f"{measured:g} of 100"
    lines += [
        f"[{place + 1}] by {turn.written_by}; similarity of the answers with and without the "
        f"dialogue: {likeness}",
        f">>> {turn.text}",
    ]
    console.print(visible("\n".join(lines)), markup=False, highlight=False)
