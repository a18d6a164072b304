"""Ends of dialogues: whether an asker ends where people ended, and how long dialogues last."""

from collections.abc import Sequence
from typing import NamedTuple

from parrot_jax.askers.reference import Reference, Said
from parrot_jax.stats.measures import Amount


class Lasting(NamedTuple):
    """How long dialogues last."""

    turn: int
    share: float
    """Share of dialogues that have this question, in [0, 1]."""


def end_amounts(reference: Reference, said: Sequence[Said]) -> list[dict[str, Amount]]:
    """Precision, recall and F1 of the ends, as sums and counts by dialogue.

    An end is right where the person asked nothing more. A place without a question or an end, such
    as a failed request, counts for none of them.

    F1 is 2 TP / (2 TP + FP + FN) over all dialogues.

    Args:
      reference: The dialogues.
      said: At its places.
    """
    found: list[dict[str, Amount]] = []
    by_dialogue: list[list[tuple[bool, bool]]] = [[] for _ in reference.dialogues]
    for one in said:
        if one.place.turn > 1 and (one.text is not None or one.ended):
            truth = reference.question(one.place) is None
            by_dialogue[one.place.dialogue].append((truth, one.ended))
    for pairs in by_dialogue:
        right = sum(truth and ended for truth, ended in pairs)
        ends, truths = (sum(pair[n] for pair in pairs) for n in (1, 0))
        found.append(
            {
                "end_precision": Amount(right, ends),
                "end_recall": Amount(right, truths),
                "end_f1": Amount(2 * right, ends + truths),
            }
        )
    return found


def lasting(said: Sequence[Said]) -> list[Lasting]:
    """The share of dialogues that last until each question, if the asker decided it.

    At each place the asker sees people's dialogue, so the share that ends at question k among those
    that reached it is known for each k; the product of what remains is the share that lasts. It is
    the Kaplan-Meier estimator: dialogues of people that stop earlier are censored.

    Args:
      said: At the places of a reference.

    Returns:
      From question 1, which every dialogue has, to the last one that anybody was asked for.
    """
    turns = sorted({one.place.turn for one in said if one.place.turn > 1})
    found, share = [Lasting(1, 1.0)], 1.0
    for turn in turns:
        at = [one for one in said if one.place.turn == turn and (one.ended or one.text is not None)]
        if not at:
            break
        share *= 1 - sum(one.ended for one in at) / len(at)
        found.append(Lasting(turn, share))
    return found
