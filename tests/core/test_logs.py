"""Durations, and the progress lines of a long run."""

from types import SimpleNamespace

import pytest

from parrot_jax.core import logs
from parrot_jax.core.logs import Pace, duration, visible


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0, "0 s"), (0.4, "0 s"), (59.6, "1 min"), (61, "1 min 1 s"), (3600, "1 h"),
        (3661, "1 h 1 min"), (86_399, "23 h 59 min"), (86_400, "1 d"), (90_000, "1 d 1 h"),
        (-3, "0 s"),
    ],
)  # fmt: skip
def test_a_duration_in_its_two_largest_units(seconds: int | float, said: str) -> None:
    assert duration(seconds) == said


def test_the_time_left_leaves_out_what_came_before_the_first_look(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [0.0]
    monkeypatch.setattr(logs, "time", SimpleNamespace(monotonic=lambda: now[0]))
    pace = Pace(100)
    now[0] = 500.0  # compilation
    assert pace.left(10) == ""
    now[0] = 510.0
    assert pace.left(20) == "about 1 min 20 s left"
    pace.line("eval", 21, "rows")
    now[0] = 520.0
    pace.line("eval", 30, "rows")
    now[0] = 541.0
    pace.line("eval", 51, "rows")
    assert capsys.readouterr().out.splitlines() == [
        "eval: 21 of 100 rows, about 1 min 12 s left",
        "eval: 51 of 100 rows, about 49 s left",
    ]


def test_text_is_safe_to_print() -> None:
    # Half of a surrogate pair stops the printing, U+202E reverses the rest of the line.
    assert visible("a\ud800b\u202ec\x9b\x07") == "a\ufffdb\ufffdc\ufffd\u2407"
    assert visible("שלום é 👨‍👩‍👧\t\n") == "שלום é 👨‍👩‍👧\t\n"
