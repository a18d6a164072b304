"""AlpacaEval's length-controlled win rate: what a model wins by length alone, it wins no more."""

import csv
import json
import math
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from parrot_jax.cli import main
from parrot_jax.core.errors import UserError
from parrot_jax.evaluate.length_control import control_length
from parrot_jax.evaluate.winrate import LengthControlled, win_rates

alpaca = pytest.mark.alpaca
N = 200


@pytest.fixture
def gamed(tmp_path: Path) -> str:
    """A small `df_gamed.csv`: a baseline against itself, told to be brief or wordy."""
    draw = random.Random(0)
    difficulties = [draw.gauss(0, 1) for _ in range(N)]
    with (tmp_path / "df_gamed.csv").open("w", newline="") as file:
        out = csv.writer(file)
        out.writerow(
            ["model", "preference", "index", "std_delta_len", "instruction_difficulty",
             "not_gamed_baseline"]
        )  # fmt: skip
        for model, shift in (("concise", 1), ("verbose", -1)):
            for index, difficulty in enumerate(difficulties):
                shorter_by = draw.gauss(shift, 1)
                win = 1 / (1 + math.exp(2 * math.tanh(shorter_by)))
                out.writerow([model, win, index, shorter_by, difficulty, False])
    return str(tmp_path / "df_gamed.csv")


def write(path: Path, preference: Callable[[int], float | None], length: Callable[[int], int],
          **changes: Any) -> Path:  # fmt: skip
    rows = [
        {
            "instruction": f"Question {at}?", "preference": preference(at), "annotator": "j",
            "generator_1": "base", "output_1": "x" * 100,
            "generator_2": "m", "output_2": "x" * length(at),
        } | {key: value(at) for key, value in changes.items()}
        for at in range(N)
    ]  # fmt: skip
    path.write_text(json.dumps(rows))
    return path


def controlled(path: Path, gamed: str) -> tuple[float, LengthControlled]:
    found = win_rates([path])
    control_length(found, [path], gamed)
    (rate,) = found.models.values()
    assert rate.win_rate is not None
    assert rate.length_controlled is not None
    return rate.win_rate, rate.length_controlled


@alpaca
def test_what_is_won_by_length_alone_is_won_no_more(tmp_path: Path, gamed: str) -> None:
    """The longer output wins with 90 %, and the model's is longer four times out of five."""
    path = write(
        tmp_path / "long.json",
        preference=lambda at: 1.9 if at % 5 else 1.1,
        length=lambda at: 150 if at % 5 else 50,
    )
    plain, found = controlled(path, gamed)
    assert plain == pytest.approx(0.8 * 90 + 0.2 * 10)
    assert found.win_rate == pytest.approx(50, abs=5)
    assert found.is_extreme


@alpaca
def test_what_does_not_depend_on_length_stays(tmp_path: Path, gamed: str) -> None:
    path = write(
        tmp_path / "good.json",
        preference=lambda at: 1.7,
        length=lambda at: 150 if at % 2 else 50,
    )
    plain, found = controlled(path, gamed)
    assert plain == pytest.approx(70)
    assert found.win_rate == pytest.approx(70, abs=3)
    assert not found.is_extreme


@alpaca
def test_the_order_does_not_matter_where_rows_have_their_index(tmp_path: Path, gamed: str) -> None:
    shape = {"preference": lambda at: 1.2 + at % 7 / 10, "length": lambda at: 60 + at % 90}
    in_order = write(tmp_path / "a.json", **shape)
    turned = write(
        tmp_path / "b.json",
        **{name: lambda at, of=of: of(N - 1 - at) for name, of in shape.items()},
        index=lambda at: N - 1 - at,
    )
    expected, found = controlled(in_order, gamed)[1], controlled(turned, gamed)[1]
    assert found.win_rate == pytest.approx(expected.win_rate, abs=0.5)


@alpaca
def test_the_command_prints_both_rates(
    tmp_path: Path, gamed: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "a.json", lambda at: None if at == 3 else 1.7, lambda at: 60 + at % 90)
    arguments = ["evaluate", "winrate", str(path), "--length-controlled", "--gamed", gamed]
    assert main([*arguments, "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)["models"]["m"]
    assert (round(figures["win_rate"]), figures["missing"]) == (70, 1)
    assert 65 < figures["length_controlled"]["win_rate"] < 75
    assert main(arguments) == 0
    assert "Length-controlled win rates" in capsys.readouterr().out


@alpaca
def test_real_annotations(gamed: str, shared_data: Path) -> None:
    """The package itself gives the published plain win rate; df_gamed.csv is a made one here."""
    path = shared_data / "alpaca_eval" / "v2_annotations" / "baize-v2-13b.json"
    with pytest.raises(UserError, match="has 805 annotations, and .* of 200 instructions"):
        controlled(path, gamed)
    import alpaca_eval.metrics as metrics

    published = metrics.get_winrate(json.loads(path.read_text()))
    assert published["win_rate"] == pytest.approx(4.590545330645964)
    assert win_rates([path]).models["baize-v2-13b"].win_rate == pytest.approx(4.590545330645964)


@alpaca
@pytest.mark.network
def test_the_published_length_controlled_win_rate(shared_data: Path) -> None:
    """With AlpacaEval's own df_gamed.csv, which the hub has."""
    import huggingface_hub

    gamed = huggingface_hub.hf_hub_download(
        "tatsu-lab/alpaca_eval", "df_gamed.csv", repo_type="dataset"
    )
    folder = shared_data / "alpaca_eval"
    with (folder / "leaderboard_v2_weighted.csv").open() as file:
        published = {row[""]: row for row in csv.DictReader(file)}["baize-v2-13b"]
    _, found = controlled(folder / "v2_annotations" / "baize-v2-13b.json", gamed)
    assert found.win_rate == pytest.approx(float(published["length_controlled_winrate"]), abs=0.1)


@alpaca
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"index": lambda at: 0}, "m has several annotations of an instruction"),
        ({"index": lambda at: at + 1}, "m has 200 annotations, and .* of 200 instructions"),
        ({"index": lambda at: str(at)}, "no integer in `index`: found '0'"),
        ({"output_2": lambda at: None}, "a.json:1: no text in `output_2`"),
        ({"output_2": lambda at: "x"}, "all outputs of m differ in length by the same"),
        ({"preference": lambda at: None}, "m has no preference"),
    ],
)
def test_annotations_that_cannot_be_controlled(
    tmp_path: Path, gamed: str, changes: Any, message: str
) -> None:
    shape = {"preference": lambda at: 1.5, "length": lambda at: at} | changes
    with pytest.raises(UserError, match=message):
        controlled(write(tmp_path / "a.json", **shape), gamed)


@alpaca
def test_another_file_in_place_of_df_gamed(tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", lambda at: 1.5, lambda at: at)
    other = tmp_path / "instruction_difficulty.csv"
    other.write_text("index,instruction_difficulty\n0,1.5\n")
    with pytest.raises(UserError, match="it lacks the columns model, not_gamed_baseline, prefer"):
        controlled(path, str(other))
    header = "model,preference,index,std_delta_len,instruction_difficulty,not_gamed_baseline\n"
    other.write_text(header + "m,0.5,1,0,0.1,False\nm,0.5,0,0,0.1,False\n")
    with pytest.raises(UserError, match="its first 2 rows are not instructions 0 to 1"):
        controlled(path, str(other))
    other.write_text(header + "m,0.5,0\n")
    with pytest.raises(UserError, match="is not AlpacaEval's df_gamed.csv"):
        controlled(path, str(other))
    with pytest.raises(UserError, match="none.csv: `parrot evaluate download alpaca-eval`"):
        controlled(path, str(tmp_path / "none.csv"))


def test_without_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "alpaca_eval", None)  # as if it were not installed
    path = write(tmp_path / "a.json", lambda at: 1.5, lambda at: at)
    assert main(["evaluate", "winrate", str(path), "--length-controlled"]) == 2
    assert "`pip install 'parrot-jax[alpaca]'`" in capsys.readouterr().err
    assert main(["evaluate", "winrate", str(path), "--gamed", "a.csv"]) == 2
    assert "--gamed is for --length-controlled only" in capsys.readouterr().err
