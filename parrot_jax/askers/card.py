"""The report card: what askers and people said, measured alike, with intervals."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np

from parrot_jax.askers import measures
from parrot_jax.askers.asking import Questions
from parrot_jax.askers.first_turns import diversity
from parrot_jax.askers.lengths import Lasting, end_amounts, lasting
from parrot_jax.askers.naturalness import auc_with_interval, held_out_scores
from parrot_jax.askers.perplexity import Loss, perplexities
from parrot_jax.askers.reference import Reference, Said
from parrot_jax.askers.roles import drift_amounts
from parrot_jax.stats.measure_file import Estimate, estimates_of, quantile
from parrot_jax.stats.measures import Measure
from parrot_jax.version import __version__

PEOPLE = "people"
_WORDS_OF_LENGTHS = (5, 10, 20, 40, 80, 160)
"""Upper ends of the classes of question lengths."""

MEASURES: Mapping[str, Measure] = MappingProxyType(
    {
        "naturalness_auc": Measure(
            name="told from people (AUC)", unit="share", of="questions",
            definition="probability that a classifier, which has not seen the dialogue, finds the "
            "asker's question less like people's than a person's; 50 % = it cannot tell, 100 % = "
            "it always can. For people: one half of the dialogues against the other",
        ),
        "role_drift": Measure(
            name="role drift", unit="share", of="questions",
            definition="questions that a classifier takes for answers; it was trained to tell "
            "people's questions from the answers in other dialogues. People's share is its error",
        ),
        "answer_like": measures.MEASURES["answer_like"],
        "end_precision": Measure(
            name="ends: precision", unit="share", of="ends of the asker",
            definition="people, too, asked nothing more there",
        ),
        "end_recall": Measure(
            name="ends: recall", unit="share", of="ends of people",
            definition="the asker ended the dialogue there, too",
        ),
        "end_f1": Measure(
            name="ends: F1", unit="share", of="ends",
            definition="2 TP / (2 TP + FP + FN), over all places",
        ),
        "first_turn_diversity": Measure(
            name="diversity of first questions", unit="share", of="pairs of dialogues",
            definition="1 - mean Jaccard similarity of the words of two first questions",
        ),
        "second_turn_diversity": Measure(
            name="diversity of second questions", unit="share", of="pairs of dialogues",
            definition="the same for the second questions, the first ones that most askers write",
        ),
        **{key: value for key, value in measures.MEASURES.items() if key != "answer_like"},
    }
)  # fmt: skip
"""By key in `card.json`, in table order."""


@dataclass(frozen=True, kw_only=True)
class Column:
    """One asker, or people."""

    name: str
    estimates: Mapping[str, Estimate]
    """By measure, without those that have no data."""
    lasting: Sequence[Lasting]
    lengths: Mapping[int, int]
    """Number of questions after the first by number of words."""
    perplexity: Mapping[int | None, Estimate] = field(default_factory=dict)
    """By turn, and of all later questions under None; empty = not measured."""
    questions: int
    ended: int
    """Places at which the dialogue was ended."""
    cut: int
    """Questions that reached the token limit."""
    missing: Mapping[str, int]
    """Places with neither, by reason."""
    requests: str = ""

    def shares_of_lengths(self) -> list[float]:
        """The share of questions in each class of `length_classes`."""
        found, total = [], sum(self.lengths.values())
        low = 0
        for high in (*_WORDS_OF_LENGTHS, float("inf")):
            found.append(sum(n for words, n in self.lengths.items() if low < words <= high))
            low = high
        return [n / total if total else 0.0 for n in found]

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return {
            "name": self.name,
            "questions": self.questions,
            "ended": self.ended,
            "cut": self.cut,
            "missing": dict(self.missing),
            "requests": self.requests,
            "measures": {key: e._asdict() for key, e in self.estimates.items()},
            "words_quantiles": {
                str(share): quantile(self.lengths, share) for share in (0.1, 0.5, 0.9)
            },
            "lasting": [one._asdict() for one in self.lasting],
            "perplexity": {
                "later" if turn is None else str(turn): e._asdict()
                for turn, e in self.perplexity.items()
            },
        }


@dataclass(frozen=True, kw_only=True)
class Card:
    """The report card of askers."""

    askers: Sequence[Column]
    people: Column
    halves: tuple[Column, Column]
    """People again, by halves of the dialogues: how much equal speakers differ."""
    reference: Reference
    said: Mapping[str, Sequence[Said]]
    """By asker, for examples."""
    seed: int

    @property
    def columns(self) -> list[Column]:
        """The askers, then people."""
        return [*self.askers, self.people]

    def to_json(self) -> dict[str, Any]:
        """All numbers, with what is needed to reproduce them."""
        return {
            "version": __version__,
            "seed": self.seed,
            "dialogues": len(self.reference.dialogues),
            "max_turns": self.reference.max_turns,
            "left_out": dict(self.reference.left_out),
            "rejected_rows": dict(self.reference.report.broken),
            "askers": [column.to_json() for column in self.askers],
            "people": self.people.to_json(),
            "halves": [column.to_json() for column in self.halves],
            "definitions": {
                key: {"unit": m.unit, "of": m.of, "definition": m.definition}
                for key, m in MEASURES.items()
            },
        }


def length_classes() -> list[str]:
    """The classes of question lengths in words, as text."""
    lows = (1, *(high + 1 for high in _WORDS_OF_LENGTHS))
    highs = [f"–{high}" for high in _WORDS_OF_LENGTHS]
    return [*(f"{low}{high}" for low, high in zip(lows, highs, strict=False)), f"{lows[-1]}+"]


def make_card(
    reference: Reference,
    askers: Sequence[Questions],
    losses: Mapping[str, Sequence[Loss]],
    *,
    seed: int,
) -> Card:
    """Measures askers and people.

    Args:
      reference: People's dialogues.
      askers: What each asker said.
      losses: By asker, of people's questions; without askers whose losses are unknown.
      seed: Of the intervals and of the halves.
    """
    first_turn = any(one.first_turn for one in askers)
    people = reference.said(first_turn=first_turn)
    order = np.random.default_rng(seed).permutation(len(reference.dialogues))
    half = set(order[: len(order) // 2].tolist())
    halves = tuple(
        [one for one in people if (one.place.dialogue in half) == is_first]
        for is_first in (True, False)
    )
    everybody = [*(one.said for one in askers), people, *halves]
    drift = drift_amounts(reference, everybody)
    columns = []
    for number, said in enumerate(everybody):
        is_asker = number < len(askers)
        name = askers[number].name if is_asker else PEOPLE
        parts = [
            measured | ends
            for measured, ends in zip(
                measures.measure_questions(reference, said),
                end_amounts(reference, said),
                strict=True,
            )
        ]
        if drift is not None:
            parts = [part | drift[number][n] for n, part in enumerate(parts)]
        if not is_asker:  # they end where they end
            parts = [{k: v for k, v in part.items() if k[:4] != "end_"} for part in parts]
        estimates = estimates_of(parts, seed)
        pair = (said, people) if is_asker else halves if said is people else None
        if pair is not None and (found := _auc(pair[0], pair[1], seed)) is not None:
            estimates["naturalness_auc"] = found
        for turn, key in ((1, "first_turn_diversity"), (2, "second_turn_diversity")):
            if (found := _diversity(said, turn, seed)) is not None:
                estimates[key] = found
        columns.append(
            _column(
                name,
                said,
                estimates,
                losses=losses.get(name, ()) if is_asker else (),
                requests=askers[number].requests if is_asker else "",
                seed=seed,
            )
        )
    return Card(
        askers=columns[: len(askers)],
        people=columns[len(askers)],
        halves=(columns[-2], columns[-1]),
        reference=reference,
        said={one.name: one.said for one in askers},
        seed=seed,
    )


def _column(
    name: str,
    said: Sequence[Said],
    estimates: Mapping[str, Estimate],
    *,
    losses: Sequence[Loss],
    requests: str,
    seed: int,
) -> Column:
    texts = [(one.place.turn, one.text) for one in said if one.text is not None]
    return Column(
        name=name,
        estimates={key: estimates[key] for key in MEASURES if key in estimates},
        lasting=lasting(said),
        lengths=Counter(len(text.split()) for turn, text in texts if turn > 1),
        perplexity=perplexities(losses, seed=seed) if losses else {},
        questions=len(texts),
        ended=sum(one.ended for one in said),
        cut=sum(one.is_cut for one in said),
        missing=Counter(one.reason for one in said if one.reason),
        requests=requests,
    )


def _auc(said: Sequence[Said], people: Sequence[Said], seed: int) -> Estimate | None:
    """How well a classifier tells the questions after the first from people's."""
    asked = [
        (one.text, is_asker, one.place.dialogue)
        for is_asker, some in ((True, said), (False, people))
        for one in some
        if one.text is not None and one.place.turn > 1
    ]
    if not asked:
        return None
    texts, classes, owners = zip(*asked, strict=True)
    is_asker, dialogues = np.array(classes), np.array(owners)
    scores = held_out_scores(list(texts), is_asker, dialogues)
    found = (
        auc_with_interval(scores, is_asker, dialogues, seed=seed) if scores is not None else None
    )
    return None if found is None else Estimate(*found, num=float(is_asker.sum()))


def _diversity(said: Sequence[Said], turn: int, seed: int) -> Estimate | None:
    texts = [one.text for one in said if one.text is not None and one.place.turn == turn]
    found = diversity(texts, seed=seed)
    return None if found is None else Estimate(*found, num=float(len(texts)))
