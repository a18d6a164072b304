"""What people are asked, and the keys of their verdicts."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal, NamedTuple

TaskName = Literal["human-like", "grade", "compare", "review"]

SKIP = "skip"
"""The verdict of somebody who cannot tell; it counts as skipped, never as a value."""


class Choice(NamedTuple):
    """A verdict that can be given."""

    value: str
    key: str
    words: str
    """On the button."""


class Task(NamedTuple):
    """What people are asked about each item."""

    name: TaskName
    question: str
    marked: str
    """The noun of what is judged."""
    choices: tuple[Choice, ...]
    """Without skipping."""
    numbers: Mapping[str, float]
    """Verdict -> the number whose mean is reported; empty = none is."""
    figure: str = ""
    """What that mean is called."""

    def allows(self, value: str) -> bool:
        """Whether a verdict is one of this task."""
        return value == SKIP or value in {choice.value for choice in self.choices}


_GRADES = tuple(Choice(str(grade), str(grade % 10), str(grade)) for grade in range(1, 11))

TASKS: Mapping[TaskName, Task] = MappingProxyType(
    {
        "human-like": Task(
            "human-like",
            "Could a real person have asked the marked question at this point?",
            "question",
            (Choice("human-like", "h", "Human-like"), Choice("not", "n", "Not human-like")),
            {"human-like": 1.0, "not": 0.0},
            "human-like",
        ),
        "grade": Task(
            "grade",
            "How good is the marked answer, from 1 (useless) to 10 (excellent)?",
            "answer",
            _GRADES,
            {choice.value: float(choice.value) for choice in _GRADES},
            "mean grade",
        ),
        "compare": Task(
            "compare",
            "Which of the two marked answers is better?",
            "answer",
            (
                Choice("left", "l", "Left"),
                Choice("tie", "t", "Tie"),
                Choice("right", "r", "Right"),
            ),
            {"left": 1.0, "tie": 0.5, "right": 0.0},
            "win rate",
        ),
        "review": Task(
            "review",
            "Shall the benchmark ask the marked question?",
            "question",
            (
                Choice("accept", "a", "Accept"),
                Choice("edit", "e", "Edit"),
                Choice("reject", "r", "Reject"),
            ),
            {},
        ),
    }
)
