"""How many questions tell 81.1 % human-like questions from 36.8 %, the paper's comparison?

For independent questions that are judged without error, by the formula for two shares; and for
simulated annotators, by the intervals of `parrot annotate report`: the difference is told if its
95 % interval excludes 0.

    python scripts/bench/annotation_power.py --draws 4000
"""

import argparse
import math
from collections.abc import Callable

import numpy as np
from jaxtyping import Float64
from scipy import stats

from parrot_jax.intervals.crossed import Observations, crossed_difference

RATES = (0.368, 0.811)
POWERS = (0.8, 0.9)

Rates = Float64[np.ndarray, "annotators"]
Annotators = Callable[[np.random.Generator], tuple[Rates, Rates]]
"""The chance of each annotator to reject a human-like question, and to accept another one."""


def by_formula(power: float) -> int:
    """Questions for each of two systems, for a two-sided test at 5 %.

    Source: J. L. Fleiss, Statistical methods for rates and proportions, 2nd edition, 1981,
      section 3.2, without the correction for continuity.
    """
    first, second = RATES
    mean = (first + second) / 2
    spread = stats.norm.ppf(0.975) * math.sqrt(2 * mean * (1 - mean))
    spread += stats.norm.ppf(power) * math.sqrt(first * (1 - first) + second * (1 - second))
    return math.ceil((spread / (second - first)) ** 2)


def exact(random: np.random.Generator) -> tuple[Rates, Rates]:
    """One annotator without errors."""
    return np.zeros(1), np.zeros(1)


def three_that_err(random: np.random.Generator) -> tuple[Rates, Rates]:
    """Three annotators who err in 5, 10 and 15 % of all questions, as in the test."""
    errors = np.array([0.05, 0.10, 0.15])
    return errors, errors


def three_that_differ(random: np.random.Generator) -> tuple[Rates, Rates]:
    """Three annotators, strict or lenient: both chances are drawn between 0 and 30 %."""
    return random.uniform(0, 0.3, 3), random.uniform(0, 0.3, 3)


def judge(
    share: float, num: int, annotators: tuple[Rates, Rates], random: np.random.Generator
) -> Observations:
    """Verdicts of all annotators on the same questions, one in a dialogue."""
    is_human = random.random((num, 1)) < share
    rejects, accepts = annotators
    chance = np.where(is_human, 1 - rejects, accepts)
    clusters, raters = np.indices(chance.shape)
    verdicts = (random.random(chance.shape) < chance) * 1.0
    return Observations(clusters.ravel(), raters.ravel(), verdicts.ravel())


def power_of(num: int, annotators: Annotators, draws: int) -> float:
    """How often the difference is told with a number of questions of each system."""
    random = np.random.default_rng(num)
    told = 0
    for _ in range(draws):
        people = annotators(random)
        low, _ = crossed_difference(
            *(judge(share, num, people, random) for share in RATES)
        ).interval()
        told += low > 0
    return told / draws


def needed(power: float, annotators: Annotators, draws: int) -> int:
    """The smallest number with this power."""
    low, high = 2, 4
    while power_of(high, annotators, draws) < power:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        if power_of(middle, annotators, draws) < power:
            low = middle
        else:
            high = middle
    return high


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--draws", type=int, default=4000)
    options = parser.parse_args()
    columns = " | ".join(f"power {power:.0%}" for power in POWERS)
    print(f"questions of each system; {options.draws:,} draws a step\n")
    print(f"| annotators | {columns} |\n|---|---:|---:|")
    cells = " | ".join(str(by_formula(power)) for power in POWERS)
    print(f"| independent questions, no errors: formula | {cells} |", flush=True)
    for name, annotators in (
        ("one, no errors: the report", exact),
        ("three that err in 5, 10 and 15 %: the report", three_that_err),
        ("three, strict or lenient: the report", three_that_differ),
    ):
        cells = " | ".join(str(needed(power, annotators, options.draws)) for power in POWERS)
        print(f"| {name} | {cells} |", flush=True)
    random = np.random.default_rng(0)
    false = sum(_tells_equal(random) for _ in range(options.draws)) / options.draws
    print(f"\nequal systems of 50 questions, three that differ: told apart in {false:.1%}")


def _tells_equal(random: np.random.Generator) -> bool:
    people = three_that_differ(random)
    low, high = crossed_difference(
        *(judge(RATES[0], 50, people, random) for _ in range(2))
    ).interval()
    return not low <= 0 <= high


if __name__ == "__main__":
    main()
