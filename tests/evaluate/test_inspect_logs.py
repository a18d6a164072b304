"""Judgments as logs of Inspect: the library reads our figures back, and nothing unrated is a 0."""

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from parrot_jax.cli import main
from parrot_jax.evaluate.scores import read_scores

inspect = pytest.mark.inspect


def row(question: int, turn: int, score: float | None, repeat: int = 0, **more: Any) -> Any:
    return {
        "question_id": question, "model": "m", "turn": turn, "repeat": repeat, "score": score,
        "history": "own", "category": "math", "judge": ["gpt-4", "grade"],
        "user_prompt": f"Grade {question}, {turn}", "judgment": "I think so.", "tstamp": 1.7e9,
    } | more  # fmt: skip


# Turn means 7, 3 and 9; one turn that no judgment rates; one without an answer.
ROWS = [
    row(81, 1, 8), row(81, 1, 6, 1),
    row(81, 2, 3), row(81, 2, None, 1, reason="no rating"),
    row(82, 1, 9), row(82, 1, 9, 1, answer="Four."),
    row(82, 2, None, reason="no rating"), row(82, 2, None, 1, reason="no rating"),
    row(83, 1, None, failed=True, reason="filtered", judgment=""),
]  # fmt: skip


def write(path: Path, rows: list[Any]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def write_logs(tmp_path: Path, rows: list[Any]) -> Path:
    judged = write(tmp_path / "judged.jsonl", rows)
    assert main(["evaluate", "report", judged, "--inspect", str(tmp_path / "logs")]) == 0
    return tmp_path / "logs"


def figures(log: Any) -> dict[str, float]:
    (score,) = log.results.scores
    return {name: metric.value for name, metric in score.metrics.items()}


@inspect
def test_inspect_reads_the_scores_and_computes_their_mean(tmp_path: Path) -> None:
    from inspect_ai.log import read_eval_log

    log = read_eval_log(str(write_logs(tmp_path, ROWS) / "m.eval"))
    assert (log.eval.model, log.eval.task, log.eval.config.epochs) == ("m", "grades-own", 2)
    assert log.eval.model_roles["grader"].model == "gpt-4"
    samples = {(sample.id, sample.epoch): sample for sample in log.samples}
    assert len(samples) == 9
    assert samples["81-1", 2].scores["rating"].value == 6
    assert samples["81-1", 2].scores["rating"].explanation == "I think so."
    assert samples["81-1", 2].input == "Grade 81, 1"
    assert samples["81-1", 2].output.completion == ""  # unknown
    assert samples["82-1", 2].output.completion == "Four."
    assert samples["81-1", 2].metadata == {
        "question": "81", "turn": 1, "history": "own", "category": "math", "judge": "gpt-4",
    }  # fmt: skip
    # Question 81 is 2.67 below the mean in total, 82 is 2.67 above: sqrt(2 * 2 * 2.67²) / 3 turns.
    assert figures(log) == {
        "mean": pytest.approx((7 + 3 + 9) / 3), "stderr": pytest.approx(2 * (8 / 3) / 3)
    }  # fmt: skip
    (score,) = log.results.scores
    assert (score.scored_samples, score.unscored_samples) == (3, 1)
    (ours,) = read_scores([tmp_path / "judged.jsonl"]).labels().values()
    assert ours.estimate().mean == pytest.approx(figures(log)["mean"])


@inspect
def test_a_turn_without_a_rating_is_unscored_and_one_without_an_answer_an_error(
    tmp_path: Path,
) -> None:
    from inspect_ai.log import read_eval_log

    log = read_eval_log(str(write_logs(tmp_path, ROWS) / "m.eval"))
    samples = {(sample.id, sample.epoch): sample for sample in log.samples}
    unrated = samples["82-2", 1]
    assert math.isnan(unrated.scores["rating"].value)
    assert unrated.scores["rating"].explanation == "I think so."
    assert (unrated.metadata["reason"], unrated.error) == ("no rating", None)
    failed = samples["83-1", 1]
    assert (failed.scores, failed.error.message) == (None, "filtered")
    assert (log.results.total_samples, log.results.completed_samples) == (9, 8)


@inspect
def test_no_figure_is_invented(tmp_path: Path) -> None:
    """Without any rating the mean is not a number; one question has no standard error."""
    from inspect_ai.log import read_eval_log

    rows = [row(81, 1, None, model="none"), row(81, 1, 4, model="one"), row(81, 2, 6, model="one")]
    logs = write_logs(tmp_path, rows)
    assert math.isnan(figures(read_eval_log(str(logs / "none.eval")))["mean"])
    assert figures(read_eval_log(str(logs / "one.eval"))) == {"mean": 5}


@inspect
def test_each_model_history_and_judge_has_its_log(tmp_path: Path) -> None:
    rows = [
        row(81, 1, 5), row(81, 1, 6, judge=["exact", ""], scale=[1, 10]),
        row(81, 1, 7, model="m@none", history="none"),
    ]  # fmt: skip
    logs = write_logs(tmp_path, rows)
    assert {path.name for path in logs.iterdir()} == {
        "m_exact.eval", "m_gpt-4.eval", "m@none_gpt-4.eval"
    }  # fmt: skip


@inspect
def test_the_command_of_inspect_shows_the_published_judgments(
    tmp_path: Path, shared_data: Path
) -> None:
    judged = shared_data / "mt_bench" / "model_judgment" / "llama2_7b_family.jsonl"
    assert main(["evaluate", "report", str(judged), "--inspect", str(tmp_path)]) == 0
    file = tmp_path / "llama2_chat_7b.eval"
    done = subprocess.run(
        [sys.executable, "-m", "inspect_ai", "log", "dump", str(file)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    log = json.loads(done.stdout)
    (score,) = log["results"]["scores"]
    ours = read_scores([judged]).labels()["llama2_chat_7b"].estimate()
    assert score["metrics"]["mean"]["value"] == pytest.approx(ours.mean)
    assert round(score["metrics"]["mean"]["value"], 2) == 6.19
    assert ours.low is not None
    assert ours.high is not None
    standard_error = (ours.high - ours.low) / (2 * 1.96)
    assert score["metrics"]["stderr"]["value"] == pytest.approx(standard_error, rel=0.1)
    assert len(log["samples"]) == 160
    (sample,) = [one for one in log["samples"] if one["id"] == "86-1"]
    assert sample["input"].startswith("[Instruction]")
    assert "Rating: [[" in sample["scores"]["rating"]["explanation"]


def test_without_the_extra_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "inspect_ai", None)  # as if it were not installed
    judged = write(tmp_path / "judged.jsonl", ROWS)
    out, logs = tmp_path / "report", tmp_path / "logs"
    assert main(["evaluate", "report", judged, "--out", str(out), "--inspect", str(logs)]) == 2
    error = capsys.readouterr().err
    assert "`pip install 'parrot-jax[inspect]'`" in error
    assert error.count("\n") == 1
    assert not out.exists()
    assert not logs.exists()
