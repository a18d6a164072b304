"""Judgments in the JSON-lines files of FastChat's llm_judge: parsing and writing."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

from parrot_jax.core.files import atomic_write
from parrot_jax.dialogue.raw_rows import BrokenRowError
from parrot_jax.evaluate.rows import count_at, name_at, text_at, unicode_at

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
            judge_at(row),
            (_text(row, "g1_judgment"), _text(row, "g2_judgment")),
            (_winner(row, "g1_winner"), _winner(row, "g2_winner")),
        )
    return GradedTurn(
        name_at(row, "model"),
        name_at(row, "question_id"),
        count_at(row, "turn"),
        judge_at(row),
        _text(row, "judgment"),
        row.get("score"),
    )


def judge_at(row: dict[str, Any]) -> str:
    """The judge's model; empty if none is named.

    FastChat's second entry names the prompt, one per kind of question.

    Raises:
      BrokenRowError: It is not a name.
    """
    judge = row.get("judge")
    if isinstance(judge, list) and judge:
        judge = judge[0]
    if judge is None:
        return ""
    if not isinstance(judge, str):
        raise BrokenRowError("no name in `judge`", f"found {judge!r:.60}")
    return unicode_at("judge", judge)


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
