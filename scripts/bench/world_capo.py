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
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from parrot_jax.data.prepare import prepare
from parrot_jax.dialogue.writers import write_messages
from parrot_jax.intervals.bootstrap import ratio_intervals
from parrot_jax.negatives.negatives_config import KINDS, Kind
from parrot_jax.train.loop import train
from parrot_jax.train.train_config import Objective, PreferenceConfig, TrainConfig
from parrot_jax.world.capo import count_errors, files_of_pairs, make_pairs
from parrot_jax.world.exam import take_exam
from parrot_jax.world.facts import World, make_world
from parrot_jax.world.mistakes import ERROR_KINDS, ErrorKind
from parrot_jax.world.people import people_dialogues
from parrot_jax.world.recipes import capo_config, chat_config
from parrot_jax.world.world_files import Sizes, write_world

NUM_DIALOGUES, NUM_ROUNDS, SFT_EPOCHS = 2000, 10, 2.0
PER_KIND = 1000
BEFORE = "SFT"
FAST = 2e-4


class Run(NamedTuple):
    """A run from the SFT model; all take as many steps."""

    folder: str
    objective: Objective = "preference"
    kinds: Sequence[Kind] = KINDS
    sft_weight: float = 0.0
    lr: float | None = None
    """None = as in the recipe."""


RUNS = {
    **{f"CaPO, {kind}": Run(f"capo_{kind}", kinds=(kind,)) for kind in KINDS},
    "CaPO, all": Run("capo_all"),
    "CaPO, all, with an SFT term": Run("capo_sft", sft_weight=1.0),
    "CaPO, all, four times the learning rate": Run("capo_fast", lr=FAST),
    "further SFT": Run("further", "sft"),
    "further SFT, four times the learning rate": Run("further_fast", "sft", lr=FAST),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", default="runs/world_capo", help="folder of the runs")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", nargs="*", help="names of runs; default: all")
    options = parser.parse_args()
    found: dict[str, list[dict[str, Any]]] = {}
    for seed in range(options.seeds):
        world = make_world("hard", seed)
        for name, answers in exams(Path(options.out), world, options.only):
            found.setdefault(name, []).append({"errors": count_errors(world, answers),
                                               "right": right(answers)})  # fmt: skip
    turns = range(1, found[BEFORE][0]["right"].shape[1] + 1)
    print_table(["model", *turns, "all [95 %]", "by seed", "gain over SFT [95 %]"], (
        accuracy_cells(name, runs, found[BEFORE]) for name, runs in found.items()
    ))  # fmt: skip
    print_table(["model", "errors", *turns, "all"], (
        [name, kind, *(f"{share:.1%}" for share in errors_of(runs, kind))]
        for name, runs in found.items() for kind in ERROR_KINDS if any(errors_of(runs, kind))
    ))  # fmt: skip


def print_table(columns: Sequence[object], rows: Iterable[Sequence[str]]) -> None:
    print("\n| " + " | ".join(map(str, columns)) + " |\n" + "|---" * len(columns) + "|")
    for row in rows:
        print("| " + " | ".join(row) + " |")


def accuracy_cells(name: str, runs: Sequence[Any], before: Sequence[Any]) -> list[str]:
    """Accuracy by turn and in all; intervals are a bootstrap over the dialogues of all seeds."""
    right = np.concatenate([run["right"] for run in runs]).astype(float)
    gain = right - np.concatenate([run["right"] for run in before])
    means = np.stack([right.mean(axis=1), gain.mean(axis=1)], axis=1)
    (low, high), (least, most) = ratio_intervals(means, np.ones_like(means))
    return [
        name,
        *(f"{share:.3f}" for share in right.mean(axis=0)),
        f"{right.mean():.3f} [{low:.3f}, {high:.3f}]",
        ", ".join(f"{run['right'].mean():.3f}" for run in runs),
        f"{gain.mean():+.3f} [{least:+.3f}, {most:+.3f}]" if runs is not before else "",
    ]


def errors_of(runs: Sequence[Any], kind: ErrorKind) -> list[float]:
    """Shares of answers with an error of this kind: by turn, and of all."""
    by_turn = [np.mean(turn) for turn in zip(
        *([turn[kind] for turn in run["errors"]["by_turn"]] for run in runs), strict=True
    )]  # fmt: skip
    return [*map(float, by_turn), float(np.mean(by_turn))]


def exams(out: Path, world: World, only: list[str] | None) -> Any:
    """Trains the models of a seed; yields their names and files of answers."""
    folder = out / f"seed-{world.seed}"
    supervised(folder, world)
    yield BEFORE, examined(folder, "chat")
    pairs = folder / "negatives"
    if not (pairs / "summary.json").exists():
        make_pairs(world, folder / "dialogues.jsonl", pairs, seed=world.seed, per_kind=PER_KIND)
    for name, run in RUNS.items():
        if not only or name in only:
            train(config_of(folder, run, world.seed))
            yield name, examined(folder, run.folder)


def supervised(folder: Path, world: World) -> None:
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
    train(replace(config, data=replace(config.data, row_tokens=320)))


def config_of(folder: Path, run: Run, seed: int) -> TrainConfig:
    """Config of a run. Fewer kinds, and SFT without rejected answers, fill fewer rows a pass."""
    config = capo_config(
        folder / "world", files_of_pairs(folder / "negatives", run.kinds), folder / run.folder,
        init_from=folder / "chat", seed=seed, epochs=len(KINDS) / len(run.kinds),
    )  # fmt: skip
    preference, optim = PreferenceConfig(sft_weight=run.sft_weight), config.optim
    if run.lr is not None:
        optim = replace(optim, lr=run.lr)
    if run.objective == "preference":
        return replace(config, preference=preference, optim=optim)
    steps = len(prepare(config.data, "train", pairs=True).rows())
    epochs = steps / len(prepare(config.data, "train").rows())
    optim = replace(optim, warmup_epochs=epochs / 20)
    return replace(config, objective="sft", preference=preference, epochs=epochs, optim=optim)


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
