"""Judgments in the JSON-lines files of FastChat's llm_judge: parsing and writing."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

from parrot_jax.core.files import atomic_write
from parrot_jax.dialogue.raw_rows import BrokenRowError
from parrot_jax.evaluate.rows import count_at, name_at, text_at

FOLDER = "model_judgment"
"""In the folder of a run."""


class GradedTurn(NamedTuple):
    """A judge's text about one turn of one model."""

    model: str
    question_id: str
    turn: int
    """From 1."""
    judge: str
    text: str
    stored_score: Any
    """As it was found; None = the row has none."""


class ComparedTurn(NamedTuple):
    """A judge's texts about one turn of two models, in both orders."""

    models: tuple[str, str]
    question_id: str
    turn: int
    judge: str
    texts: tuple[str, str]
    """The first has model 1 as assistant A, the second has model 2 as assistant A."""
    stored_winners: tuple[str | None, str | None]
    """`model_1`, `model_2`, `tie` or `error`; None = the row has none."""


def parse_judgment(row: dict[str, Any]) -> GradedTurn | ComparedTurn:
    """Parses a row of `model_judgment/`.

    Raises:
      BrokenRowError: A key is missing or has a wrong type.
    """
    if "model_1" in row or "g1_judgment" in row:
        return ComparedTurn(
            (name_at(row, "model_1"), name_at(row, "model_2")),
            name_at(row, "question_id"),
            count_at(row, "turn"),
            _judge(row),
            (_text(row, "g1_judgment"), _text(row, "g2_judgment")),
            (_winner(row, "g1_winner"), _winner(row, "g2_winner")),
        )
    return GradedTurn(
        name_at(row, "model"),
        name_at(row, "question_id"),
        count_at(row, "turn"),
        _judge(row),
        _text(row, "judgment"),
        row.get("score"),
    )


def _judge(row: dict[str, Any]) -> str:
    """The judge's model. FastChat's second entry names the prompt, one per kind of question."""
    judge = row.get("judge")
    if judge is None:
        return ""
    if isinstance(judge, list) and judge and isinstance(judge[0], str):
        return judge[0]
    if isinstance(judge, str):
        return judge
    raise BrokenRowError("no name in `judge`", f"found {judge!r:.60}")


def _text(row: dict[str, Any], key: str) -> str:
    """The judge's text; null is a judge that said nothing."""
    return "" if row.get(key, "") is None else text_at(row, key)


def _winner(row: dict[str, Any], key: str) -> str | None:
    return None if row.get(key) is None else text_at(row, key)


def write_judgments(
    out: Path, judge: str, kind: Literal["single", "pair"], rows: Iterable[Mapping[str, Any]]
) -> Path:
    """Writes the judgments of a run, atomically, under the name that FastChat gives the file."""
    path = out / FOLDER / f"{judge}_{kind}.jsonl"
    with atomic_write(path) as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    return path
