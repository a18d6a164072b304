"""The report in all its forms: the same figures, escaped texts, one curve per model."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from parrot_jax.cli import main


def write_run(folder: Path, rows: list[dict[str, Any]]) -> Path:
    path = folder / "model_judgment" / "gpt-4_single.jsonl"
    path.parent.mkdir(parents=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def rows(model: str, *, history: str = "own", shift: int = 0) -> list[dict[str, Any]]:
    """Three questions of twelve turns; turn t of question q scores 9 - t // 3 + q - shift."""
    return [
        {
            "question_id": q, "model": model if history == "own" else f"{model}@{history}",
            "turn": t, "history": history, "judge": ["gpt-4", "p"], "repeat": repeat,
            "category": ("math", "writing")[q % 2],
            "score": max(1, 9 - t // 3 - q % 2 - shift) + repeat % 2,
        }
        for q in range(3) for t in range(1, 13) for repeat in range(2)
    ]  # fmt: skip


@pytest.fixture
def run(tmp_path: Path) -> Path:
    evil = "<script>alert(1)</script> | [b]x[/b]"
    failed = {
        "question_id": 9, "model": "a", "turn": 1, "history": "own", "judge": ["gpt-4", "p"],
        "score": None, "failed": True, "reason": evil,
    }  # fmt: skip
    unscored = {**failed, "question_id": 10, "failed": False, "reason": "no [[number]]"}
    return write_run(
        tmp_path / "run",
        [*rows("a"), *rows("b", shift=1), *rows("a", history="none", shift=3), failed, unscored],
    )


def test_the_json_has_every_figure(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "report", str(run), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [*found["models"]] == ["a", "a@none", "b"]
    a = found["models"]["a"]
    # Two repeats: the mean of s and s + 1.
    assert a["by_turn"]["1"]["mean"] == pytest.approx((9.5 + 8.5 + 9.5) / 3)
    assert a["by_turn"]["12"]["mean"] == pytest.approx((5.5 + 4.5 + 5.5) / 3)
    assert (a["overall"]["scored"], a["overall"]["unscored"], a["overall"]["failed"]) == (36, 1, 1)
    assert a["overall"]["least"] < a["overall"]["mean"] < a["overall"]["most"]
    assert a["by_category"]["writing"]["mean"] == pytest.approx(
        a["by_category"]["math"]["mean"] - 1
    )
    assert a["judge_noise"] == pytest.approx((0.5 / 72) ** 0.5)
    (difference,) = found["differences"]
    assert (difference["a"], difference["b"], difference["mean"]) == ("a", "b", -1.0)
    (history,) = found["histories"]
    assert (history["a"], history["b"], history["is_sure"]) == ("a", "a@none", True)
    assert history["mean"] == -3.0


def test_the_files_say_the_same_and_escape_all_texts(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "report"
    assert main(["evaluate", "report", str(run), "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert {path.name for path in out.iterdir()} == {
        "report.json", "report.md", "report.html", "figure4.svg", "figure4-2.svg",
    }  # fmt: skip
    for text in (said, (out / "report.md").read_text(), (out / "report.html").read_text()):
        assert "turn 12" in text
        assert re.search(r"b − a\b", text)
    page = (out / "report.html").read_text()
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert" in page
    # A curve of all turns, with intervals; and the histories of one model beside each other.
    assert "Score by turn: a, b" in page
    assert "own history" in page
    assert "none history" in page
    assert "\\<script" in (out / "report.md").read_text()
    first = {path.name: path.read_bytes() for path in out.iterdir()}
    assert main(["evaluate", "report", str(run), "--out", str(out)]) == 0
    assert {path.name: path.read_bytes() for path in out.iterdir()} == first


def test_compare_prints_one_sentence(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "compare", f"{run}:a", f"{run}:a@none"]) == 0
    assert "a@none is worse than a by 3.00" in capsys.readouterr().out.replace("\n", " ")
    assert main(["evaluate", "compare", f"{run}:a", f"{run}:b", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["overall"]["mean"] == -1.0
    assert [*found["by_turn"]] == [str(turn) for turn in range(1, 13)]
    assert main(["evaluate", "compare", str(run), str(run)]) == 2
    assert "has several models; name one" in capsys.readouterr().err
