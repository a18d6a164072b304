"""The exam: a model answers dialogues of eight questions; each answer is right or wrong.

As in MT-Bench++, the questions are fixed and the model's own answers are in its context. The true
answer depends only on the earlier questions, so a wrong answer costs one point.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from parrot_jax.core.errors import UserError
from parrot_jax.core.files import atomic_write, open_input
from parrot_jax.dialogue.types import Role
from parrot_jax.train.run_folder import RunFolder
from parrot_jax.train.sample import sample_next_turns
from parrot_jax.weights.model_folder import load_params

_MAX_ANSWER_TOKENS = 32


def take_exam(run: Path, exam: Path, out: Path) -> None:
    """Runs the newest checkpoint of a run on every dialogue of an exam, with greedy decoding.

    Args:
      run: A run folder with task `chat`.
      exam: `exam.jsonl` of a world: dialogues with the true answers.
      out: JSON lines, written atomically: `{id, kinds, questions, truths, answers, right}`, the
        last five being lists with one entry per turn.

    Raises:
      UserError: A file is missing or damaged.
    """
    dialogues = _read_rows(exam, "id", "kinds", "messages")
    questions = [[m["content"] for m in d["messages"] if m["role"] == "user"] for d in dialogues]
    truths = [[m["content"] for m in d["messages"] if m["role"] == "assistant"] for d in dialogues]
    answers = _answer(run, questions)
    with atomic_write(out) as file:
        for dialogue, asked, true, said in zip(dialogues, questions, truths, answers, strict=True):
            row: dict[str, Any] = {
                "id": dialogue["id"],
                "kinds": dialogue["kinds"],
                "questions": asked,
                "truths": true,
                "answers": said,
                "right": [a == b for a, b in zip(true, said, strict=True)],
            }
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def _answer(run: Path, questions: Sequence[Sequence[str]]) -> list[list[str]]:
    """Returns the model's answers; generates one turn of all dialogues at a time."""
    folder = RunFolder(run)
    config = folder.load_config()
    template, params = folder.load_template(), load_params(str(run))
    histories: list[list[tuple[Role, str]]] = [[] for _ in questions]
    for turn in range(max(map(len, questions))):
        for history, asked in zip(histories, questions, strict=True):
            history.append(("user", asked[turn]))
        replies = sample_next_turns(
            config.model,
            params,
            template,
            [template.prompt("", history) for history in histories],
            max_new_tokens=_MAX_ANSWER_TOKENS,
            seed=0,
            compute_dtype=jnp.dtype(config.compute_dtype),
        )
        for history, reply in zip(histories, replies, strict=True):
            history.append(("assistant", reply.text))
    return [[text for role, text in history if role == "assistant"] for history in histories]


def accuracy_by_turn(results: Path) -> list[float]:
    """Returns the share of right answers at each turn, from a file of `take_exam`."""
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
                    f"{path}:{number} is not a JSON object with {', '.join(keys)}; a stage of the "
                    "quickstart writes this file: remove the folder and run the quickstart again."
                )
            rows.append(row)
    return rows
