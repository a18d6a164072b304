"""The report in all its forms: the same figures, escaped texts, one curve per model."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from parrot_jax.cli import main
from parrot_jax.evaluate.answer_config import History
from parrot_jax.evaluate.comparing import differences
from parrot_jax.evaluate.scores import read_scores
from parrot_jax.evaluate.summary import make_report


def write_run(folder: Path, rows: list[dict[str, Any]]) -> Path:
    path = folder / "model_judgment" / "gpt-4_single.jsonl"
    path.parent.mkdir(parents=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def rows(model: str, *, history: str = "own", shift: int = 0) -> list[dict[str, Any]]:
    """Twelve questions of twelve turns; turn t of question q scores 9 - t // 3 - q % 2 - shift."""
    return [
        {
            "question_id": q, "model": model if history == "own" else f"{model}@{history}",
            "turn": t, "history": history, "judge": ["gpt-4", "p"], "repeat": repeat,
            "category": ("math", "writing")[q % 2],
            "score": max(1, 9 - t // 3 - q % 2 - shift) + repeat % 2,
        }
        for q in range(12) for t in range(1, 13) for repeat in range(2)
    ]  # fmt: skip


@pytest.fixture
def run(tmp_path: Path) -> Path:
    evil = "<script>alert(1)</script> | [b]x[/b]"
    failed = {
        "question_id": 99, "model": "a", "turn": 1, "history": "own", "judge": ["gpt-4", "p"],
        "score": None, "failed": True, "reason": evil,
    }  # fmt: skip
    unscored = {**failed, "question_id": 100, "failed": False, "reason": "no [[number]]"}
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
    assert a["by_turn"]["1"]["mean"] == 9.0
    assert a["by_turn"]["12"]["mean"] == 5.0
    assert (a["overall"]["scored"], a["overall"]["unscored"], a["overall"]["failed"]) == (144, 1, 1)
    assert a["overall"]["least"] < a["overall"]["mean"] < a["overall"]["most"]
    assert a["by_category"]["writing"]["mean"] == pytest.approx(
        a["by_category"]["math"]["mean"] - 1
    )
    assert a["judge_noise"] == pytest.approx((0.5 / 288) ** 0.5)
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
    path = run / "model_judgment" / "gpt-4_single.jsonl"
    path.write_text(path.read_text() + "{broken\n")
    assert main(["evaluate", "compare", f"{run}:a", f"{run}:b", "--json"]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["rejected"] == {"not valid JSON": 1}
    assert "gpt-4_single.jsonl:" in printed.err
    assert main(["evaluate", "compare", f"{run}:a", f"{run}:b"]) == 0
    assert "rejected rows: not valid JSON 1" in capsys.readouterr().out
    assert main(["evaluate", "compare", str(run), str(run)]) == 2
    assert "has several models; name one" in capsys.readouterr().err


def test_a_table_of_differences_is_one_family(tmp_path: Path) -> None:
    """Two models with three histories have three differences, not three times one."""
    histories: list[History] = ["own", "reference", "none"]
    run = write_run(
        tmp_path / "run",
        [row for history in histories for shift, model in enumerate("ab")
         for row in rows(model, history=history, shift=shift)],
    )  # fmt: skip
    scores = read_scores([run])
    named, report = scores.labels(), make_report(scores)
    models = [((f"a{end}", named[f"a{end}"]), (f"b{end}", named[f"b{end}"]))
              for end in ("", "@reference", "@none")]  # fmt: skip
    assert report.pairs == differences(models)
    assert [(one.first, one.second) for one in report.histories] == [
        ("a", "a@reference"), ("a", "a@none"), ("b", "b@reference"), ("b", "b@none"),
    ]  # fmt: skip


def test_a_report_without_any_score(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    unscored = {"question_id": 1, "model": "a", "turn": 1, "judge": ["gpt-4", "p"], "score": None}
    run, out = write_run(tmp_path / "run", [unscored]), tmp_path / "report"
    (out / "figure4-2.svg").parent.mkdir()
    (out / "figure4-2.svg").write_text("of an earlier report")
    assert main(["evaluate", "report", str(run), "--out", str(out)]) == 0
    assert {path.name for path in out.iterdir()} == {"report.json", "report.md", "report.html"}
    assert "no clear rating: no rating 1" in capsys.readouterr().out
