"""Measures how similar an asker's questions are to people's, and how many answers are right."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from parrot_jax.world.questions import Context, Invalid, Language

KindCounts = Mapping[int, Counter[str]]
"""Number of questions by turn index and kind; `invalid` is one of the kinds."""


class AskedKinds(NamedTuple):
    """Counts of valid and invalid questions."""

    by_turn: dict[int, Counter[str]]
    invalid: Counter[str]
    """Number of invalid questions by reason."""

    @property
    def num_questions(self) -> int:
        """All questions."""
        return sum(sum(counts.values()) for counts in self.by_turn.values())

    @property
    def valid_rate(self) -> float:
        """Share of questions that can be resolved in their context."""
        return 1 - sum(self.invalid.values()) / self.num_questions


def asked_kinds(language: Language, dialogues: Iterable[tuple[Sequence[str], int]]) -> AskedKinds:
    """Counts questions by turn and kind.

    Args:
      language: The parser.
      dialogues: For each, its questions and the index of the first one to count: earlier ones were
        given, not asked by the speaker.
    """
    by_turn: dict[int, Counter[str]] = {}
    invalid: Counter[str] = Counter()
    for questions, first in dialogues:
        context = Context()
        for index, text in enumerate(questions):
            question = language.understand(text, context)
            if not isinstance(question, Invalid):
                context = context.after(question)
            if index >= first:
                kind = "invalid" if isinstance(question, Invalid) else question.kind
                by_turn.setdefault(index, Counter())[kind] += 1
                if isinstance(question, Invalid):
                    invalid[question.reason] += 1
    return AskedKinds(by_turn, invalid)


def kind_distance(first: KindCounts, second: KindCounts) -> float:
    """Returns the total variation distance between two distributions of kinds, by turn index.

    At each turn that both have: half the sum of absolute differences of the shares. Over turns: the
    mean, weighted by the number of questions in `first`. 0 = same distribution, 1 = disjoint.

    >>> kind_distance({1: Counter(full=3, back=1)}, {1: Counter(full=1, back=1)})
    0.25

    Raises:
      ValueError: They have no turn in common.
    """
    turns = sorted(first.keys() & second.keys())
    if not turns:
        raise ValueError("the two have no turn in common")
    total = sum(sum(first[turn].values()) for turn in turns)
    distance = 0.0
    for turn in turns:
        a, b = first[turn], second[turn]
        num_a, num_b = sum(a.values()), sum(b.values())
        # Sorted: set order varies between processes, which would change the last digits of the sum.
        kinds = sorted(a.keys() | b.keys())
        variation = sum(abs(a[kind] / num_a - b[kind] / num_b) for kind in kinds) / 2
        distance += variation * num_a / total
    return distance
