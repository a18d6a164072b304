"""Judgments as logs of Inspect, for `inspect view`: one log for each model, history and judge.

Inspect computes the mean and its standard error itself, from the scores in the log. A sample is one
turn of one question, an epoch is one judgment of it, and the standard error is clustered by
question. A turn without a rating has Inspect's mark of an unscored sample; a turn without an answer
is a sample with an error. Neither counts.

Source: inspect_ai 0.3.285, `inspect_ai.log`, `Score.unscored` and `stderr(cluster=...)`.
"""

import hashlib
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from parrot_jax.core.errors import UserError, disk_full_is_a_user_error
from parrot_jax.core.paths import require_local_folder
from parrot_jax.evaluate.rows import Rejected, read_rows
from parrot_jax.evaluate.scores import Grade, Scores, grade_files, parse_grade
from parrot_jax.version import __version__

_SCORER = "rating"


class _Judged(NamedTuple):
    """A judgment, and its whole row."""

    grade: Grade
    row: dict[str, Any]


def require_inspect() -> None:
    """Checks that Inspect is installed.

    Raises:
      UserError: It is not.
    """
    try:
        import inspect_ai  # noqa: F401  # pyright: ignore[reportMissingImports] - an extra
    except ImportError as error:
        raise UserError(
            f"logs for Inspect need the package inspect-ai ({error}): "
            "`pip install 'parrot-jax[inspect]'`, or leave out --inspect."
        ) from None


def write_inspect_logs(paths: Sequence[Path | str], scores: Scores, out: Path) -> list[Path]:
    """Writes one `.eval` file for each series of scores, atomically.

    Args:
      paths: What `scores` was read from; its rows are read again, with all their texts.
      scores: From `read_scores`.
      out: The folder of the logs; logs of the same names are replaced.

    Returns:
      The written files.

    Raises:
      UserError: Inspect is not installed, or `out` cannot be a folder.
      DiskFullError: The disk is full.
    """
    require_inspect()
    require_local_folder(str(out), "--inspect")
    from inspect_ai.log import write_eval_log  # pyright: ignore[reportMissingImports]

    judged: dict[tuple[str, str, str], list[_Judged]] = {}
    for path in paths:
        for file in grade_files(path):
            for one in read_rows(file, lambda row: _Judged(parse_grade(row), row), Rejected()):
                key = (one.grade.model, one.grade.history, one.grade.judge)
                judged.setdefault(key, []).append(one)
    named = scores.labels()
    names = _file_names([*named])
    out.mkdir(parents=True, exist_ok=True)
    with disk_full_is_a_user_error(f"the logs in {out}"):
        for label, one in named.items():
            log = _log(label, judged[one.model, one.history, one.judge])
            write_eval_log(log, out / names[label], format="eval")
    return [out / name for name in names.values()]


def _log(label: str, judged: Sequence[_Judged]) -> Any:
    """The log of one series, with its aggregated scores."""
    from inspect_ai.log import (  # pyright: ignore[reportMissingImports]
        EvalLog,
        recompute_metrics,
    )

    first = judged[0].grade
    samples = [_sample(one) for one in judged]
    ids = list(dict.fromkeys(sample["id"] for sample in samples))
    times = [sample["completed_at"] for sample in samples if "completed_at" in sample]
    created = min(times, default=datetime.now(UTC).isoformat(timespec="seconds"))
    # With one question, Inspect would give a standard error of 0.
    metrics: list[dict[str, Any]] = [{"name": "inspect_ai/mean"}]
    if len({one.grade.place.question for one in judged if one.grade.score is not None}) > 1:
        metrics.append({"name": "inspect_ai/stderr", "options": {"cluster": "question"}})
    log = EvalLog.model_validate(
        {
            "status": "success",
            "eval": {
                "eval_id": _id(label, created, "eval"),
                "run_id": _id(label, created, "run"),
                "task_id": _id(label, created, "task"),
                "created": created,
                "task": f"grades-{first.history}",
                "model": first.model,
                "model_roles": {"grader": {"model": first.judge or "unnamed"}},
                "dataset": {"samples": len(ids), "sample_ids": ids},
                "config": {
                    "epochs": 1 + max(one.grade.repeat for one in judged),
                    "epochs_reducer": ["mean"],
                },
                "scorers": [{"name": _SCORER, "metrics": metrics}],
                "packages": {"parrot_jax": __version__},
                "metadata": {
                    "history": first.history,
                    "judge": first.judge,
                    "scale": list(first.scale),
                },
            },
            "stats": {"started_at": created, "completed_at": max(times, default=created)},
            "samples": samples,
        }
    )
    recompute_metrics(log)
    return log


def _sample(judged: _Judged) -> dict[str, Any]:
    """One judgment as Inspect's `EvalSample`."""
    grade, row = judged
    shown = _text(row, "user_prompt") or _text(row, "question")
    answer = _text(row, "answer")
    sample: dict[str, Any] = {
        "id": f"{grade.place.question}-{grade.place.turn}",
        "epoch": 1 + grade.repeat,
        "input": shown,
        "target": "",
        "output": {"model": grade.model},
        "metadata": {
            "question": grade.place.question,
            "turn": grade.place.turn,
            "history": grade.history,
            "category": grade.category,
            "judge": grade.judge,
        },
    }
    if answer:
        reply = {"role": "assistant", "content": answer}
        sample["messages"] = [{"role": "user", "content": shown}, reply]
        sample["output"]["choices"] = [{"message": reply}]
    if grade.score is None:
        sample["metadata"]["reason"] = grade.reason
    if grade.asker_stop:
        sample["metadata"]["asker_stop"] = grade.asker_stop
    if grade.failed:
        sample["error"] = {"message": grade.reason, "traceback": "", "traceback_ansi": ""}
    else:
        sample["scores"] = {_SCORER: _score(grade, _text(row, "judgment"))}
    at = row.get("tstamp")
    if isinstance(at, int | float) and 0 < at < 2**33:
        sample["completed_at"] = datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds")
    return sample


def _text(row: dict[str, Any], key: str) -> str:
    """The text under a key; empty if it is absent or something else."""
    value = row.get(key)
    return value if isinstance(value, str) else ""


def _score(grade: Grade, judgment: str) -> Any:
    from inspect_ai.scorer import Score  # pyright: ignore[reportMissingImports]

    if grade.score is None:
        return Score.unscored(
            reason="grader_failed", explanation=judgment, metadata={"reason": grade.reason}
        )
    return Score(value=grade.score, explanation=judgment)


def _id(label: str, created: str, what: str) -> str:
    """An id that stays the same when the same judgments are written again."""
    return hashlib.sha256(f"{what} {label} {created}".encode()).hexdigest()[:22]


def _file_names(labels: Sequence[str]) -> dict[str, str]:
    """A file name for each label.

    >>> _file_names(["m@none (gpt-4)", "a b", "a_b"])
    {'m@none (gpt-4)': 'm@none_gpt-4.eval', 'a b': 'a_b.eval', 'a_b': 'a_b-2.eval'}
    """
    names: dict[str, str] = {}
    for label in labels:
        stem = re.sub(r"[^\w.@+-]+", "_", label).strip("._") or "log"
        number = 1
        while (name := f"{stem}{f'-{number}' if number > 1 else ''}.eval") in names.values():
            number += 1
        names[label] = name
    return names
