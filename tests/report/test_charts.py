"""Charts: deterministic bytes, text kept as text, colours set by the page."""

import re
from xml.etree import ElementTree

import matplotlib as mpl
import pytest

from parrot_jax.report.charts import Bars, Line, column_chart, line_chart, row_chart
from parrot_jax.report.page import Chart

# 16 characters, the most that fit into a narrow chart.
HOSTILE = """</svg>'"&$x$\x1b\ud800鹦"""
FIT = """</svg>'"&$x$␛\ufffd鹦"""


def accuracy(label: str = "Accuracy", text: str = "turn") -> Chart:
    points, intervals = [(1, 0.9), (2, 0.5)], [(0.8, 1.0), (0.4, 0.6)]
    return line_chart(
        [
            Line(name="one", hue="accent", points=points, intervals=intervals),
            Line(name="two", hue="contrast", points=[(1, 0.4), (2, 0.3)]),
        ],
        label=label, x_label=text, y_label=text, y_scale="share",
    )  # fmt: skip


def columns(label: str = "Lengths", text: str = "3") -> Chart:
    bars = [Bars(name="one", hue="accent", values=[0.5, 0.25])]
    return column_chart(["2", text], bars, label=label, x_label=text, y_label=text)


def rows(label: str = "Kinds", text: str = "full") -> Chart:
    bars = [
        Bars(name="one", hue="accent", values=[0.5, 0.25]),
        Bars(name="two", hue="plain", values=[0.125, 0.0]),
    ]
    return row_chart([(text, "What?"), ("back", text)], bars, label=label)


def texts(svg: str) -> list[str]:
    return [
        str(e.text) for e in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")
    ]


@pytest.mark.parametrize("draw", [accuracy, columns, rows])
def test_two_calls_give_equal_bytes(draw) -> None:
    assert draw() == draw()


def test_the_users_own_style_changes_nothing() -> None:
    plain = accuracy()
    with mpl.rc_context({"grid.linestyle": "--", "xtick.major.size": 20}):
        assert accuracy() == plain


@pytest.mark.parametrize("draw", [accuracy, columns, rows])
def test_hostile_texts_stay_texts(draw) -> None:
    chart = draw(HOSTILE, HOSTILE)
    for svg in (chart.wide, chart.narrow):
        root = ElementTree.fromstring(svg)
        assert root.get("aria-label") == FIT
        assert FIT in texts(svg)


def test_a_value_stands_beside_its_row() -> None:
    shown = [text.replace("\xa0", " ") for text in texts(rows().wide)]
    assert [text for text in shown if "%" in text] == ["50 %", "25 %", "12 %", "0 %"]


def test_a_row_twice_as_long_means_twice_as_much() -> None:
    paths = re.findall(
        r'd="M ([\d.]+) [^"]*?L ([\d.]+) [^"]*" style="fill: var\(--accent', rows().wide
    )
    first, second = (float(stop) - float(start) for start, stop in paths)
    assert first == pytest.approx(2 * second, rel=1e-3)


def test_a_name_that_is_too_long_is_cut() -> None:
    assert "x" * 39 + "…" in texts(rows(text="x" * 500).wide)
    assert "x" * 15 + "…" in texts(rows(text="x" * 500).narrow)


def test_notes_are_left_out_where_there_is_no_room() -> None:
    assert "What?" in texts(rows().wide)
    assert "What?" not in texts(rows().narrow)


def test_every_colour_is_one_of_the_page() -> None:
    for chart in (accuracy(), columns(), rows()):
        for svg in chart.wide, chart.narrow:
            bare = re.sub(r"var\(--[a-z]+, #[0-9a-f]{6}\)", "", svg)
            assert "var(--accent, " in svg
            assert re.findall(r"#[0-9a-f]{6}", bare) == []


def test_ids_of_several_charts_do_not_meet() -> None:
    charts = [accuracy(), accuracy("Another"), columns(), rows()]
    ids = [
        i for c in charts for svg in (c.wide, c.narrow) for i in re.findall(r' id="([^"]*)"', svg)
    ]
    assert len(ids) == len(set(ids)) > 0
    for chart in charts:
        for used in re.findall(r'(?:href="|url\()#([^")]*)', chart.wide):
            assert f'id="{used}"' in chart.wide


def test_a_logarithmic_axis_names_plain_numbers() -> None:
    line = Line(name="loss", hue="plain", points=[(0, 8.0), (100, 0.25)])
    chart = line_chart([line], label="Loss", x_label="step", y_label="loss", y_scale="log")
    shown = texts(chart.wide)
    assert {"0.5", "1", "2", "5"} <= set(shown)
    line = Line(name="loss", hue="plain", points=[(0, 8.0), (100, 1e-5)])
    chart = line_chart([line], label="Loss", x_label="step", y_label="loss", y_scale="log")
    assert {"0.001", "0.1"} <= set(texts(chart.wide))
    assert "0.2" not in texts(chart.wide)


def test_a_line_may_be_one_point() -> None:
    line = Line(name="loss", hue="plain", points=[(1, 8.0)])
    chart = line_chart([line], label="Loss", x_label="step", y_label="loss", y_scale="log")
    assert "1" in texts(chart.narrow)
    # A dot, not a line of length zero.
    assert len(re.findall(r"<use [^>]*var\(--plain, ", chart.narrow)) == 1


def test_points_of_several_lines_stay_at_their_x_and_within_the_axis() -> None:
    chart = line_chart(
        [
            Line(name=hue, hue=hue, points=[(1, 0.5), (2, 0.5)], intervals=[(0.4, 0.6)] * 2)
            for hue in ("accent", "contrast", "plain")
        ],
        label="two turns", x_label="turn", y_label="share", y_scale="share",
    )  # fmt: skip
    x = [float(x) for x in re.findall(r'<use [^>]*? x="([\d.]+)"', chart.wide)]
    (first, second), points = x[:2], x[2:]  # the ticks come first
    turn = second - first
    assert [(at - first) / turn for at in points] == pytest.approx(
        [-1 / 60, 1 - 1 / 60, 0, 1, 1 / 60, 1 + 1 / 60], abs=1e-4
    )


def test_charts_with_one_range_have_one_axis() -> None:
    def ticks(value: float, y_range: tuple[float, float] | None) -> list[str]:
        chart = line_chart(
            [Line(name="one", hue="accent", points=[(1, value), (2, value + 1)])],
            label="grades", x_label="turn", y_label="score", y_scale="linear", y_range=y_range,
        )  # fmt: skip
        return texts(chart.wide)

    assert ticks(3, None) != ticks(7, None)
    assert ticks(3, (2, 9)) == ticks(7, (2, 9))


def test_as_many_intervals_as_points() -> None:
    with pytest.raises(ValueError, match="line 'a' has 2 points and 1 intervals; give one"):
        Line(name="a", hue="accent", points=[(1, 0.1), (2, 0.2)], intervals=[(0.0, 0.3)])
