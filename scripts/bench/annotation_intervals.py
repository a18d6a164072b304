"""How often do the 95 % intervals of `parrot annotate report` cover the true rate?

Simulates annotators with a known truth: each dialogue has a chance to look human, and each
annotator a leniency; both are samples. Compares the intervals of the report with the pigeonhole
bootstrap, with intervals over dialogues alone, and with verdicts that are taken as independent.

    python scripts/bench/annotation_intervals.py --draws 2000
"""

import argparse
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float64

from parrot_jax.intervals.crossed import Observations, crossed_mean
from parrot_jax.intervals.wilson import share_interval

SPREAD_OF_DIALOGUES = 2.0
"""Standard deviation of the log-odds between dialogues."""
RESAMPLES = 400


class Design(NamedTuple):
    """Who judges what."""

    dialogues: int
    annotators: int
    leniency: float
    """Standard deviation of the log-odds between annotators."""
    share: float = 1.0
    """How many annotators judge a dialogue; 0 = one each."""
    centre: float = 0.0
    """The log-odds of the mean dialogue."""


DESIGNS = {
    "3 annotators alike": Design(200, 3, 0.0),
    "3 annotators who differ": Design(200, 3, 0.3),
    "3 who differ much": Design(200, 3, 0.8),
    "3 who differ much, 50 dialogues": Design(50, 3, 0.8),
    "3 who differ, 93 % human-like": Design(200, 3, 0.3, centre=4.0),
    "2 annotators who differ": Design(200, 2, 0.3),
    "10 annotators who differ": Design(200, 10, 0.3),
    "3 who differ, 1 a dialogue": Design(200, 3, 0.3, share=0.0),
}

Table = Float64[np.ndarray, "dialogues annotators"]
Mask = Bool[np.ndarray, "dialogues annotators"]


def chances(design: Design, random: np.random.Generator) -> Table:
    """The chance of each verdict to be human-like."""
    dialogues = random.normal(design.centre, SPREAD_OF_DIALOGUES, design.dialogues)
    annotators = random.normal(0, design.leniency, design.annotators)
    return 1 / (1 + np.exp(-dialogues[:, None] - annotators))


def draw(design: Design, random: np.random.Generator) -> tuple[Table, Mask]:
    """Verdicts, and which of them were given."""
    verdicts = (
        random.random((design.dialogues, design.annotators)) < chances(design, random)
    ) * 1.0
    given = random.random(verdicts.shape) < design.share
    first = random.integers(design.annotators, size=design.dialogues)
    given[np.arange(design.dialogues), first] = True
    return verdicts, given


def report(verdicts: Table, given: Mask) -> tuple[float, float]:
    """The intervals of the report."""
    clusters, raters = np.nonzero(given)
    return crossed_mean(Observations(clusters, raters, verdicts[given])).share_interval()


def dialogues_alone(verdicts: Table, given: Mask) -> tuple[float, float]:
    """Only dialogues are a sample; the annotators are everybody."""
    clusters, raters = np.nonzero(given)
    return crossed_mean(Observations(clusters, 0 * raters, verdicts[given])).share_interval()


def independent(verdicts: Table, given: Mask) -> tuple[float, float]:
    """Each verdict counts as independent."""
    return share_interval(int(verdicts[given].sum()), int(given.sum()))


def pigeonhole(verdicts: Table, given: Mask) -> tuple[float, float]:
    """Dialogues and annotators are resampled independently of each other.

    Source: A. B. Owen, The pigeonhole bootstrap, 2007.
    """
    random = np.random.default_rng(0)
    rows, columns = (
        random.multinomial(size, np.full(size, 1 / size), size=RESAMPLES) for size in given.shape
    )
    above = np.einsum("br,rc,bc->b", rows, verdicts * given, columns, optimize=True)
    below = np.einsum("br,rc,bc->b", rows, given * 1.0, columns, optimize=True)
    low, high = np.quantile(above[below > 0] / below[below > 0], [0.025, 0.975])
    return float(low), float(high)


METHODS: dict[str, Callable[[Table, Mask], tuple[float, float]]] = {
    "the report": report,
    "pigeonhole bootstrap, percentiles": pigeonhole,
    "dialogues alone": dialogues_alone,
    "verdicts taken as independent": independent,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--draws", type=int, default=2000)
    options = parser.parse_args()
    print(f"{options.draws:,} draws a cell\n")
    print(f"| annotators, 200 dialogues | true rate | {' | '.join(METHODS)} |")
    print("|---" + "|---:" * (len(METHODS) + 1) + "|")
    for name, design in DESIGNS.items():
        many = design._replace(dialogues=2_000, annotators=2_000)
        truth = chances(many, np.random.default_rng(1)).mean()
        random = np.random.default_rng(0)
        samples = [draw(design, random) for _ in range(options.draws)]
        cells = []
        for method in METHODS.values():
            ends = np.array([method(*sample) for sample in samples])
            covered = np.mean((ends[:, 0] <= truth) & (truth <= ends[:, 1]))
            width = np.mean(ends[:, 1] - ends[:, 0])
            cells.append(f"{covered:.1%} (width {100 * width:.0f})")
        print(f"| {name} | {truth:.1%} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
