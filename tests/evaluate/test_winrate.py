"""AlpacaEval's win rate: equal to the published leaderboards, with the rows that lack one."""

import csv
import json
import math
from pathlib import Path
from typing import Any

import pytest

from parrot_jax.cli import main
from parrot_jax.core.errors import UserError
from parrot_jax.evaluate.winrate import win_rates


def annotation(preference: Any, instruction: str = "Why?", **changes: Any) -> dict[str, Any]:
    row = {"instruction": instruction, "generator_1": "base", "generator_2": "m", "annotator": "j"}
    return {**row, "preference": preference, **changes}


def write(path: Path, *rows: Any) -> Path:
    path.write_text(json.dumps(rows))
    return path


@pytest.mark.parametrize(
    ("leaderboard", "annotations"),
    [("leaderboard_v1_gpt4", "v1_annotations"), ("leaderboard_v2_weighted", "v2_annotations")],
)
def test_the_published_win_rates_are_reproduced(
    leaderboard: str, annotations: str, shared_data: Path
) -> None:
    with (shared_data / "alpaca_eval" / f"{leaderboard}.csv").open() as file:
        published = {row[""]: row for row in csv.DictReader(file)}
    for path in (shared_data / "alpaca_eval" / annotations).iterdir():
        ((name, figures),) = win_rates([path]).to_json()["models"].items()
        assert figures["win_rate"] == pytest.approx(float(published[name]["win_rate"]), abs=1e-6)
        assert figures["n"] == int(published[name]["n_total"])
        low, high = figures["interval"]
        error = float(published[name]["standard_error"])
        assert (high - low) / (2 * 1.96 * error) == pytest.approx(1, abs=0.1)


def test_draws_are_half_and_rows_without_a_preference_do_not_count(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.json",
        annotation(2, "a"), annotation(1, "b"), annotation(0, "c"), annotation(1.5, "d"),
        annotation(1.25, "e"), annotation(None, "f"),
        annotation(math.nan, "n"),  # as Python writes a missing value of pandas
        annotation(2, "g"), annotation(1, "g"),  # twice: one instruction
    )  # fmt: skip
    figures = win_rates([path]).to_json()["models"]["m"]
    assert figures["win_rate"] == pytest.approx(100 * (1 + 0 + 0.5 + 0.5 + 0.25 + 0.5) / 6)
    assert (figures["n"], figures["missing"], figures["duplicates"]) == (6, 2, 1)


def test_annotators_and_baselines_are_not_mixed(tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", annotation(2), annotation(1, annotator="k"))
    assert {n: f["win_rate"] for n, f in win_rates([path]).to_json()["models"].items()} == {
        "m (j against base)": 100.0, "m (k against base)": 0.0,
    }  # fmt: skip


def test_invalid_rows_are_rejected_and_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(
        tmp_path / "a.json",
        annotation(2), annotation(3), annotation(-1), annotation("2"), annotation(True),
        {"instruction": "Why?"}, annotation(2, annotator={"name": "j"}),
    )  # fmt: skip
    assert main(["evaluate", "winrate", str(path), "--json"]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["models"]["m"]["n"] == 1
    assert json.loads(printed.out)["rejected"] == {
        "a preference out of range": 2, "no number in `preference`": 2, "no `generator_2`": 1,
        "no text in `annotator`": 1,
    }  # fmt: skip
    assert f"{path}:1: a preference out of range: 3 is not 0 or in [1, 2]" in printed.err
    assert main(["evaluate", "winrate", str(path)]) == 0
    shown = capsys.readouterr().out
    assert "100.00" in shown
    assert "rejected rows: " in shown


def test_a_file_without_annotations_is_refused(shared_data: Path) -> None:
    with pytest.raises(UserError, match="no annotation was found in .*: no `generator_2`"):
        win_rates([shared_data / "alpaca_eval" / "model_outputs" / "text_davinci_003.json"])
