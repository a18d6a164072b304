"""The exam: a chat model answers dialogues of eight questions; each answer is right or wrong.

As in MT-Bench++, the questions are fixed. The model sees its own earlier answers, the true ones, or
nothing. The true answer depends only on the earlier questions, so a wrong answer costs one point.
The package `evaluate` asks and grades; no judge is needed.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from parrot_jax.api.endpoint_config import JobEndpointConfig
from parrot_jax.core.errors import RunError, UserError
from parrot_jax.core.files import atomic_write, open_input
from parrot_jax.evaluate.answer_config import AnswerConfig, History
from parrot_jax.evaluate.answering import answer
from parrot_jax.evaluate.benchmark import read_benchmark
from parrot_jax.evaluate.conversations import from_sheets
from parrot_jax.evaluate.exact import grade_exactly
from parrot_jax.evaluate.sheets import Sheet
from parrot_jax.loaded_run import load_run
from parrot_jax.serve.app import make_app
from parrot_jax.serve.background import BackgroundServer

_MAX_ANSWER_TOKENS = 32
SERVED_ROWS = 16
"""Rows of a batch, also those of the collection, whose compiled programs serve the exam again."""
_IN_FLIGHT = 200  # enough that batches, of dialogues of equal length, are full
HISTORIES: tuple[History, ...] = ("own", "reference", "none")


def take_exam(
    run: Path, exam: Path, out: Path, *, histories: Sequence[History] = HISTORIES
) -> Path:
    """Serves the newest checkpoint of a run and asks it all questions, with greedy decoding.

    Args:
      run: A run folder with task `chat`; its name is the model's.
      exam: `exam.jsonl` of a world: dialogues with the true answers.
      out: The folder of journal, answers and grades, as `parrot evaluate` writes them. If it holds
        this exam, it is resumed.
      histories: What the model sees before each question.

    Returns:
      A file beside the folder: `{id, kinds, questions, truths, answers, right}` of each dialogue
      with its own answers as history; the last five are lists with one entry per turn.

    Raises:
      UserError: A file is missing or invalid.
      RunError: An answer is missing.
    """
    name = run.name
    with BackgroundServer(make_app(load_run(run).engine(name, batch_rows=SERVED_ROWS))) as server:
        config = AnswerConfig(
            out=str(out),
            benchmark=str(exam),
            answerer=JobEndpointConfig(
                base_url=server.url,
                model=name,
                temperature=0.0,
                max_tokens=_MAX_ANSWER_TOKENS,
                concurrency=_IN_FLIGHT,
            ),
            history=tuple(histories),
        )
        summary = answer(config)
    if summary.problem is not None:
        raise summary.problem
    if missing := [sheet for sheet in summary.sheets if not sheet.is_complete]:
        turn, reason = next(iter(missing[0].reasons.items()))
        raise RunError(
            f"the exam lacks answers to {len(missing):,} dialogues: question "
            f"{missing[0].question_id}, turn {turn}: {reason}."
        )
    grade_exactly(from_sheets(read_benchmark(str(exam)), summary.sheets), out)
    return _write_rows(exam, summary.sheets, out)


def _write_rows(exam: Path, sheets: Sequence[Sheet], out: Path) -> Path:
    answers = {sheet.question_id: sheet.answers for sheet in sheets if sheet.history == "own"}
    path = out.with_name(f"{out.name}.jsonl")
    with atomic_write(path) as file:
        for dialogue in _read_rows(exam, "id", "kinds", "messages"):
            asked, true = (
                [m["content"] for m in dialogue["messages"] if m["role"] == role]
                for role in ("user", "assistant")
            )
            said = answers[dialogue["id"]]
            row: dict[str, Any] = {
                "id": dialogue["id"],
                "kinds": dialogue["kinds"],
                "questions": asked,
                "truths": true,
                "answers": said,
                "right": [a == b for a, b in zip(true, said, strict=True)],
            }
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    return path


def accuracy_by_turn(results: Path) -> list[float]:
    """Share of right answers at each turn, from a file that `take_exam` wrote."""
    right = np.array([row["right"] for row in _read_rows(results, "right")])
    return right.mean(axis=0).tolist()


def _read_rows(path: Path, *keys: str) -> list[dict[str, Any]]:
    rows = []
    with open_input(path) as file:
        for number, line in enumerate(file, 1):
            try:
                row = json.loads(line)
            except ValueError:
                row = None
            if not isinstance(row, dict) or any(key not in row for key in keys):
                raise UserError(
                    f"{path}:{number} is not a JSON object with {', '.join(keys)}; a "
                    "stage of the quickstart writes this file: remove the folder and run it again."
                )
            rows.append(row)
    return rows
