"""The report: small files whose figures can be checked by eye, and a simulated annotation."""

import json
import sqlite3
from pathlib import Path

import numpy as np
import pytest

from parrot_jax.annotate.items import Item, Round
from parrot_jax.annotate.results import make_results
from parrot_jax.annotate.verdict_file import VerdictFile
from parrot_jax.cli import main

from .conftest import items_of, write


def test_counts_rates_and_agreement_of_a_small_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    items = items_of(*[("a",)] * 4, *[("b",)] * 4)
    path = write(tmp_path / "a.sqlite", "human-like", items, {"Ada": "hhhnnnnh", "Bo": "hhsnhnn."})
    found = make_results(path).to_json()
    assert (found["judged"], found["skipped"], found["missing"]) == (14, 1, 1)
    a, b = found["sources"]["a"], found["sources"]["b"]
    assert (a["mean"], a["verdicts"], a["skipped"], a["missing"]) == (5 / 7, 7, 1, 0)
    assert (b["mean"], b["verdicts"], b["skipped"], b["missing"]) == (2 / 7, 7, 0, 1)
    assert found["annotators"]["Bo"]["mean"] == 3 / 6
    (difference,) = found["differences"]
    assert difference["mean"] == pytest.approx(2 / 7 - 5 / 7)
    assert difference["is_paired"] is False
    # Both judged six items: hh hh nn nh nn nn, so 5 h and 7 n. Krippendorff's observed disagreement
    # is 2 / 12, the expected one 2 x 5 x 7 / (12 x 11).
    agreement = found["agreement"]
    assert (agreement["pairs"], agreement["same"]) == (6, 5 / 6)
    assert agreement["alpha"] == pytest.approx(1 - (2 / 12) / (70 / 132))
    assert main(["annotate", "report", str(path), "--out", str(tmp_path / "r.html")]) == 0
    printed = capsys.readouterr().out
    assert "71.4 %" in printed
    assert "Krippendorff's alpha" in printed
    page = (tmp_path / "r.html").read_text()
    assert "71.4 %" in page
    assert "<script" not in page
    assert main(["annotate", "report", str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(json.dumps(found))


def test_an_undone_verdict_does_not_count(tmp_path: Path) -> None:
    path = tmp_path / "a.sqlite"
    with VerdictFile(path, {"task": "human-like"}, items_of(("a",), ("a",))) as file:
        file.take_back(file.add("Ada", 1, "human-like"))
        file.add("Ada", 1, "not")
    found = make_results(path).to_json()
    assert (found["sources"]["a"]["mean"], found["judged"], found["undone"]) == (0, 1, 1)
    assert found["sources"]["a"]["low"] is None  # one dialogue


def test_grades_of_two_models_are_paired_by_question_and_person(tmp_path: Path) -> None:
    items = [Item((model,), f"q{n}", 1, (Round("Q", ("A",)),)) for model in "mn" for n in (1, 2, 3)]
    path = write(tmp_path / "a.sqlite", "grade", items, {"Ada": "258379", "Bo": "147268"})
    found = make_results(path).to_json()
    assert found["sources"]["m"]["mean"] == 4.5  # 2, 5, 8 and 1, 4, 7
    (difference,) = found["differences"]
    # Both raise the grades by 1, 2, 1: mean 4 / 3, and each question has the same for both. The
    # standard error is the root of (1/9 + 4/9 + 1/9) / 2 / 3, and t with 2 degrees is 4.3027.
    half = 4.302653 * (1 / 9) ** 0.5
    ends = (4 / 3, 4 / 3 - half, 4 / 3 + half)
    assert (difference["mean"], difference["low"], difference["high"]) == pytest.approx(ends)
    assert (difference["is_paired"], difference["verdicts"]) == (True, 6)
    assert found["agreement"]["scale"] == "interval"


def test_a_win_is_of_the_model_whose_name_comes_first_on_whichever_side(tmp_path: Path) -> None:
    items = items_of(("m", "n"), ("n", "m"), ("n", "m"), ("m", "n"), turn=1)
    path = write(tmp_path / "a.sqlite", "compare", items, {"Ada": "lrlt"})
    found = make_results(path).to_json()
    assert found["sources"]["m against n"]["mean"] == 2.5 / 4
    assert found["differences"] == []
    assert found["agreement"]["alpha"] is None  # one annotator


def graded(path: Path, *rows: tuple[str, int, str]) -> str:
    path.write_text(
        "".join(
            json.dumps({"question_id": q, "model": "m", "turn": 1, "judge": ["gpt", "x"],
                        "judgment": said, "score": turn}) + "\n"
            for q, turn, said in rows
        )
    )  # fmt: skip
    return str(path)


def test_people_against_a_judge_that_grades(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    items = [Item(("m",), f"q{n}", 1, (Round("Q", ("A",)),)) for n in range(4)]
    path = write(tmp_path / "a.sqlite", "grade", items, {"Ada": "2468", "Bo": "3468"})
    file = graded(
        tmp_path / "gpt_single.jsonl", ("q0", 2, "[[2]]"), ("q1", 4, "[[5]]"), ("q2", 9, "[[9]]"),
        ("q3", -1, "no rating"), ("other", 3, "[[3]]"),
    )  # fmt: skip
    found = make_results(path, [file]).to_json()
    (judge,) = found["judges"]
    assert judge["same"]["mean"] == 1 / 6  # of 2-2 3-2 4-5 4-5 6-9 6-9
    assert judge["near"] == 4 / 6
    assert judge["excess"]["mean"] == pytest.approx((0 - 1 + 1 + 1 + 3 + 3) / 6)
    # Quadratic weights: observed 0 + 1 + 1 + 1 + 9 + 9 = 21 over 6 pairs; expected over 36 pairs of
    # people {2, 3, 4, 4, 6, 6} and judge {2, 2, 5, 5, 9, 9}.
    expected = sum((p - j) ** 2 for p in (2, 3, 4, 4, 6, 6) for j in (2, 2, 5, 5, 9, 9)) / 6
    assert judge["kappa"] == pytest.approx(1 - 21 / expected)
    assert judge["not_judged"] == 2
    assert found["unclear"] == {"gpt": 1}
    assert [one["question"] for one in judge["partings"]] == ["q2", "q1", "q0"]
    assert main(["annotate", "report", str(path), "--judgments", file]) == 0
    printed = capsys.readouterr().out
    assert "Where people and gpt part" in printed
    assert "1 judgments of gpt have no clear verdict" in printed


def test_people_against_a_judge_that_compares(tmp_path: Path) -> None:
    items = items_of(("b", "a"), ("a", "b"), ("a", "b"), turn=1)
    path = write(tmp_path / "a.sqlite", "compare", items, {"Ada": "rlt"})
    file = tmp_path / "gpt_pair.jsonl"
    rows = [
        {"question_id": f"d{n}", "model_1": "b", "model_2": "a", "turn": 1, "judge": ["gpt", "x"],
         "g1_judgment": first, "g2_judgment": second}
        for n, (first, second) in enumerate(
            [("[[B]]", "[[A]]"), ("[[A]]", "[[B]]"), ("[[A]]", "[[A]]")]
        )
    ]  # fmt: skip
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (judge,) = make_results(path, [str(file)]).to_json()["judges"]
    # Ada: a wins, a wins, tie. The judge: a wins, b wins, and a tie as its orders disagree.
    assert judge["same"]["mean"] == pytest.approx(2 / 3)
    assert [one["question"] for one in judge["partings"]] == ["d1"]
    assert (judge["near"], judge["excess"]["mean"]) == (None, None)
    assert judge["kappa"] == pytest.approx((2 / 3 - 3 / 9) / (1 - 3 / 9))
    # The judge again, now with a tie and two losses of a: it won, lost, and lost more than it won.
    again = [rows[0] | {"g1_judgment": "[[C]]", "g2_judgment": "[[C]]"}]
    again += [rows[0] | {"question_id": f"d{n}"} for n in (1, 2)]
    for row in again[1:]:
        row |= {"g1_judgment": "[[A]]", "g2_judgment": "[[B]]"}
    more = tmp_path / "more.jsonl"
    more.write_text("".join(json.dumps(row) + "\n" for row in again))
    (judge,) = make_results(path, [str(file), str(more)]).to_json()["judges"]
    assert judge["same"]["mean"] == pytest.approx(1 / 3)
    # Judge: win, loss, loss. People: win, win, tie.
    assert judge["kappa"] == pytest.approx((1 / 3 - 2 / 9) / (1 - 2 / 9))


def test_files_with_equal_verdicts_have_a_difference_with_an_interval(tmp_path: Path) -> None:
    items = items_of(*[("a",)] * 30, *[("b",)] * 30)
    path = write(tmp_path / "a.sqlite", "human-like", items, {"Ada": "h" * 30 + "n" * 30})
    found = make_results(path).to_json()
    (difference,) = found["differences"]
    assert (difference["mean"], difference["low"]) == (-1, -1)
    # Each share is at most this far from its end.
    miss = 1 - found["sources"]["a"]["low"]
    assert miss == pytest.approx(found["sources"]["b"]["high"]) == pytest.approx(0.122, abs=1e-3)
    assert difference["high"] == pytest.approx(-1 + miss * 2**0.5)


def test_what_cannot_be_reported_is_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "a.sqlite", "human-like", items_of(("a",)), {"Ada": "h"})
    grades = write(
        tmp_path / "g.sqlite", "grade", [Item(("m",), "q0", 1, (Round("Q", ("A",)),))], {"Ada": "1"}
    )
    empty = write(tmp_path / "e.sqlite", "human-like", items_of(("a",)), {})
    other = graded(tmp_path / "other.jsonl", ("q9", 2, "[[2]]"))
    broken = tmp_path / "broken.jsonl"
    broken.write_text("{}\n")
    text = tmp_path / "text.sqlite"
    text.write_text("no database, but long enough to be one " * 100)
    foreign = tmp_path / "foreign.sqlite"
    with sqlite3.connect(foreign) as db:
        db.execute("CREATE TABLE a (b)")
    db.close()
    with VerdictFile(tmp_path / "live.sqlite", {"task": "human-like"}, items_of(("a",))):
        copy = tmp_path / "copy.sqlite"
        copy.write_bytes((tmp_path / "live.sqlite").read_bytes())
    damaged = Path(str(tmp_path / "damaged.sqlite"))
    damaged.write_bytes(path.read_bytes())
    with sqlite3.connect(damaged) as db:
        db.execute("UPDATE verdicts SET value = 'x'")
    db.close()
    link = tmp_path / "link.html"
    link.symlink_to(path)
    before = path.read_bytes()
    for arguments, message in (
        ([path, "--out", path], "which this report is made from; choose another name"),
        ([path, "--out", link], "which this report is made from"),
        ([grades, "--judgments", other, "--out", other], "which this report is made from"),
        ([tmp_path / "none.sqlite"], "there is no file"),
        ([empty], "nobody has judged anything"),
        ([path, "--judgments", other], "has verdicts on answers, and"),
        ([grades, "--judgments", other], "has no verdict on an answer that people judged"),
        ([grades, "--judgments", broken], "broken.jsonl:1: no `model`"),
        ([text], "is not a journal"),
        ([copy], "If it is a copy, also copy the file ending in -wal"),
        ([foreign], "is not a file of `parrot annotate`"),
        ([damaged], "is damaged (verdict 1 is 'x' on 1)"),
    ):
        assert main(["annotate", "report", *map(str, arguments)]) == 2
        assert message in capsys.readouterr().err
    assert path.read_bytes() == before


ERRORS = {"Ada": 0.05, "Bo": 0.10, "Cy": 0.15}
"""How often each annotator says the opposite of the truth."""
RATES = {"parrot": 0.811, "self-chat": 0.368}


def test_four_hundred_questions_with_known_truth_and_known_errors(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    items, truth = [], []
    for name, rate in RATES.items():
        for n in range(200):
            items.append(Item((name,), f"{name}{n}", 2, (Round("Q"),)))
            truth.append(n < round(200 * rate))
    letters = {
        name: "".join("h" if true != (random.random() < error) else "n" for true in truth)
        for name, error in ERRORS.items()
    }
    found = make_results(write(tmp_path / "a.sqlite", "human-like", items, letters)).to_json()
    for name, rate in RATES.items():
        share, one = round(200 * rate) / 200, found["sources"][name]
        # Somebody who errs with probability e says human-like with p (1 - e) + (1 - p) e.
        expected = np.mean([share * (1 - e) + (1 - share) * e for e in ERRORS.values()])
        assert one["mean"] == pytest.approx(expected, abs=0.03)
        assert one["low"] < expected < one["high"]
        # The standard error is about that of 200 questions: 0.03.
        assert 0.08 < one["high"] - one["low"] < 0.22
    (difference,) = found["differences"]
    # Errors draw the difference towards 0, by 1 - 2 e on average.
    expected = (74 - 162) / 200 * np.mean([1 - 2 * e for e in ERRORS.values()])
    assert difference["low"] < expected < difference["high"] < 0
    assert found["agreement"]["alpha"] == pytest.approx(_alpha(letters), abs=1e-12)
    assert found["agreement"]["alpha"] == pytest.approx(_expected_alpha(truth), abs=0.05)


def _alpha(letters: dict[str, str]) -> float:
    """Krippendorff's alpha of a full table of two values, from its definition."""
    columns = list(zip(*letters.values(), strict=True))
    num = len(columns) * len(letters)
    human = sum(column.count("h") for column in columns)
    differing = sum(
        2 * column.count("h") * column.count("n") / (len(letters) - 1) for column in columns
    )
    return 1 - (differing / num) / (2 * human * (num - human) / (num * (num - 1)))


def _expected_alpha(truth: list[bool]) -> float:
    """The same for the probabilities with which the annotators err."""
    errors = list(ERRORS.values())
    pairs = [(e, f) for at, e in enumerate(errors) for f in errors[at + 1 :]]
    differing = np.mean([e * (1 - f) + f * (1 - e) for e, f in pairs])
    share = np.mean(truth)
    human = np.mean([share * (1 - e) + (1 - share) * e for e in errors])
    return float(1 - differing / (2 * human * (1 - human)))
