"""Charts as SVG for a page, made with matplotlib.

Each chart is drawn twice, for wide and for narrow screens, because text in a scaled-down chart is
unreadable. Colours are CSS variables of the page, so a chart follows light and dark mode; the
fallback is light. Text stays text, in the page's font. Equal arguments give equal bytes.
"""

import io
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal
from xml.etree import ElementTree

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.container import BarContainer
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator

from parrot_jax.report.page import Chart, Hue
from parrot_jax.report.texts import fit_text

AxisScale = Literal["share", "log", "linear"]
"""`share`: from 0 to 1, shown in percent; `log`: greater than 0; `linear`: any values, and the axis
need not start at 0."""

_COLOURS: Mapping[str, str] = MappingProxyType(
    {
        "accent": "#0b63a5",
        "contrast": "#b9480a",
        "plain": "#8a8f98",
        "ink": "#1d2229",
        "muted": "#5f6670",
        "rule": "#dfe2e6",
        "paper": "#ffffff",
    }
)
"""CSS variable -> its light value. Blue and orange differ for all forms of colour blindness."""

# Distinguish lines without colour.
_DASHES: Mapping[Hue, str] = MappingProxyType({"accent": "-", "contrast": "--", "plain": "-"})

# One unit is one CSS pixel at full width, so font sizes are those on the screen.
_WIDE, _NARROW = 688, 344
_PIXELS_PER_INCH = 72
_STYLE: Mapping[Any, Any] = {
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "font.family": "DejaVu Sans",  # for layout only; the page sets its own font
    "font.size": 13,
    "axes.labelsize": 13,
    "axes.edgecolor": _COLOURS["muted"],
    "axes.labelcolor": _COLOURS["muted"],
    "axes.spines.left": False,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.axisbelow": True,
    "axes.autolimit_mode": "round_numbers",
    "axes.xmargin": 0,
    "axes.ymargin": 0,
    "grid.color": _COLOURS["rule"],
    "grid.linewidth": 1,
    "text.color": _COLOURS["ink"],
    "text.parse_math": False,  # dollar signs are literal
    "xtick.color": _COLOURS["muted"],
    "xtick.labelcolor": _COLOURS["muted"],
    "ytick.color": _COLOURS["muted"],
    "ytick.labelcolor": _COLOURS["muted"],
    "ytick.major.size": 0,
    "ytick.minor.size": 0,
    "svg.fonttype": "none",
}
_SVG = "http://www.w3.org/2000/svg"
_XLINK = "http://www.w3.org/1999/xlink"


@dataclass(frozen=True, kw_only=True)
class Line:
    """One line of a chart."""

    name: str
    hue: Hue
    points: Sequence[tuple[int, float]]
    """(x, y), at least one, x rising."""
    intervals: Sequence[tuple[float, float]] = ()
    """Lowest and highest y at each point; empty = no intervals and no dots."""

    def __post_init__(self) -> None:
        if self.intervals and len(self.intervals) != len(self.points):
            raise ValueError(
                f"line {self.name!r} has {len(self.points)} points and {len(self.intervals)} "
                "intervals; give one per point, or none."
            )


@dataclass(frozen=True, kw_only=True)
class Bars:
    """A series with one bar per category."""

    name: str
    hue: Hue
    values: Sequence[float]
    """One per category, >= 0."""


def line_chart(
    lines: Sequence[Line],
    *,
    label: str,
    x_label: str,
    y_label: str,
    y_scale: AxisScale,
    y_range: tuple[float, float] | None = None,
) -> Chart:
    """Line chart, optionally with intervals.

    Args:
      lines: Drawn in this order.
      label: What the chart shows, for screen readers. Must be unique on a page.
      x_label: Label of the x axis.
      y_label: Label of the y axis, drawn above it.
      y_scale: Scale and format of the y axis; limits its values.
      y_range: Values that the y axis must include, so that charts can be compared.
    """

    def draw(axes: Axes, _: bool) -> None:
        first = min(line.points[0][0] for line in lines)
        last = max(line.points[-1][0] for line in lines)
        margin = 0.05 * (last - first) or 1
        if y_range is not None:
            axes.update_datalim([(first, y) for y in y_range])
        for number, line in enumerate(lines):
            # Side by side, because intervals at the same x would hide each other.
            shift = margin * (number - (len(lines) - 1) / 2) / len(lines) if line.intervals else 0.0
            _draw_line(axes, line, shift)
        axes.set_xlim(first - margin, last + margin)
        axes.set_xlabel(fit_text(x_label))
        num_ticks = 10 if last < 100 else 6  # as many as fit on a narrow screen
        axes.xaxis.set_major_locator(MaxNLocator(num_ticks, integer=True, steps=[1, 2, 5, 10]))
        _scale_values(axes, y_label, y_scale)
        if y_scale == "share":
            axes.set_ylim(0, 1)

    return _render(draw, lines, label, heights=(300, 260))


def column_chart(
    categories: Sequence[str], bars: Sequence[Bars], *, label: str, x_label: str, y_label: str
) -> Chart:
    """Grouped bar chart of shares in [0, 1], to compare distributions.

    Args:
      categories: One label per group, short enough for one line.
      bars: At least one.
      label: As in `line_chart`.
      x_label: Label of the x axis.
      y_label: Label of the y axis, drawn above it.
    """

    def draw(axes: Axes, _: bool) -> None:
        _draw_bars(axes.bar, bars)
        axes.set_xticks(range(len(categories)), list(map(fit_text, categories)))
        axes.set_xlim(-0.6, len(categories) - 0.4)
        axes.tick_params(axis="x", length=0)
        axes.set_xlabel(fit_text(x_label))
        _scale_values(axes, y_label, "share")

    return _render(draw, bars, label, heights=(270, 240))


def row_chart(categories: Sequence[tuple[str, str]], bars: Sequence[Bars], *, label: str) -> Chart:
    """Horizontal bar chart of shares in [0, 1], each with its value, for long names.

    Args:
      categories: (name, note) of each group, from top to bottom. A note may be empty; narrow
        screens show no notes. Long texts are truncated.
      bars: At least one.
      label: As in `line_chart`.
    """

    def draw(axes: Axes, narrow: bool) -> None:
        for container in _draw_bars(axes.barh, bars):
            axes.bar_label(container, fmt=percent, padding=5, fontsize=12)
        axes.set_yticks(range(len(categories)), [""] * len(categories))
        axes.set_ylim(len(categories) - 0.6, -0.4)
        axes.spines["bottom"].set_visible(False)
        axes.set_xticks([])
        for row, (name, note) in enumerate(categories):
            shown, note = (_cut(name, 16), "") if narrow else (_cut(name, 40), _cut(note, 40))
            _write_left_of(axes, row, shown, colour="ink", size=13, rise=1 if note else -5)
            _write_left_of(axes, row, note, colour="muted", size=12, rise=-15)

    height = 16 + 44 * len(categories)
    return _render(draw, bars, label, heights=(height, height))


def percent(share: float, decimals: int = 0) -> str:
    r"""Formats a share in percent, with a no-break space.

    >>> percent(0.985, 1)
    '98.5\xa0%'
    """
    return f"{100 * share:.{decimals}f}\N{NO-BREAK SPACE}%"


def _draw_line(axes: Axes, line: Line, shift: float) -> None:
    colour = _COLOURS[line.hue]
    x, y = [x + shift for x, _ in line.points], [y for _, y in line.points]
    has_dots = bool(line.intervals) or len(x) == 1  # a line of one point would be invisible
    if line.intervals:
        lows, highs = zip(*line.intervals, strict=True)
        axes.vlines(x, lows, highs, color=colour, linewidth=1.5, clip_on=False)
    axes.plot(
        x, y, _DASHES[line.hue], color=colour, linewidth=2, clip_on=False,
        marker="o" if has_dots else "", markersize=7,
        markerfacecolor=colour if line.hue == "accent" else _COLOURS["paper"], markeredgewidth=2,
    )  # fmt: skip


def _draw_bars(
    draw: Callable[..., BarContainer], bars: Sequence[Bars], *, room: float = 0.76
) -> list[BarContainer]:
    """Draws with `Axes.bar` or `Axes.barh`; a group takes the share `room` of its space."""
    thickness = room / len(bars)
    containers = []
    for number, series in enumerate(bars):
        shift = thickness * (number - (len(bars) - 1) / 2)
        at = [category + shift for category in range(len(series.values))]
        containers.append(
            draw(
                at, list(series.values), 0.9 * thickness, color=_COLOURS[series.hue], clip_on=False
            )
        )
    return containers


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: length - 1]}…"


def _write_left_of(axes: Axes, row: int, text: str, *, colour: str, size: int, rise: int) -> None:
    """Writes to the left of a row."""
    axes.annotate(
        fit_text(text), (0, row), (-10, rise), xycoords=("axes fraction", "data"),
        textcoords="offset points", ha="right", color=_COLOURS[colour], fontsize=size,
        annotation_clip=False,
    )  # fmt: skip


def _scale_values(axes: Axes, y_label: str, scale: AxisScale) -> None:
    axes.grid(axis="y")
    # Above the axis and horizontal, which is easier to read.
    axes.set_title(fit_text(y_label), loc="left", fontsize=13, color=_COLOURS["muted"], pad=10)
    if scale == "share":
        axes.yaxis.set_major_locator(MaxNLocator(5))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: percent(value)))
        axes.set_ylim(bottom=0)
    elif scale == "linear":
        axes.yaxis.set_major_locator(MaxNLocator(5))
    else:
        low, high = axes.dataLim.intervaly
        axes.set_yscale("log")
        # Over many decades, only powers of ten fit.
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 1000 * low else (1,)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter("")
        axes.set_ylim(low / 1.3, high * 1.3)


def _render(
    draw: Callable[[Axes, bool], None],
    series: Sequence[Line] | Sequence[Bars],
    label: str,
    *,
    heights: tuple[int, int],
) -> Chart:
    wide, narrow = (
        _svg(draw, fit_text(label), width=width, height=height)
        for width, height in zip((_WIDE, _NARROW), heights, strict=True)
    )
    return Chart(tuple((one.name, one.hue) for one in series), wide, narrow)


def _svg(draw: Callable[[Axes, bool], None], label: str, *, width: int, height: int) -> str:
    with mpl.rc_context(), warnings.catch_warnings():
        # Ignore the user's own matplotlib style.
        mpl.rcdefaults()
        mpl.rcParams.update(_STYLE)
        # The salt makes ids unique on a page.
        mpl.rcParams["svg.hashsalt"] = f"{label} {width}"
        # The browser draws the text, with fonts that cover more scripts than matplotlib's.
        warnings.filterwarnings("ignore", r"Glyph \d+ .* missing from font")
        figure = Figure((width / _PIXELS_PER_INCH, height / _PIXELS_PER_INCH), layout="constrained")
        draw(figure.subplots(), width == _NARROW)
        file = io.StringIO()
        # `savefig` would draw the figure twice.
        FigureCanvasSVG(figure).print_svg(file, metadata={"Date": None})
    return _for_a_page(file.getvalue(), label, width, height)


def _for_a_page(drawn: str, label: str, width: int, height: int) -> str:
    """Removes unneeded parts of matplotlib's SVG and replaces colours by CSS variables."""
    ElementTree.register_namespace("", _SVG)
    ElementTree.register_namespace("xlink", _XLINK)
    root = ElementTree.fromstring(drawn)
    # The first definitions are a style, which would apply to the whole page.
    for name in ("metadata", "defs"):
        root.remove(next(root.iterfind(f"{{{_SVG}}}{name}")))
    root.attrib = {
        "viewBox": f"0 0 {width} {height}",
        "role": "img",
        "aria-label": label,
        "stroke-linejoin": "round",
    }
    for element in root.iter():
        # matplotlib's ids of groups repeat in every chart; nothing refers to them.
        if element.tag == f"{{{_SVG}}}g":
            element.attrib.pop("id", None)
        if "style" in element.attrib:
            for name, colour in _COLOURS.items():
                element.attrib["style"] = element.attrib["style"].replace(
                    colour, f"var(--{name}, {colour})"
                )
    return ElementTree.tostring(root, encoding="unicode")
