"""People decide on the questions of a benchmark that is being built, by the rules of the terminal.

The decisions are in `questions.jsonl` and nowhere else, so that reviews in the browser and in the
terminal can take turns, and no two files can contradict each other.
"""

import hashlib
import json
from types import TracebackType
from typing import NamedTuple

from parrot_jax.annotate.desk import Shown, StaleError, State
from parrot_jax.annotate.items import Round
from parrot_jax.annotate.tasks import SKIP, TASKS
from parrot_jax.core.errors import UserError
from parrot_jax.evaluate.built import BuiltDialogue
from parrot_jax.evaluate.decisions import (
    Decision,
    ReviewedFile,
    decided,
    edit_decision,
    open_turns,
)
from parrot_jax.report.texts import fit_text


class _Step(NamedTuple):
    """A decision or a skip that can be taken back."""

    token: str
    number: int
    """Of the dialogue, from 0."""
    before: BuiltDialogue
    after: BuiltDialogue
    skipped: str
    """The token of the skipped question; empty = it was decided on."""
    said: str


class ReviewDesk:
    """All reviewers share the open questions; each is decided on once, and saved at once.

    A skip and what can be undone are forgotten when the program ends.
    """

    def __init__(self, path: str) -> None:
        """Reads the file and takes its lock.

        Raises:
          UserError: It is invalid, or another process is writing it.
        """
        self.task = TASKS["review"]
        self._file = ReviewedFile(path)
        self._steps: dict[str, list[_Step]] = {}
        self._count = 0

    def __enter__(self) -> "ReviewDesk":
        """Returns the desk itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Releases the lock."""
        self._file.__exit__(kind, error, traceback)

    def annotators(self) -> list[str]:
        """Everybody who has decided since the start."""
        return sorted(name for name, steps in self._steps.items() if steps)

    def state(self, annotator: str) -> State:
        """What a person sees now."""
        left = sum(len(open_turns(one)) for one in self._file.dialogues)
        decided_ = sum(
            turn.accepted_by is not None for one in self._file.dialogues for turn in one.turns
        )
        place = self._current(annotator)
        shown = None
        if place is not None:
            number, turn = place
            one = self._file.dialogues[number]
            rounds = [
                Round(earlier.text, (earlier.reference or "(the next build answers)",))
                for earlier in one.turns[:turn]
            ]
            rounds.append(Round(one.turns[turn].text))
            shown = Shown(_token(number, turn, one), rounds, one.system, _note(one, turn))
        steps = self._steps.get(annotator)
        return State(decided_, decided_ + left, shown, steps[-1].token if steps else "")

    def judge(self, annotator: str, token: str, value: str, text: str) -> str:
        """See `Desk`."""
        if not self.task.allows(value):
            raise UserError(f"{value!r:.40} is no verdict of the task review.")
        place = self._current(annotator)
        if place is None or token != _token(*place, self._file.dialogues[place[0]]):
            raise StaleError("this question was decided on, or its dialogue has changed")
        number, turn = place
        before = self._file.dialogues[number]
        after, said = before, SKIP
        if value != SKIP:
            made = _decision(value, before.turns[turn].text, text)
            after, said = decided(before, turn, made, annotator), made.choice
            self._file.save(number, after)
        self._count += 1
        step = _Step(str(self._count), number, before, after, token if value == SKIP else "", said)
        self._steps.setdefault(annotator, []).append(step)
        return said

    def undo(self, annotator: str, token: str) -> str:
        """See `Desk`."""
        steps = self._steps.get(annotator)
        if not steps or token != steps[-1].token:
            raise StaleError("the last decision is another one")
        step = steps[-1]
        if not step.skipped:
            if self._file.dialogues[step.number] != step.after:
                raise StaleError("somebody has decided on the same dialogue since")
            self._file.save(step.number, step.before)
        steps.pop()
        return step.said

    def _current(self, annotator: str) -> tuple[int, int] | None:
        """The first open question that this person has not skipped: its dialogue and turn."""
        skipped = {step.skipped for step in self._steps.get(annotator, ())}
        for number, one in enumerate(self._file.dialogues):
            for turn in open_turns(one):
                if _token(number, turn, one) not in skipped:
                    return number, turn
        return None


def _token(number: int, turn: int, one: BuiltDialogue) -> str:
    """Changes with any text up to the question."""
    texts = [[earlier.text, earlier.reference] for earlier in one.turns[: turn + 1]]
    digest = hashlib.sha256(json.dumps([number, turn, texts]).encode()).hexdigest()
    return digest[:20]


def _decision(value: str, old: str, text: str) -> Decision:
    if value == "edit":
        try:
            # The page has symbols for control characters, and no space at the ends.
            return edit_decision(fit_text(old).strip(), text)
        except ValueError as error:
            raise UserError(f"{error}; type another one.") from None
    return Decision("accept" if value == "accept" else "reject")


def _note(one: BuiltDialogue, turn: int) -> str:
    measured = one.turns[turn].context_similarity
    similar = "not measured" if measured is None else f"{measured:g} of 100"
    category = f" ({one.category})" if one.category else ""
    return (
        f"Dialogue {one.id}{category}, question {turn + 1}, by {one.turns[turn].written_by}. "
        f"Similarity of the answers with and without the dialogue: {similar}."
    )
