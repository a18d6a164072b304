"""Accuracy of ordinary training on the hard world, which is reserved for preference training.

For each seed, trains Parrot-Chat with the quickstart's recipe on all turns of 440 dialogues of ten
turns, with people's questions and right answers, and gives it the exam of eight turns. The easy
world is measured in the same way for comparison.

    python scripts/bench/world_hard.py --out runs/world_hard --seeds 3
"""

import argparse
import dataclasses
import json
from pathlib import Path

import numpy as np

from parrot_jax.dialogue.writers import write_messages
from parrot_jax.train.loop import train
from parrot_jax.world.exam import take_exam
from parrot_jax.world.facts import Difficulty, make_world
from parrot_jax.world.people import people_dialogues
from parrot_jax.world.quickstart import QuickstartScale
from parrot_jax.world.recipes import chat_config
from parrot_jax.world.world_files import Sizes, write_world

NUM_ROUNDS = 10


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", default="runs/world_hard", help="folder of the runs")
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    print("| world | seed | " + " | ".join(f"turn {n}" for n in range(1, 9)) + " | all |")
    print("|---" * 11 + "|")
    difficulties: tuple[Difficulty, ...] = ("easy", "hard")
    for difficulty in difficulties:
        for seed in range(options.seeds):
            right = examine(Path(options.out) / f"{difficulty}-{seed}", difficulty, seed)
            cells = " | ".join(f"{share:.3f}" for share in (*right.mean(axis=0), right.mean()))
            print(f"| {difficulty} | {seed} | {cells} |", flush=True)


def examine(folder: Path, difficulty: Difficulty, seed: int) -> np.ndarray:
    """Trains a model if needed; returns whether its answers are right, [dialogues, 8]."""
    out = folder / "exam"
    answers = out.with_name("exam.jsonl")
    if not answers.exists():
        world, sizes = make_world(difficulty, seed), Sizes()
        write_world(folder / "world", world, sizes)
        dialogues = folder / "dialogues.jsonl"
        write_messages(
            dialogues, people_dialogues(world, "all", sizes.beginnings, num_rounds=NUM_ROUNDS)
        )
        config = chat_config(
            folder / "world", dialogues, folder / "chat",
            seed=seed, epochs=QuickstartScale().chat_epochs, max_turns=None,
        )  # fmt: skip
        # Questions of the hard world are longer, so ten turns need longer rows.
        data = dataclasses.replace(config.data, row_tokens=320)
        train(dataclasses.replace(config, data=data))
        take_exam(folder / "chat", folder / "world" / "exam.jsonl", out, histories=["own"])
    with open(answers, encoding="utf-8") as file:
        return np.array([json.loads(line)["right"] for line in file])


if __name__ == "__main__":
    main()
