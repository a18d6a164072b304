"""Grades answers by comparing them with the references, without a judge: 1 = equal, 0 = not."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from parrot_jax.evaluate.conversations import Conversation
from parrot_jax.evaluate.fastchat import write_judgments

JUDGE = "exact"


def grade_exactly(conversations: Sequence[Conversation], out: Path) -> Path:
    """Writes the grades of answers that are either right or wrong, as a judge's are written.

    Args:
      conversations: Turns without a reference are left out.
      out: A folder; `parrot evaluate report` reads it.

    Returns:
      The file.
    """
    rows = (
        _row(one, turn, reference)
        for one in conversations
        for turn, reference in enumerate(one.references, 1)
        if reference is not None
    )
    return write_judgments(out, JUDGE, "single", rows)


def _row(one: Conversation, turn: int, reference: str) -> dict[str, Any]:
    answer = one.answers[turn - 1]
    row: dict[str, Any] = {
        "question_id": one.question_id,
        "model": one.model_id,
        "turn": turn,
        "history": one.history,
        "category": one.category,
        "judge": [JUDGE, JUDGE],
        "scale": [0, 1],
        "judgment": "",
        "score": None if answer is None else float(answer.strip() == reference.strip()),
        "tstamp": 0.0,
    }
    if answer is None:
        row |= {"failed": True, "reason": one.reasons.get(turn, "missing")}
    return row
