"""Does an asker that was trained to end dialogues (`train_end`) end them when people do?

For each seed, Parrot-Ask of the synthetic world is trained with a live empty turn after each last
answer, and talks with the answerer until it ends the dialogue. The lengths of its dialogues from
first questions are compared with people's.

    python scripts/bench/world_leaving.py --out runs/world_leaving --seeds 3
"""

import argparse
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from parrot_jax.train.loop import train
from parrot_jax.world.quickstart import Loop, QuickstartScale
from parrot_jax.world.recipes import ask_config

MAX_TURNS = 20


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", default="runs/world_leaving", help="folder of the runs")
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    print("| seed | people | Parrot-Ask | stops |\n|---|---|---|---|")
    for seed in range(options.seeds):
        folder = Path(options.out) / f"seed-{seed}"
        loop = Loop(folder, seed, QuickstartScale())
        if not (loop.files / "world.json").exists():
            loop.make_world()
        asker = ask_config(
            loop.files, folder / "ask", seed=seed, epochs=loop.scale.ask_epochs, train_end=True
        )
        train(asker)
        loop.talk(asker, folder / "collect", max_turns=MAX_TURNS)
        people = [len(row["messages"]) // 2 for row in _rows(loop.files / "people.jsonl")]
        rows = [
            row for row in _rows(folder / "collect" / "dialogues.jsonl")
            if row["collection"]["part"] == "question"
        ]  # fmt: skip
        asked = [len(row["messages"]) // 2 for row in rows]
        stops = Counter(row["collection"]["stop"] for row in rows)
        print(f"| {seed} | {_mean(people)} | {_mean(asked)} | {dict(stops.most_common())} |")


def _rows(path: Path) -> list[dict]:
    with open(path, encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def _mean(turns: Sequence[int]) -> str:
    """Formats the mean with its 95 % normal interval."""
    error = 1.96 * np.std(turns) / np.sqrt(len(turns))
    return f"{np.mean(turns):.2f} ± {error:.2f} (n = {len(turns)})"


if __name__ == "__main__":
    main()
