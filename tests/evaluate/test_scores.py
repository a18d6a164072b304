"""Means, intervals, bounds and differences, on numbers a reader can check by eye."""

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from parrot_jax.core.errors import UserError
from parrot_jax.evaluate.comparing import compare, difference, differences
from parrot_jax.evaluate.scores import (
    Cell,
    Place,
    Series,
    clustered_interval,
    read_scores,
    read_series,
)


def series(scores: dict[tuple[str, int], Any], model: str = "m", **keys: Any) -> Series:
    """Scores by (question, turn): a number, a list of ratings, or why there is none."""
    cells = {}
    for place, value in scores.items():
        ratings = value if isinstance(value, list) else [value]
        cells[Place(*place)] = (
            Cell(failed=value) if isinstance(value, str) else Cell(dict(enumerate(ratings)))
        )
    return Series(model, "own", "j", cells=cells, **keys)


def test_the_mean_is_over_turns_and_a_repeat_is_not_a_turn() -> None:
    one = series({("a", 1): 8, ("a", 2): [2, 4], ("b", 1): 10}, categories={"a": "x", "b": "y"})
    assert one.estimate().mean == (8 + 3 + 10) / 3
    assert one.estimate(turn=1).mean == 9
    assert one.estimate(category="x").mean == 5.5
    assert one.estimate(category="y").low is None  # one question has no interval
    assert one.turns() == [1, 2]


def test_what_is_missing_is_a_third_state_with_bounds() -> None:
    one = series({("a", 1): 8, ("a", 2): 6, ("b", 1): "filtered"})
    one.cells[Place("b", 2)] = Cell(unscored=["no [[number]] in the reply"])
    found = one.estimate()
    assert (found.mean, found.scored, found.unscored, found.failed) == (7.0, 2, 1, 1)
    # Both missing turns as 1, and as 10.
    assert (found.least, found.most) == ((8 + 6 + 1 + 1) / 4, (8 + 6 + 10 + 10) / 4)
    empty = series({("a", 1): "filtered"}).estimate()
    assert (empty.mean, empty.low, empty.scored, empty.failed) == (None, None, 0, 1)


def test_questions_are_resampled_with_all_their_turns() -> None:
    """Turns of a dialogue that are all alike carry no more than one of them does."""
    random = np.random.default_rng(0)
    means = random.normal(6, 1, 40)
    once = [(str(n), float(mean)) for n, mean in enumerate(means)]
    copies = [pair for pair in once for _ in range(8)]
    assert clustered_interval(copies, level=0.95) == pytest.approx(
        clustered_interval(once, level=0.95)
    )
    low, high = clustered_interval(once, level=0.95)
    assert low is not None
    assert high is not None
    standard_error = means.std(ddof=1) / np.sqrt(40)
    assert (high - low) / 2 == pytest.approx(2.02 * standard_error, rel=0.1)  # t with 39


def test_the_judges_noise_is_that_of_repeated_grades() -> None:
    # Grades 4 and 6 of one answer: variance 2. Four grades: sqrt(2 / 4).
    one = series({("a", 1): [4, 6], ("b", 1): [7, 9]})
    assert one.noise() == pytest.approx(np.sqrt(2 / 4))
    assert series({("a", 1): 5}).noise() is None
    # The mean of 5 and of (4 + 6) / 2: (2 + 2 / 2) / 2².
    assert series({("a", 1): [4, 6], ("b", 1): 5}).noise() == pytest.approx(np.sqrt(3 / 4))


def test_a_difference_is_over_the_turns_that_both_have() -> None:
    first = series({("a", 1): 5, ("a", 2): 1, ("b", 1): 6, ("c", 1): "failed"})
    second = series({("a", 1): 7, ("b", 1): 9, ("c", 1): 10, ("d", 1): 10})
    found = difference(first, second)
    assert found is not None
    assert (found.mean, found.turns, found.questions) == (2.5, 2, 2)
    # Two questions: an interval of their range means nothing.
    assert (found.low, found.is_sure) == (None, False)
    assert difference(first, series({("d", 1): 5})) is None


@pytest.mark.parametrize(("questions", "is_sure"), [(5, False), (6, True)])
def test_a_few_questions_that_agree_prove_nothing(questions: int, is_sure: bool) -> None:
    """Of five questions, all have the same sign by chance in 6 % of cases, of six in 3 %."""
    first = ("a", series({(str(n), 1): 5 for n in range(questions)}))
    second = ("b", series({(str(n), 1): 6 for n in range(questions)}))
    assert difference(first[1], second[1]).is_sure is is_sure
    said = compare(first, second).sentence()
    if is_sure:
        assert said == "b is better than a by 1.00 (95 % interval +1.00 to +1.00)."
    else:
        assert said == (
            "Only 5 questions have scores of both; with fewer than 6, it is not clear whether a or "
            "b is better."
        )


def grades(shift: float, *, seed: int, turns: int = 2) -> dict[tuple[str, int], float]:
    """40 dialogues of unequal quality; turn 2 is shifted."""
    random = np.random.default_rng(seed)
    quality = np.random.default_rng(9).normal(6, 1.5, 40)
    return {
        (str(n), turn): float(quality[n] + random.normal(0, 0.3) + shift * (turn == 2))
        for n in range(40)
        for turn in range(1, turns + 1)
    }


def test_the_sentence_is_only_as_sure_as_the_interval() -> None:
    first = ("a", series(grades(0, seed=1), "a"))
    better = compare(first, ("b", series(grades(1, seed=2), "b")))
    assert better.sentence().startswith("b is better than a by 0.")
    assert "better at turn 2, unclear at the other 1" in better.sentence()
    # Paired: the quality of the dialogues, which is the same for both, adds nothing.
    overall = better.overall
    assert overall.low is not None
    assert overall.high is not None
    assert overall.high - overall.low < 0.3
    same = compare(first, ("b", series(grades(0, seed=3), "b")))
    assert same.sentence().startswith("It is not clear which is better: b scores ")
    assert same.sentence().endswith("unclear at each turn.")
    worse = compare(("b", series(grades(1, seed=2), "b")), first)
    assert worse.sentence().startswith("a is worse than b by 0.")
    lacking = series(grades(0, seed=3), "b")
    lacking.cells[Place("7", 2)] = Cell(failed="filtered")
    lacking.judge = "k"
    said = compare(first, ("b", lacking)).sentence()
    assert "1 turns lack a score of one or both and do not count." in said
    assert said.endswith("The judges differ (j and k), which alone may make a difference.")
    with pytest.raises(UserError, match="a and b have different scales: 1 to 10 and 0 to 1"):
        compare(first, ("b", series(grades(0, seed=3), scale=(0, 1))))
    with pytest.raises(UserError, match="no scored turn in common"):
        compare(first, ("c", series({("z", 1): 5}, "c")))


def test_intervals_of_several_comparisons_are_wider() -> None:
    named = [(name, series(grades(0, seed=n), name)) for n, name in enumerate("abcd")]
    pairs = [*itertools.combinations(named, 2)]
    alone, among = differences(pairs[:1])[0].difference, differences(pairs)[0].difference
    assert len(differences(pairs)) == 6
    # What has no turn in common is no comparison.
    stranger = ("z", series({("z", 1): 5}))
    assert differences([pairs[0], (named[0], stranger)])[0].difference == alone
    assert among.mean == alone.mean
    assert among.low is not None
    assert among.high is not None
    assert alone.low is not None
    assert alone.high is not None
    # 99.17 % instead of 95 %: about 2.8 instead of 2.02 standard errors.
    assert (among.high - among.low) / (alone.high - alone.low) == pytest.approx(1.37, abs=0.12)


def test_real_grades(shared_data: Path) -> None:
    path = shared_data / "mt_bench" / "model_judgment" / "llama2_7b_family.jsonl"
    named = read_scores([path]).labels()
    assert named["llama2_7b"].estimate().mean == 3.96875
    assert named["llama2_chat_7b"].estimate(turn=2).mean == 5.675
    (first, second), _ = read_series([f"{path}:llama2_7b", f"{path}:llama2_chat_7b"])
    assert compare(first, second).sentence().startswith(
        "llama2_chat_7b is better than llama2_7b by 2.22"
    )  # fmt: skip
    with pytest.raises(UserError, match="has several models; name one"):
        read_series([str(path)])
    with pytest.raises(UserError, match="has no 'gpt-5'; it has finetune"):
        read_series([f"{path}:gpt-5"])


def row(**changes: Any) -> dict[str, Any]:
    plain = {"question_id": 81, "model": "m", "turn": 1, "judge": ["j", "p"], "score": 5}
    return {**plain, **changes}


def write(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_rows_are_read_strictly(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a_single.jsonl",
        row(), row(turn=2, score=-1), row(turn=3, score=12), row(turn=4, score="7"),
        row(turn=5, history="all"), {"question_id": 1},
        row(model="m@none", history="none"), row(model="n", judge=["k", "p"]),
        row(turn=6, scale="ab"), row(turn=7, scale=[1]), row(turn=8, repeat=True),
        row(turn=9, scale=[1, 10**400]), row(turn=10, failed="yes"), row(turn=11, failed=True),
        row(turn=12, judge={"name": "j"}), row(turn=13, category=7), row(turn=14, model="\ud800"),
    )  # fmt: skip
    found = read_scores([path])
    assert [*found.labels()] == ["m (j)", "m@none (j)", "n (k)"]
    assert found.labels()["m (j)"].estimate().unscored == 1  # FastChat's -1
    assert found.rejected.reasons == {
        "a score out of range": 1, "no number in `score`": 1, "unknown `history`": 1,
        "no `score`": 1, "no `scale`": 3, "no count in `repeat`": 1,
        "no truth value in `failed`": 1, "a score of a turn without an answer": 1,
        "no name in `judge`": 1, "no text in `category`": 1,
        "half of a surrogate pair in `model`": 1,
    }  # fmt: skip
    with pytest.raises(UserError, match="turn 1 of question 81 of m was judged twice by j"):
        read_scores([write(path, row(), row())])
    with pytest.raises(UserError, match=r"has no grades: .*_single.jsonl is missing"):
        read_scores([tmp_path])
    (tmp_path / "model_judgment").mkdir()
    write(tmp_path / "model_judgment" / "j_pair.jsonl", {"question_id": 1})
    with pytest.raises(UserError, match=r"no grades; `parrot evaluate rescore .*j_pair.jsonl`"):
        read_scores([tmp_path])
    # -1 is FastChat's mark only where it is no score.
    (signed,) = read_scores([write(path, row(scale=[-5, 5], score=-1))]).series.values()
    assert signed.estimate().mean == -1
    exact = row(scale=[0, 1], score=1, question_id=82)
    with pytest.raises(UserError, match="graded from 0 to 1, and elsewhere from 1 to 10"):
        read_scores([write(path, row(), exact)])


def test_two_models_never_share_a_label(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", row(model="m@none"), row(model="m@none", history="none"))
    assert [(one.model, one.history) for one in read_scores([path]).labels().values()] == [
        ("m", "none"), ("m@none", "own"),
    ]  # fmt: skip


def test_a_series_is_named_by_run_and_model(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", row(model="m"), row(model="n:7b"), {"question_id": 1})
    other = write(tmp_path / "b.jsonl", row(model="m"))
    named, rejected = read_series([f"{path}:n:7b", f"{path}:m"])
    assert [label for label, _ in named] == ["n:7b", "m"]
    assert rejected.reasons == {"no `score`": 1}
    # One model in two runs: "m is better than m" would say nothing.
    named, _ = read_series([f"{path}:m", str(other)])
    assert [label for label, _ in named] == [f"{path}:m", str(other)]
