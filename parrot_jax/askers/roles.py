"""Role drift: questions that read like answers, by a classifier of people's texts."""

from collections.abc import Sequence

import numpy as np

from parrot_jax.askers.naturalness import FOLDS, MOST_CHARS, train_classifier
from parrot_jax.askers.reference import Reference, Said
from parrot_jax.stats.measures import Amount


def drift_amounts(
    reference: Reference, askers: Sequence[Sequence[Said]]
) -> list[list[dict[str, Amount]]] | None:
    """The questions that a classifier takes for answers, as sums and counts by dialogue.

    The classifier learns to tell people's questions from the answers that they got. A dialogue is
    judged by one that has not seen it. It knows no language and no phrases, so it also works where
    the word lists of `answer_like` do not; it errs, and people's own share says how often.

    Args:
      reference: The dialogues.
      askers: What each asker said at the places.

    Returns:
      For each asker and dialogue, the sum and count of `role_drift`; None with fewer than `FOLDS`
      dialogues.
    """
    from sklearn.model_selection import GroupKFold

    if len(reference.dialogues) < FOLDS:
        return None
    texts = [
        (number, turn.role == "assistant", turn.text[:MOST_CHARS])
        for number, dialogue in enumerate(reference.dialogues)
        for place, turn in enumerate(dialogue.turns[: 2 * reference.max_turns])
        if place
    ]
    owners = np.array([number for number, _, _ in texts])
    # Every dialogue has an answer, so it is in a fold.
    found = [[{"role_drift": Amount(0, 0)} for _ in reference.dialogues] for _ in askers]
    for train, test in GroupKFold(FOLDS).split(texts, groups=owners):
        is_answer = np.array([texts[n][1] for n in train])
        if len(np.unique(is_answer)) < 2:
            return None
        model = train_classifier([texts[n][2] for n in train], is_answer)
        judged = set(owners[test].tolist())
        for parts, said in zip(found, askers, strict=True):
            asked = [
                (one.place.dialogue, one.text[:MOST_CHARS])
                for one in said
                if one.text is not None and one.place.turn > 1 and one.place.dialogue in judged
            ]
            if not asked:
                continue
            drifts: dict[int, list[bool]] = {number: [] for number in judged}
            scores = model.decision_function([text for _, text in asked])
            for (owner, _), score in zip(asked, scores, strict=True):
                drifts[owner].append(bool(score > 0))
            for number, found_there in drifts.items():
                parts[number] = {"role_drift": Amount(sum(found_there), len(found_there))}
    return found
