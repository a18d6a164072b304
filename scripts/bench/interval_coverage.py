"""How often do the 95 % intervals of an evaluation cover the true mean?

Simulates judgments with a known truth: dialogues of 1 to 12 turns, whose quality differs and drives
all their turns; grades from 1 to 10 that fall from turn to turn. Compares the cluster bootstrap of
`parrot evaluate report` with plain percentiles, and with intervals that take each turn for an
independent observation.

    python scripts/bench/interval_coverage.py --draws 1000
"""

import argparse
from collections.abc import Callable

import numpy as np
from jaxtyping import Float64

from parrot_jax.intervals.bootstrap import RESAMPLES, ratio_intervals

Array = Float64[np.ndarray, "..."]
Intervals = Callable[[list[Array]], tuple[float, float]]

MAX_TURNS = 12


def draw(num_dialogues: int, random: np.random.Generator) -> list[Array]:
    """Grades of some dialogues, one array each."""
    dialogues = []
    for _ in range(num_dialogues):
        turns = np.arange(random.integers(1, MAX_TURNS + 1))
        # Long dialogues are better, so that ratios of sums are not means of means.
        quality = random.normal(6.5, 1.7) + 0.1 * (len(turns) - 6)
        noise = random.normal(0, 1.2, len(turns))
        dialogues.append(np.clip(np.round(quality - 0.15 * turns + noise), 1, 10))
    return dialogues


def clustered(dialogues: list[Array]) -> tuple[float, float]:
    """The intervals of the report."""
    sums = np.array([[grades.sum()] for grades in dialogues])
    counts = np.array([[float(len(grades))] for grades in dialogues])
    ((low, high),) = ratio_intervals(sums, counts)
    return low, high


def plain_percentiles(dialogues: list[Array]) -> tuple[float, float]:
    """The same without the correction for few dialogues."""
    sums = np.array([grades.sum() for grades in dialogues])
    counts = np.array([float(len(grades)) for grades in dialogues])
    random = np.random.default_rng(0)
    size = len(dialogues)
    drawn = random.multinomial(size, np.full(size, 1 / size), size=RESAMPLES)
    low, high = np.quantile(drawn @ sums / (drawn @ counts), [0.025, 0.975])
    return low, high


def independent(dialogues: list[Array]) -> tuple[float, float]:
    """Each turn counts as an independent observation."""
    grades = np.concatenate(dialogues)
    half = 1.96 * grades.std(ddof=1) / np.sqrt(len(grades))
    return grades.mean() - half, grades.mean() + half


METHODS: dict[str, Intervals] = {
    "the report: questions resampled, expanded percentiles": clustered,
    "questions resampled, plain percentiles": plain_percentiles,
    "turns taken as independent": independent,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--draws", type=int, default=1000)
    parser.add_argument("--dialogues", type=int, nargs="+", default=[10, 20, 80, 200])
    options = parser.parse_args()
    truth = float(np.concatenate(draw(1_000_000, np.random.default_rng(1))).mean())
    print(f"true mean {truth:.4f}; {options.draws:,} draws a cell\n")
    print("| intervals | " + " | ".join(f"{n} dialogues" for n in options.dialogues) + " |")
    print("|---" + "|---:" * len(options.dialogues) + "|")
    cells: dict[str, list[str]] = {name: [] for name in METHODS}
    for num_dialogues in options.dialogues:
        random = np.random.default_rng(num_dialogues)
        samples = [draw(num_dialogues, random) for _ in range(options.draws)]
        for name, interval in METHODS.items():
            ends = np.array([interval(sample) for sample in samples])
            covered = np.mean((ends[:, 0] <= truth) & (truth <= ends[:, 1]))
            width = np.mean(ends[:, 1] - ends[:, 0])
            cells[name].append(f"{covered:.1%} (width {width:.2f})")
    for name, row in cells.items():
        print(f"| {name} | " + " | ".join(row) + " |")


if __name__ == "__main__":
    main()
