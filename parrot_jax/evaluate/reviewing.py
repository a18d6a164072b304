"""People accept, edit or reject the questions of a built benchmark, in a terminal or from lines."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from parrot_jax.api.journal_file import take_lock
from parrot_jax.core.errors import UserError
from parrot_jax.core.logs import console, visible
from parrot_jax.core.paths import require_local
from parrot_jax.evaluate.built import BuiltDialogue, Note, read_built, write_built

_CHOICES = {"a": "accept", "e": "edit", "r": "reject", "s": "skip", "q": "quit"}
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
      UserError: The file is invalid, or another process is writing it.
    """
    require_local(path, "FILE")
    if not Path(path).is_file():
        raise UserError(f"there is no file {path}; `parrot evaluate build` writes questions.jsonl.")
    with contextlib.closing(take_lock(Path(path))):
        session = _Session(Path(path), reviewer, read)
        try:
            session.run()
        except EOFError:
            console.print()  # ends the line of the prompt
        return session.summary()


class _Session:
    """One review."""

    def __init__(self, path: Path, reviewer: str, read: Callable[[str], str]) -> None:
        self._path, self._reviewer, self._read_line = path, reviewer, read
        self._dialogues = read_built(path)
        self._counts = dict.fromkeys(_CHOICES, 0)

    def summary(self) -> ReviewSummary:
        """The counts so far."""
        return ReviewSummary(
            accepted=self._counts["a"],
            edited=self._counts["e"],
            rejected=self._counts["r"],
            skipped=self._counts["s"],
            left=self._num_open(),
            file=self._path,
        )

    def run(self) -> None:
        """Goes through the questions until the end of the file or of the input, or [q]uit."""
        for number in range(len(self._dialogues)):
            place, shown = self._dialogues[number].seed_turns, 0
            # A decision may remove later turns, or open them again.
            while place < len((one := self._dialogues[number]).turns):
                if place in _open_turns(one):
                    _show(one, place, shown, left=self._num_open())
                    shown = place
                    choice, text = self._choice(one.turns[place].text)
                    if choice == "q":
                        return
                    self._counts[choice] += 1
                    if choice != "s":
                        self._dialogues[number] = _decided(one, place, choice, text, self._reviewer)
                        write_built(self._path, self._dialogues)
                place += 1

    def _num_open(self) -> int:
        return sum(len(_open_turns(one)) for one in self._dialogues)

    def _choice(self, old: str) -> tuple[str, str]:
        """The key of a choice, and the new text of an edit."""
        while True:
            key = self._read(f"{_ASKED}: ").strip().lower()
            key = next((k for k, name in _CHOICES.items() if key in (k, name)), key)
            if key not in _CHOICES:
                console.print(
                    f"{visible(key)!r:.40} is no choice; type one of {', '.join(_CHOICES)}"
                )
            elif key != "e":
                return key, ""
            elif not (text := self._read("the question in one line: ").strip()):
                console.print("an edit needs a text; choose again")
            elif visible(text) != text:
                console.print(f"{visible(text)[:80]!r} has a control character; choose again")
            else:
                # An unchanged text keeps its author and its reference.
                return ("a", "") if text == old else (key, text)

    def _read(self, prompt: str) -> str:
        try:
            return self._read_line(prompt)
        except UnicodeDecodeError as error:
            raise UserError(
                f"the input is not {error.encoding} text ({error.reason}); all earlier decisions "
                "are saved. Run the same command again to continue."
            ) from None


def _open_turns(one: BuiltDialogue) -> Sequence[int]:
    """The turns that nobody has decided on, from 0."""
    new = range(one.seed_turns, len(one.turns))
    return [place for place in new if one.turns[place].accepted_by is None]


def _decided(
    one: BuiltDialogue, place: int, choice: str, text: str, reviewer: str
) -> BuiltDialogue:
    """The dialogue after a decision on one of its turns."""
    turn = one.turns[place]
    before, after = one.turns[:place], one.turns[place + 1 :]
    note = Note(turn=place + 1, text=turn.text, written_by=turn.written_by, why=reviewer)
    if choice == "a":
        turns = (*before, replace(turn, accepted_by=reviewer), *after)
        return replace(one, turns=turns)
    if choice == "e":
        by = f"{reviewer} (edited {turn.written_by})"
        edited = replace(turn, text=text, written_by=by, accepted_by=reviewer)
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
