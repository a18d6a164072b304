"""Figure 4 on the synthetic world: right answers at up to twelve turns, by what the model sees.

For each seed, runs the quickstart, then trains Parrot-Chat on the first turn, the first three and
all turns of its collection: for equally many epochs, as the quickstart does, and for equally many
steps. Each model takes an exam of twelve turns with its own, the true and no history.

    python scripts/bench/world_histories.py --out runs/world_histories --seeds 3

Finished parts are not repeated.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from parrot_jax.dialogue.writers import write_messages
from parrot_jax.evaluate.scores import Series, read_scores
from parrot_jax.world.exam import HISTORIES, take_exam
from parrot_jax.world.people import people_dialogues
from parrot_jax.world.quickstart import Loop, QuickstartScale, quickstart

TURNS = 12
RUNS = {
    "all turns": ("chat", None, False),
    "3 turns, equal steps": ("chat_3_turns_steps", 3, True),
    "1 turn, equal steps": ("chat_first_turn_steps", 1, True),
    "3 turns, equal epochs": ("chat_3_turns", 3, False),
    "1 turn, equal epochs": ("chat_first_turn", 1, False),
}
"""By name in the tables: folder, turns to train on, whether for as many steps as all turns."""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", default="runs/world_histories", help="folder of the runs")
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    found: dict[tuple[str, str], list[Series]] = {}
    for seed in range(options.seeds):
        for name, series in examine(Path(options.out) / f"seed-{seed}", seed):
            found.setdefault((name, series.history), []).append(series)
    print("| trained on | history | " + " | ".join(f"turn {n}" for n in range(1, TURNS + 1)) + " |")
    print("|---|---" + "|---:" * TURNS + "|")
    draw(found, Path(options.out) / "world_histories.svg")
    for (name, history), of_seeds in found.items():
        cells = []
        for turn in range(1, TURNS + 1):
            means = [series.estimate(turn=turn).mean or 0.0 for series in of_seeds]
            cells.append(f"{sum(means) / len(means):.2f} ({min(means):.2f}-{max(means):.2f})")
        print(f"| {name} | {history} | " + " | ".join(cells) + " |")


def draw(found: dict[tuple[str, str], list[Series]], path: Path) -> None:
    """Draws the mean of the seeds by turn, with the range over them."""
    figure = Figure(figsize=(9, 4), layout="constrained")
    turns = range(1, TURNS + 1)
    left, right = figure.subplots(1, 2, sharey=True)
    shades = ("#0b63a5", "#b9480a", "#8a8f98")
    models = ("all turns", "3 turns, equal epochs", "1 turn, equal epochs")
    for axes, title, shown in (
        (left, "own answers as history", [(model, "own", model) for model in models]),
        (
            right,
            "trained on all turns",
            [("all turns", h, f"{h} history" if h != "none" else "no history") for h in HISTORIES],
        ),
    ):
        for shade, (name, history, label) in zip(shades, shown, strict=True):
            means = np.array([
                [series.estimate(turn=turn).mean or 0.0 for turn in turns]
                for series in found[name, history]
            ])  # fmt: skip
            mean = means.mean(axis=0)
            bounds = [mean - means.min(axis=0), means.max(axis=0) - mean]
            axes.errorbar(turns, mean, bounds, color=shade, marker="o", markersize=4, capsize=2,
                          label=label)  # fmt: skip
        axes.set(title=title, xlabel="turn of the exam", ylim=(0, 1.02), xticks=turns)
        axes.yaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, loc="center right", bbox_to_anchor=(1, 0.68))
    left.set_ylabel("right answers")
    figure.savefig(path, metadata={"Date": None})


def examine(folder: Path, seed: int) -> Iterator[tuple[str, Series]]:
    """Trains the models of a seed and gives them the exam; yields their series of grades."""
    quickstart(folder, seed=seed)
    loop = Loop(folder, seed, QuickstartScale())
    exam = folder / "exam12.jsonl"
    write_messages(exam, people_dialogues(loop.world, "exam12", 200, num_rounds=TURNS))
    for name, (run, max_turns, equal_steps) in RUNS.items():
        loop.train_chat(run, max_turns=max_turns, equal_steps=equal_steps)
        out = folder / "exam12" / run
        if not out.with_name(f"{run}.jsonl").exists():
            take_exam(folder / run, exam, out)
        for series in read_scores([out]).series.values():
            yield name, series


if __name__ == "__main__":
    main()
