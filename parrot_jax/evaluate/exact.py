"""Grades answers by comparing them with the references, without a judge: 1 = equal, 0 = not."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from parrot_jax.core.files import atomic_write
from parrot_jax.evaluate.conversations import Conversation

JUDGE = "exact"


def grade_exactly(conversations: Sequence[Conversation], out: Path) -> Path:
    """Writes the grades of answers that are either right or wrong, as a judge's are written.

    Args:
      conversations: Turns without a reference are left out.
      out: A folder; `parrot evaluate report` reads it.

    Returns:
      The file.
    """
    path = out / "model_judgment" / f"{JUDGE}_single.jsonl"
    with atomic_write(path) as file:
        for one in conversations:
            for turn, reference in enumerate(one.references, 1):
                if reference is not None:
                    row = _row(one, turn, reference)
                    file.write(json.dumps(row, ensure_ascii=False) + "\n")
    return path


def _row(one: Conversation, turn: int, reference: str) -> dict[str, Any]:
    answer = one.answers[turn - 1]
    row: dict[str, Any] = {
        "question_id": one.question_id,
        "model": one.model if one.history == "own" else f"{one.model}@{one.history}",
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
