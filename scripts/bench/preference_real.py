"""DPO of a small model on real preference pairs: margin on held-out pairs before and after.

For each seed, trains a small chat model from scratch on dialogues (`configs/train/chat_cpu.yaml`),
then on the pairs (`configs/train/capo_cpu.yaml`), of which a fifth is held out. The seed also draws
the held-out pairs. Intervals are a bootstrap over the held-out pairs.

    python scripts/bench/preference_real.py --dialogues FILE --pairs FILE --tokenizer FILE

Finished runs are not repeated.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from parrot_jax.core.config import load_config
from parrot_jax.dialogue.sources import SourceConfig
from parrot_jax.intervals.bootstrap import ratio_intervals
from parrot_jax.train.loop import train
from parrot_jax.train.train_config import TrainConfig

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "train"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--dialogues", required=True, help="messages JSONL")
    parser.add_argument("--pairs", required=True, help="a file of `kind: preference`")
    parser.add_argument("--tokenizer", required=True)
    parser.add_argument("--out", default="runs/preference_real", help="folder of the runs")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=float, default=3.0, help="over the pairs")
    parser.add_argument("--lr", type=float, default=5e-5, help="over the pairs")
    options = parser.parse_args()
    for seed in range(options.seeds):
        folder = Path(options.out) / f"seed-{seed}"
        chat = config_of("chat_cpu", folder / "chat", options, options.dialogues, seed)
        train(chat)
        capo = config_of("capo_cpu", folder / "capo", options, options.pairs, seed)
        optim = replace(capo.optim, lr=options.lr)
        train(
            replace(
                capo, init_from=chat.out, epochs=options.epochs, optim=optim,
                eval_every_epochs=1.0,
            )
        )  # fmt: skip
        print(f"\nseed {seed}")
        report(folder / "capo")


def config_of(
    name: str, out: Path, options: argparse.Namespace, path: str, seed: int
) -> TrainConfig:
    config = load_config(TrainConfig, CONFIGS / f"{name}.yaml")
    (source,) = config.data.sources
    data = replace(
        config.data, sources=(SourceConfig(kind=source.kind, path=path),),
        tokenizer=options.tokenizer,
    )  # fmt: skip
    return replace(config, out=str(out), data=data, seed=seed)


def report(run: Path) -> None:
    """Prints a row for each evaluation."""
    beta = load_config(TrainConfig, run / "config.yaml").preference.beta
    print("| step | loss | margin | accuracy | chosen log-prob. | rejected log-prob. | KL |")
    print("|---:" * 7 + "|")
    evaluations = sorted((run / "results").glob("eval-*.json"))
    for path in evaluations:
        means: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        pairs = np.load(path.with_suffix(".npy"))
        margins = beta * (
            (pairs["chosen"] - pairs["reference_chosen"])
            - (pairs["rejected"] - pairs["reference_rejected"])
        )
        values = np.stack([margins, margins > 0], axis=1)
        margin, accuracy = ratio_intervals(values, np.ones_like(values))
        print(
            f"| {int(path.stem.split('-')[1])} | {means['loss']:.4f} "
            f"| {margins.mean():.3f} [{margin[0]:.3f}, {margin[1]:.3f}] "
            f"| {values[:, 1].mean():.1%} [{accuracy[0]:.1%}, {accuracy[1]:.1%}] "
            f"| {means['logps/chosen']:.1f} | {means['logps/rejected']:.1f} | {means['kl']:.4f} |"
        )
    pairs = np.load(evaluations[-1].with_suffix(".npy"))
    longer = (pairs["chosen_tokens"] > pairs["rejected_tokens"]).mean()
    print(f"{len(pairs)} held-out pairs; the chosen answer is the longer one in {longer:.0%}")


if __name__ == "__main__":
    main()
