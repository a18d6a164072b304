"""FastChat's judgment files: real ones give their stored scores, faults are counted."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from parrot_jax.cli import main
from parrot_jax.core.errors import UserError
from parrot_jax.evaluate.rescore import rescore


def grade(judgment: str | None, **changes: Any) -> dict[str, Any]:
    row = {"question_id": 81, "model": "m", "judge": ["gpt-4", "single-v1"], "turn": 1}
    return {**row, "judgment": judgment, "score": None, **changes}


@pytest.fixture
def write(tmp_path: Path) -> Any:
    def write(*rows: Any, name: str = "judged.jsonl") -> Path:
        path = tmp_path / name
        lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
        path.write_text("\n".join(lines) + "\n")
        return path

    return write


def test_every_stored_score_of_real_files_is_found_in_its_text(shared_data: Path) -> None:
    paths = sorted((shared_data / "mt_bench" / "model_judgment").iterdir())
    found = rescore(paths)
    rows = [json.loads(line) for path in paths for line in path.read_text().splitlines()]
    assert sum(scores.judgments for scores in found.models.values()) == len(rows) == 800
    for name, scores in found.models.items():
        stored = {
            (str(r["question_id"]), r["turn"]): r["score"] for r in rows if r["model"] == name
        }
        assert scores.scores() == stored
        assert (scores.disagreeing, scores.unscored, scores.duplicates) == (0, 0, 0)
    assert found.models["llama2_chat_7b"].to_json()["mean"] == 6.190625


def test_each_question_and_turn_counts_once_and_the_copies_are_counted(write: Any) -> None:
    path = write(
        grade("[[4]]"), grade("[[4]]"), grade("[[8]]"),
        grade("[[10]]", question_id=82), grade("[[1]]", question_id=82, turn=2),
    )  # fmt: skip
    figures = rescore([path]).to_json()["models"]["m"]
    first = (4 + 4 + 8) / 3
    assert figures["mean"] == pytest.approx((first + 10 + 1) / 3)
    assert figures["mean_by_turn"] == {"1": pytest.approx((first + 10) / 2), "2": 1.0}
    assert (figures["n"], figures["duplicates"], figures["unscored"]) == (3, 2, 0)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "an empty reply"),
        ("$ERROR$", "no [[number]] in the reply"),
        ("Note: sieben von zehn.", "no [[number]] in the reply"),
        ("[[rating]]", "no [[number]] in the reply"),
        ("First [[3]], then [[8]].", "several [[numbers]] in the reply"),
        (None, "an empty reply"),
        ("Rating: [[11]]", "a number out of range"),
        ("Rating: [[0]]", "a number out of range"),
        ("Rating: [[8/10]]", "no plain number in the brackets"),
        ("<think>[[9]]</think> I cannot say.", "no [[number]] in the reply"),
        (f"[[{'9' * 5000}]]", "no plain number in the brackets"),
    ],
)
def test_a_text_without_one_clear_rating_is_unscored_with_its_reason(
    text: str | None, reason: str, write: Any
) -> None:
    found = rescore([write(grade(text, score=-1), grade("[[6]]", question_id=82))])
    scores = found.models["m"]
    assert scores.reasons == {reason: 1}
    assert scores.disagreeing == 0  # FastChat's -1 says the same
    figures = scores.to_json()
    assert (figures["mean"], figures["n"], figures["unscored"]) == (6.0, 1, 1)


@pytest.mark.parametrize(
    ("text", "rating"),
    [("[[7]] .. [[7.0]]", 7.0), ("In the form [[rating]]: [[8.5]]", 8.5), ("Rating: [5]", 5.0),
     ("See [note]. Rating: [6]", 6.0), ("[[ 9 ]]", 9.0)],
)  # fmt: skip
def test_a_rating_may_be_repeated_or_in_single_brackets(
    text: str, rating: float, write: Any
) -> None:
    assert rescore([write(grade(text, score=rating))]).to_json()["models"]["m"]["mean"] == rating


def test_the_text_is_right_where_the_stored_score_disagrees(write: Any) -> None:
    found = rescore([write(
        grade("[[7]]", score=3), grade("[[2]]", score=-1, question_id=82),
        grade("[[3]]", score="3", question_id=83), grade("[[4]]", score=math.nan, question_id=84),
    )])  # fmt: skip
    figures = found.to_json()["models"]["m"]
    # NaN is a missing score, which disagrees with nothing.
    assert (figures["mean"], figures["n"], figures["disagreeing"]) == (4.0, 4, 3)
    assert "question 81, turn 1: stored 3, but the text has 7" in found.examples[0]


def test_a_second_judge_is_not_mixed_with_the_first(write: Any) -> None:
    other = grade("[[2]]", judge=["other", "single-v1"])
    models = rescore([write(grade("[[8]]"), other)]).to_json()["models"]
    assert {name: figures["mean"] for name, figures in models.items()} == {
        "m (gpt-4)": 8.0, "m (other)": 2.0,
    }  # fmt: skip
    # No model is lost, whatever the names are.
    models = rescore([write(grade("[[8]]"), other, grade("[[5]]", model="m (other)"))]).models
    assert sorted(scores.to_json()["mean"] for scores in models.values()) == [2, 5, 8]


def compare(first: str, second: str, **changes: Any) -> dict[str, Any]:
    row = {"question_id": 81, "model_1": "a", "model_2": "b", "judge": ["gpt-4", "pair-v2"]}
    return {**row, "turn": 1, "g1_judgment": first, "g2_judgment": second, **changes}


def test_pairs_count_if_both_orders_agree(write: Any) -> None:
    path = write(
        compare("[[A]]", "[[B]]", g1_winner="model_1", g2_winner="model_1"),
        compare("[[B]]", "[[A]]", question_id=82),
        compare("[[A]]", "[[A]]", question_id=83),  # always the first: a tie
        compare("[[C]]", "[[C]]", question_id=84, g1_winner="model_2", g2_winner="tie"),
        compare("[[A]] or [[B]]", "[[B]]", question_id=85),
        compare("[[A]]", "[[B]]"),
    )
    (pair,) = rescore([path]).to_json()["pairs"]
    assert pair == {
        "model_1": "a", "model_2": "b", "judge": "gpt-4", "wins_1": 1, "wins_2": 1, "ties": 2,
        "win_rate_1": 50.0, "n": 4, "unscored": 1, "duplicates": 1, "disagreeing": 1,
    }  # fmt: skip


def test_rows_that_are_no_judgment_are_reported_with_file_and_line(
    write: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(
        grade("[[6]]"), "{broken", grade("[[7]]", turn=0), grade("[[7]]", model=""),
        {"question_id": 81}, "[1]",
        grade("[[7]]", turn=10**9), grade("[[7]]", model="\ud800"), grade("\ud800 [[7]]"),
    )  # fmt: skip
    assert main(["evaluate", "rescore", str(path), "--json"]) == 0
    printed = capsys.readouterr()
    found = json.loads(printed.out)
    assert found["models"]["m"]["n"] == 1
    assert found["rejected"] == {
        "not valid JSON": 1, "no positive integer in `turn`": 1, "no `model`": 2,
        "not an object": 1, "`turn` is above 100,000": 1,
        "half of a surrogate pair in `model`": 1, "half of a surrogate pair in `judgment`": 1,
    }  # fmt: skip
    assert f"{path}:3: no positive integer in `turn`: found 0" in printed.err
    assert main(["evaluate", "rescore", str(path)]) == 0
    assert f"{path}:2: not valid JSON" in capsys.readouterr().out.replace("\n", "")


def test_files_that_cannot_be_rescored_are_refused(
    write: Any, tmp_path: Path, shared_data: Path
) -> None:
    with pytest.raises(
        UserError, match=r"question.jsonl:1: no `model`: the key is missing. A judg"
    ):
        rescore([shared_data / "mt_bench" / "question.jsonl"])
    with pytest.raises(UserError, match="is a folder; name its files"):
        rescore([tmp_path])
    empty = tmp_path / "empty.jsonl"
    empty.write_text("\n")
    with pytest.raises(UserError, match="empty.jsonl:1: a file without rows"):
        rescore([empty])
    path = write(grade("[[1]]"))
    # Among others, it is reported.
    assert rescore([path, empty]).rejected.reasons == {"a file without rows": 1}
    with pytest.raises(UserError, match="was given twice"):
        rescore([path, str(path)])
    with pytest.raises(UserError, match="none.jsonl"):
        rescore([tmp_path / "none.jsonl"])
