"""The report of training runs: one, or several side by side with what differs between them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import yaml
from numpy.typing import NDArray

from parrot_jax.core.logs import duration
from parrot_jax.report.charts import AxisScale, Line, line_chart
from parrot_jax.report.page import HUES, Block, Listing, Page, Picture, Section, Table, Tile
from parrot_jax.runs.training_files import TrainingRun
from parrot_jax.stats.inputs import labels_of

MOST_POINTS = 200
"""Points of a curve; each is a mean over equally many steps."""

_MOST_SAMPLES = 60


class _Curve(NamedTuple):
    """What a chart shows of each run."""

    name: str
    y_label: str
    y_scale: AxisScale
    values: Callable[[TrainingRun], NDArray[np.float64] | None]
    """[steps]; None if the run lacks it."""
    weights: str | None = None
    """The metric that weights the means."""


def _metric(name: str) -> Callable[[TrainingRun], NDArray[np.float64] | None]:
    return lambda run: run.metrics.get(name)


def _rate(run: TrainingRun) -> NDArray[np.float64] | None:
    tokens, seconds = run.metrics.get("live_tokens"), run.metrics.get("step_s")
    return None if tokens is None or seconds is None else tokens / np.maximum(seconds, 1e-9)


_CURVES = (
    _Curve("Loss", "nats per live token", "log", _metric("loss"), weights="live_tokens"),
    _Curve("Margin of chosen over rejected", "beta x nats", "linear", _metric("rewards/margins")),
    _Curve("Pairs ranked as given", "share", "share", _metric("rewards/accuracies")),
    _Curve("Gradient norm", "before clipping", "log", _metric("grad_norm")),
    _Curve("Learning rate", "learning rate", "linear", _metric("lr")),
    _Curve("Speed", "live tokens per second", "linear", _rate),
)


def training_page(runs: Sequence[TrainingRun]) -> Page:
    """Lays out the report.

    Args:
      runs: At least one.
    """
    names = labels_of([str(run.path) for run in runs])
    return Page(
        title="Training run" if len(runs) == 1 else "Training runs",
        lead="; ".join(_lead(name, run) for name, run in zip(names, runs, strict=True)) + ".",
        tiles=_tiles(runs[0]) if len(runs) == 1 else [],
        sections=[
            section
            for section in (
                _overview(names, runs),
                _curves(names, runs),
                _held_out(names, runs),
                _differences(names, runs),
                *(_samples(name, run) for name, run in zip(names, runs, strict=True)),
                _data(names, runs),
                *(_config(name, run) for name, run in zip(names, runs, strict=True)),
            )
            if section is not None
        ],
        footer="; ".join(_versions(name, run) for name, run in zip(names, runs, strict=True)) + ".",
    )


def _lead(name: str, run: TrainingRun) -> str:
    done = f"step {run.step:,}" + (f" of {run.num_steps:,}" if run.num_steps else "")
    return f"{name}: {done}"


def _tiles(run: TrainingRun) -> list[Tile]:
    means = _means(run, _CURVES[0])
    tiles = [Tile(f"{means[-1][1]:.4g}", "loss at the end", f"{means[0][1]:.4g} at the start")]
    key = f"{_speaker(run)}_ppl"
    if run.evals and isinstance(value := run.evals[-1].get(key), int | float):
        tiles.append(Tile(f"{value:.4g}", "held-out perplexity", f"{_speaker(run)} turns"))
    if run.evals and isinstance(value := run.evals[-1].get("rewards/margins"), int | float):
        tiles.append(Tile(f"{value:.3g}", "margin on held-out pairs"))
    if (rates := _rate(run)) is not None:
        tiles.append(Tile(f"{np.nanmedian(rates):,.0f}", "live tokens per second", "median"))
    tiles.append(Tile(duration(_seconds(run)), "in training steps"))
    return tiles


def _overview(names: Sequence[str], runs: Sequence[TrainingRun]) -> Section | None:
    if len(runs) == 1:
        return None
    rows = []
    for name, run in zip(names, runs, strict=True):
        loss, rate = _means(run, _CURVES[0])[-1][1], _rate(run)
        ppl = run.evals[-1].get(f"{_speaker(run)}_ppl") if run.evals else None
        rows.append((
            name, f"{run.step:,}", f"{loss:.4g}", _number(ppl),
            "–" if rate is None else f"{np.nanmedian(rate):,.0f}", duration(_seconds(run)),
        ))  # fmt: skip
    columns = ("Run", "Steps", "Loss", "Held-out perplexity", "Live tokens/s", "Time")
    return Section(heading="Overview", text=[], blocks=[Table(columns=columns, rows=rows)])


def _curves(names: Sequence[str], runs: Sequence[TrainingRun]) -> Section:
    blocks: list[Block] = []
    for curve in _CURVES:
        lines = [
            (name, means)
            for name, run in zip(names, runs, strict=True)
            if (means := _means(run, curve))
        ]
        blocks += _pictures(curve.name, lines, "step", curve.y_label, curve.y_scale)
    return Section(
        heading="Curves",
        text=[f"Each curve joins means over equal ranges of steps, at most {MOST_POINTS}."],
        blocks=blocks,
    )


def _pictures(
    name: str,
    lines: Sequence[tuple[str, Sequence[tuple[int, float]]]],
    x_label: str,
    y_label: str,
    y_scale: AxisScale,
) -> list[Picture]:
    """Charts of at most three lines each, with one range of values for all."""
    values = [y for _, points in lines for _, y in points]
    if not values:
        return []
    # Of a positive number only: the loss of IPO may be 0.
    if y_scale == "log" and min(values) <= 0:
        y_scale = "linear"
    found = []
    for first in range(0, len(lines), len(HUES)):
        part = lines[first : first + len(HUES)]
        chart = line_chart(
            [
                Line(name=run, hue=hue, points=points)
                for (run, points), hue in zip(part, HUES, strict=False)
            ],
            label=f"{name}: {', '.join(run for run, _ in part)}",
            x_label=x_label,
            y_label=y_label,
            y_scale=y_scale,
            y_range=(min(values), max(values)),
        )
        found.append(Picture(chart=chart, caption=name))
    return found


def _means(run: TrainingRun, curve: _Curve) -> list[tuple[int, float]]:
    """(last step, mean) of at most `MOST_POINTS` equal ranges of steps."""
    values = curve.values(run)
    if values is None:
        return []
    weights = run.metrics.get(curve.weights) if curve.weights else None
    weights = np.ones_like(values) if weights is None else weights
    is_known = np.isfinite(values) & (weights > 0)
    steps = run.metrics["step"][is_known].astype(int)
    values, weights = values[is_known], weights[is_known]
    parts = np.array_split(np.arange(len(values)), min(len(values), MOST_POINTS) or 1)
    return [
        (int(steps[part[-1]]), float(np.average(values[part], weights=weights[part])))
        for part in parts
        if len(part)
    ]


def _held_out(names: Sequence[str], runs: Sequence[TrainingRun]) -> Section | None:
    over_time, by_turn, margins = [], [], []
    for name, run in zip(names, runs, strict=True):
        speaker = _speaker(run)
        over_time.append((name, _series(run.evals, f"{speaker}_ppl")))
        margins.append((name, _series(run.evals, "rewards/margins")))
        # The last one of each run; of a single run also the first one.
        shown = [*run.evals[:-1][:1], *run.evals[-1:]] if len(runs) == 1 else run.evals[-1:]
        for means in shown:
            title = name if len(runs) > 1 else f"step {means.get('step', 0):,}"
            turns = means.get(f"{speaker}_ppl_by_turn") or []
            by_turn.append(
                (title, [(n, v) for n, v in enumerate(turns, 1) if isinstance(v, int | float)])
            )
    blocks: list[Block] = []
    for name, lines, x_label, y_label in (
        ("Held-out perplexity", over_time, "step", "perplexity"),
        ("Held-out perplexity by turn", by_turn, "turn of the dialogue", "perplexity"),
        ("Margin on held-out pairs", margins, "step", "beta x nats"),
    ):
        lines = [line for line in lines if len(line[1]) > 1]
        blocks += _pictures(name, lines, x_label, y_label, "linear" if "Margin" in name else "log")
    if not blocks:
        return None
    return Section(heading="Held-out dialogues", text=[], blocks=blocks)


def _series(evals: Sequence[Mapping[str, Any]], key: str) -> list[tuple[int, float]]:
    return [
        (int(means.get("step", 0)), float(means[key]))
        for means in evals
        if isinstance(means.get(key), int | float)
    ]


def _differences(names: Sequence[str], runs: Sequence[TrainingRun]) -> Section | None:
    if len(runs) == 1:
        return None
    flat = [dict(_flat(run.config)) for run in runs]
    keys = sorted({key for config in flat for key in config})
    rows = [
        (key, *(_shown(config.get(key)) for config in flat))
        for key in keys
        if key != "out" and len({_shown(config.get(key)) for config in flat}) > 1
    ]
    text = [] if rows else ["The configs are equal."]
    table = Table(columns=("Key", *names), rows=rows, text_columns=1 + len(names))
    return Section(
        heading="What differs between the configs", text=text, blocks=[table] if rows else []
    )


def _flat(values: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """The dotted keys of a config with their values."""
    if isinstance(values, Mapping) and values:
        for key, value in values.items():
            yield from _flat(value, f"{path}.{key}" if path else str(key))
    else:
        yield path, values


def _samples(name: str, run: TrainingRun) -> Section | None:
    if not run.samples:
        return None
    rows = [
        tuple(str(sample.get(key, "")) for key in ("step", "dialogue", "text", "truth"))
        for sample in run.samples[-_MOST_SAMPLES:]
    ]
    left_out = len(run.samples) - len(rows)
    return Section(
        heading=f"Samples of {name}",
        text=[f"The first {left_out:,} are left out."] if left_out else [],
        blocks=[
            Table(columns=("Step", "Dialogue", "It writes", "The data has"), rows=rows,
                  text_columns=4)
        ],
    )  # fmt: skip


def _data(names: Sequence[str], runs: Sequence[TrainingRun]) -> Section:
    rows = []
    for name, run in zip(names, runs, strict=True):
        for split in ("train", "eval"):
            found = run.data.get(split) or {}
            for source in found.get("sources", ()):
                rows.append((
                    name, split, str(source.get("path", "")), _count(source.get("read")),
                    _count(found.get("rows")),
                ))  # fmt: skip
    checkpoints = [
        f"{name} has checkpoints of the steps {', '.join(f'{step:,}' for step in run.checkpoints)}."
        for name, run in zip(names, runs, strict=True)
        if run.checkpoints
    ]
    changes = [
        f"{name} was resumed at {change.get('time')} with other settings: {change.get('changes')}."
        for name, run in zip(names, runs, strict=True)
        for change in run.changes
    ]
    table = Table(
        columns=("Run", "Split", "File", "Dialogues read", "Rows of the split"), rows=rows,
        text_columns=3,
    )  # fmt: skip
    return Section(
        heading="Data and checkpoints",
        text=[*checkpoints, *changes],
        blocks=[table] if rows else [],
    )


def _config(name: str, run: TrainingRun) -> Section:
    text = yaml.safe_dump(dict(run.config), sort_keys=False, allow_unicode=True, width=100)
    return Section(heading=f"Config of {name}", text=[], blocks=[Listing(text)])


def _versions(name: str, run: TrainingRun) -> str:
    known = ", ".join(
        f"{package} {version}" for package, version in run.versions.items() if version
    )
    return f"{name}: {known}" if known else name


def _speaker(run: TrainingRun) -> str:
    return "user" if run.config.get("task") == "ask" else "assistant"


def _seconds(run: TrainingRun) -> float:
    seconds = run.metrics.get("step_s")
    return 0.0 if seconds is None else float(np.nansum(seconds))


def _shown(value: Any) -> str:
    return "–" if value is None else str(value)


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, int | float) else "–"


def _count(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else "–"
