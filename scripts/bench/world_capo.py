"""CaPO on the hard world: errors by kind and turn, before and after, with each kind of negatives.

For each seed, trains Parrot-Chat on people's dialogues, makes three kinds of negatives from the
same dialogues, and trains with CaPO on each kind alone and on all. For comparison, it also trains
further on the chosen answers alone, for as many steps. Each model takes the exam of eight turns.

There are more dialogues than in the quickstart and fewer passes over them: after seven passes over
560, the model knew their answers by heart (96 % right on them, 73 % in the exam), and preferring
what it knew taught it nothing.

    python scripts/bench/world_capo.py --out runs/world_capo --seeds 3

Finished parts are not repeated.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from parrot_jax.data.prepare import prepare
from parrot_jax.dialogue.writers import write_messages
from parrot_jax.intervals.bootstrap import ratio_intervals
from parrot_jax.negatives.negatives_config import KINDS, Kind
from parrot_jax.train.loop import train
from parrot_jax.train.train_config import TrainConfig
from parrot_jax.world.capo import count_errors, files_of_pairs, make_pairs
from parrot_jax.world.exam import take_exam
from parrot_jax.world.facts import World, make_world
from parrot_jax.world.mistakes import ERROR_KINDS
from parrot_jax.world.people import people_dialogues
from parrot_jax.world.recipes import capo_config, chat_config
from parrot_jax.world.world_files import Sizes, write_world

NUM_DIALOGUES, NUM_ROUNDS, SFT_EPOCHS = 2000, 10, 2.0
PER_KIND = 1000
BEFORE, FURTHER = "SFT", "SFT, further on the chosen answers"
RUNS: dict[str, Sequence[Kind]] = {
    **{f"CaPO, {kind}": (kind,) for kind in KINDS},
    "CaPO, all": KINDS,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", default="runs/world_capo", help="folder of the runs")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=float, default=1.0, help="of CaPO over its pairs")
    parser.add_argument("--only", nargs="*", help="names of runs; default: all")
    options = parser.parse_args()
    found: dict[str, list[dict[str, Any]]] = {}
    for seed in range(options.seeds):
        world = make_world("hard", seed)
        for name, answers in exams(Path(options.out), world, options.epochs, options.only):
            found.setdefault(name, []).append({"errors": count_errors(world, answers),
                                               "right": right(answers)})  # fmt: skip
    print("| model | " + " | ".join(f"turn {n}" for n in range(1, 9)) + " | all |")
    print("|---" + "|---:" * 9 + "|")
    for name, seeds in found.items():
        graded = np.concatenate([one["right"] for one in seeds])
        cells = [*graded.mean(axis=0), graded.mean()]
        low, high = ratio_intervals(
            graded.sum(axis=1, keepdims=True), np.full((len(graded), 1), graded.shape[1])
        )[0]
        by_seed = ", ".join(f"{one['right'].mean():.3f}" for one in seeds)
        print(f"| {name} | " + " | ".join(f"{cell:.3f}" for cell in cells)
              + f" [{low:.3f}, {high:.3f}] ({by_seed}) |")  # fmt: skip
    print("\n| model | " + " | ".join(ERROR_KINDS) + " |")
    print("|---" + "|---:" * len(ERROR_KINDS) + "|")
    for name, seeds in found.items():
        kinds = [np.mean([s["errors"]["by_kind"][kind] for s in seeds]) for kind in ERROR_KINDS]
        print(f"| {name} | " + " | ".join(f"{share:.1%}" for share in kinds) + " |")


def exams(out: Path, world: World, epochs: float, only: list[str] | None) -> Any:
    """Trains the models of a seed; yields their names and files of answers."""
    folder = out / f"seed-{world.seed}"
    sft = supervised(folder, world)
    yield BEFORE, examined(folder, "chat")
    pairs = folder / "negatives"
    if not (pairs / "summary.json").exists():
        make_pairs(world, folder / "dialogues.jsonl", pairs, seed=world.seed, per_kind=PER_KIND)
    everything = capo_of(folder, KINDS, epochs, world.seed)
    for name, kinds in RUNS.items():
        if only and name not in only:
            continue
        config = capo_of(folder, kinds, epochs, world.seed)
        train(config)
        yield name, examined(folder, Path(config.out).name)
    if not only or FURTHER in only:
        steps = len(prepare(everything.data, "train", pairs=True).rows()) * epochs
        config = replace(
            everything,
            objective="sft", out=str(folder / "further"), init_from=str(folder / "chat"),
            data=replace(everything.data, mask=sft.data.mask),
        )  # fmt: skip
        rows = len(prepare(config.data, "train").rows())
        config = replace(config, epochs=steps / rows)
        train(replace(config, optim=replace(config.optim, warmup_epochs=config.epochs / 20)))
        yield FURTHER, examined(folder, "further")


def supervised(folder: Path, world: World) -> TrainConfig:
    """Trains Parrot-Chat on all turns of people's dialogues with right answers."""
    dialogues = folder / "dialogues.jsonl"
    if not dialogues.exists():
        write_world(folder / "world", world, Sizes())
        people = people_dialogues(world, "all", NUM_DIALOGUES, num_rounds=NUM_ROUNDS)
        write_messages(dialogues, people)
    config = chat_config(
        folder / "world", dialogues, folder / "chat",
        seed=world.seed, epochs=SFT_EPOCHS, max_turns=None,
    )  # fmt: skip
    config = replace(config, data=replace(config.data, row_tokens=320))
    train(config)
    return config


def capo_of(folder: Path, kinds: Sequence[Kind], epochs: float, seed: int) -> TrainConfig:
    """CaPO on some kinds, with more epochs if there are fewer, so that all take as many steps."""
    name = kinds[0] if len(kinds) == 1 else "all"
    return capo_config(
        folder / "world", files_of_pairs(folder / "negatives", kinds), folder / f"capo_{name}",
        init_from=folder / "chat", seed=seed, epochs=epochs * len(KINDS) / len(kinds),
    )  # fmt: skip


def examined(folder: Path, run: str) -> Path:
    """Gives a model the exam unless it is done."""
    out = folder / "exam" / run
    answers = out.with_name(f"{run}.jsonl")
    if not answers.exists():
        take_exam(folder / run, folder / "world" / "exam.jsonl", out, histories=["own"])
    return answers


def right(answers: Path) -> np.ndarray:
    """Whether the answers are right, [dialogues, 8]."""
    with open(answers, encoding="utf-8") as file:
        return np.array([json.loads(line)["right"] for line in file])


if __name__ == "__main__":
    main()
