"""How like people an asker asks, and how well an answerer answers, by exact truth."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from parrot_jax.world.questions import Context, Invalid, Language

KindCounts = Mapping[int, Counter[str]]
"""For each turn index, how often each kind of question was asked; `invalid` is one of the kinds."""


class AskedKinds(NamedTuple):
    """What was asked, and what could not be resolved."""

    by_turn: dict[int, Counter[str]]
    invalid: Counter[str]
    """How many questions were invalid for each reason."""

    @property
    def num_questions(self) -> int:
        """All questions."""
        return sum(sum(counts.values()) for counts in self.by_turn.values())

    @property
    def valid_rate(self) -> float:
        """Share of questions that can be resolved in their context."""
        return 1 - sum(self.invalid.values()) / self.num_questions


def asked_kinds(language: Language, dialogues: Iterable[tuple[Sequence[str], int]]) -> AskedKinds:
    """Counts the kinds of questions by their turn.

    Args:
      language: Understands them.
      dialogues: For each, its questions and the index of the first one that counts: those before
        were not asked by the speaker in question.
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
    """Total variation between two mixes of kinds, at equal turn index.

    At each turn that both have, half the sum of absolute differences of the shares; over turns, the
    mean weighted by the questions that `first` has there. 0 = the same mix, 1 = nothing in common.

    >>> kind_distance({1: Counter(full=3, back=1)}, {1: Counter(full=1, back=1)})
    0.25

    Raises:
      ValueError: No turn is in both.
    """
    turns = sorted(first.keys() & second.keys())
    if not turns:
        raise ValueError("the two have no turn in common")
    total = sum(sum(first[turn].values()) for turn in turns)
    distance = 0.0
    for turn in turns:
        a, b = first[turn], second[turn]
        num_a, num_b = sum(a.values()), sum(b.values())
        # Sorted: a set of words has another order in each process, and the sum other last digits.
        kinds = sorted(a.keys() | b.keys())
        variation = sum(abs(a[kind] / num_a - b[kind] / num_b) for kind in kinds) / 2
        distance += variation * num_a / total
    return distance
