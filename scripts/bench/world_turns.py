"""Figure 5 on the synthetic world: accuracy at each turn after training on 1, 3, 5 and all turns.

For each seed, runs the quickstart, whose collection is used for all models and whose Parrot-Chat is
one of the four; then trains it on one, three and five turns. All models take equally many steps and
the same exam of eight turns.

    python scripts/bench/world_turns.py --out runs/world_turns --seeds 3

Finished parts are not repeated.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from parrot_jax.intervals.wilson import share_interval
from parrot_jax.world.quickstart import Loop, QuickstartScale, quickstart

RUNS = {"1": "chat_1_turn", "3": "chat_3_turns", "5": "chat_5_turns", "all": "chat"}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", default="runs/world_turns", help="folder of the runs")
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    right: dict[str, list[list[bool]]] = {turns: [] for turns in RUNS}
    for seed in range(options.seeds):
        folder = Path(options.out) / f"seed-{seed}"
        quickstart(folder, seed=seed)
        loop = Loop(folder, seed, QuickstartScale())
        for turns, name in RUNS.items():
            if turns != "all":
                loop.train_chat(name, max_turns=int(turns), equal_steps=True)
            with open(loop.take_exam(name), encoding="utf-8") as file:
                right[turns] += [json.loads(line)["right"] for line in file]
    print(as_markdown(right))
    picture = Path(options.out) / "world_turns.svg"
    draw(right, picture)
    print(f"\nsee {picture}")


def as_markdown(right: dict[str, list[list[bool]]]) -> str:
    """Accuracy at each turn over all seeds, with 95 % Wilson intervals."""
    lines = [
        "| trained on | " + " | ".join(f"turn {turn}" for turn in range(1, 9)) + " |",
        "|---" * 9 + "|",
    ]
    for turns, rows in right.items():
        cells = []
        for marks in np.array(rows).T:
            low, high = share_interval(int(marks.sum()), len(marks))
            cells.append(f"{marks.mean():.3f} [{low:.3f}, {high:.3f}]")
        lines.append(f"| {turns} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def draw(right: dict[str, list[list[bool]]], path: Path) -> None:
    """Draws a labelled line for each number of trained turns."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    shades = ("#b9480a", "#8a8f98", "#5b8db8", "#0b63a5")
    for shade, (turns, rows) in zip(shades, right.items(), strict=True):
        marks = np.array(rows)
        share = marks.mean(axis=0)
        bounds = np.array([share_interval(int(n), len(marks)) for n in marks.sum(axis=0)]).T
        axes.errorbar(
            range(1, 9), share, abs(bounds - share), color=shade, marker="o", markersize=4,
            capsize=2, label=f"{turns} turn{'s' * (turns != '1')}",
        )  # fmt: skip
    axes.set(xlabel="turn of the exam", ylabel="right answers", ylim=(0, 1.02))
    axes.yaxis.set_major_formatter("{x:.0%}")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(title="trained on", frameon=False, loc="lower right", bbox_to_anchor=(1, 0.06))
    figure.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
    main()
