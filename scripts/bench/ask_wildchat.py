"""Compares loss masks: small models trained on user turns, assistant turns, all turns, or nothing.

For each seed, trains four models from scratch on the same rows in the same order; they differ only
in the turns that carry loss. Compares their perplexity on held-out dialogues, with a bootstrap over
dialogues that is paired between models. Prints each `parrot train` command before it starts;
existing runs are not repeated.

    python scripts/bench/ask_wildchat.py --data wildchat.jsonl --tokenizer tokenizer.model

`--small` trains one seed for a quarter of an epoch, in minutes.
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from parrot_jax.core.files import write_json

ROOT = Path(__file__).resolve().parents[2]
CONFIG = ROOT / "configs" / "train" / "ask_wildchat_cpu.yaml"
MASKS = {
    "untrained": ["--data.mask.loss-roles", "user", "--max-steps", "0"],
    "user turns": ["--data.mask.loss-roles", "user"],
    "assistant turns": ["--data.mask.loss-roles", "assistant", "--data.mask.no-skip-first-turn",
                        "--allow-other-mask"],
    "all turns": ["--data.mask.loss-roles", "user", "assistant", "--data.mask.no-skip-first-turn",
                  "--allow-other-mask"],
}  # fmt: skip
NUM_RESAMPLES = 10_000


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", required=True, help="dialogues as messages JSONL")
    parser.add_argument("--tokenizer", required=True, help="a SentencePiece tokenizer.model")
    parser.add_argument("--out", default="runs/ask_wildchat", help="folder of the runs")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--small", action="store_true", help="one seed, a quarter of an epoch")
    options = parser.parse_args()
    out = Path(options.out + "_small" if options.small else options.out)
    seeds = range(1 if options.small else options.seeds)
    started = time.perf_counter()
    for seed in seeds:
        for name, mask in MASKS.items():
            run = out / f"{name.replace(' ', '_')}-{seed}"
            _train(run, [*mask, "--seed", str(seed)], options)
    turns = {
        name: [_last_eval(out / f"{name.replace(' ', '_')}-{seed}") for seed in seeds]
        for name in MASKS
    }
    result = compare(turns)
    write_json(out / "comparison.json", result)
    print(as_markdown(result))
    print(f"\n{len(seeds)} seed(s), {time.perf_counter() - started:.0f} s; see {out}")


def _train(run: Path, arguments: list[str], options: argparse.Namespace) -> None:
    command = [
        "parrot", "train", str(CONFIG.relative_to(ROOT)),
        "--data.sources.0.path", options.data, "--data.tokenizer", options.tokenizer,
        "--data.no-trim-dead", "--eval-every-epochs", "100", "--out", str(run), *arguments,
    ]  # fmt: skip
    if options.small and "--max-steps" not in command:
        command += ["--epochs", "0.25"]
    said = " ".join(command)
    finished = run / "finished"
    if finished.exists() and finished.read_text() == said:
        return
    print(f"\n$ {said}", flush=True)
    module = [sys.executable, "-m", "parrot_jax.cli", "train", str(CONFIG), *command[3:]]
    subprocess.run(module, check=True)
    finished.write_text(said)


def _last_eval(run: Path) -> NDArray[Any]:
    return np.load(sorted((run / "results").glob("eval-*.npy"))[-1])


def compare(turns: dict[str, list[NDArray[Any]]]) -> dict[str, Any]:
    """Perplexities with intervals, and paired differences to the model trained on user turns.

    Args:
      turns: For each model, one array of measured turns per seed, with equal turns in equal order.

    Returns:
      For user turns 2..T and assistant turns: `{model: {ppl, low, high, by_seed, ratio, ...}}`.
      `ratio` is the model's perplexity divided by that of the user-trained model. Perplexities are
      geometric means over seeds. Intervals are the 2.5 % and 97.5 % quantiles over resampled
      dialogues.
    """
    first = next(iter(turns.values()))[0]
    chosen = {
        "user turns 2..T": first["is_user"] & (first["turn"] > 0),
        "assistant turns": ~first["is_user"],
    }
    result: dict[str, Any] = {}
    for kind, mask in chosen.items():
        dialogues, owner = np.unique(first["dialogue"][mask], return_inverse=True)
        tokens = np.bincount(owner, first["tokens"][mask])
        # Losses in nats, [models, seeds, dialogues]; all models use the same resampled dialogues.
        nll = np.array(
            [[np.bincount(owner, seed["nll"][mask]) for seed in runs] for runs in turns.values()]
        )
        rng = np.random.default_rng(0)
        draws = rng.multinomial(len(dialogues), np.full(len(dialogues), 1 / len(dialogues)),
                                size=NUM_RESAMPLES)  # fmt: skip
        mean = nll.mean(axis=1)
        sampled = (mean @ draws.T) / (draws @ tokens)
        log_ppl = mean.sum(axis=1) / tokens.sum()
        base = list(turns).index("user turns")
        result[kind] = {"dialogues": len(dialogues), "tokens": int(tokens.sum()), "models": {}}
        for index, name in enumerate(turns):
            ratio = log_ppl[index] - log_ppl[base]
            result[kind]["models"][name] = {
                "ppl": np.exp(log_ppl[index]),
                "interval": np.exp(np.quantile(sampled[index], [0.025, 0.975])).tolist(),
                "by_seed": np.exp(nll[index].sum(axis=1) / tokens.sum()).tolist(),
                "ratio": np.exp(ratio),
                "ratio_interval": np.exp(
                    np.quantile(sampled[index] - sampled[base], [0.025, 0.975])
                ).tolist(),
            }
    return result


def as_markdown(result: dict[str, Any]) -> str:
    """Formats the comparison as Markdown tables."""
    lines = []
    for kind, table in result.items():
        lines += [
            f"\nPerplexity of {kind} ({table['dialogues']} held-out dialogues, "
            f"{table['tokens']:,} tokens)\n",
            "| trained on | perplexity [95 %] | by seed | ratio to user-trained [95 %] |",
            "|---|---|---|---|",
        ]
        for name, row in table["models"].items():
            low, high = row["interval"]
            ratio_low, ratio_high = row["ratio_interval"]
            seeds = ", ".join(f"{ppl:,.0f}" for ppl in row["by_seed"])
            lines.append(
                f"| {name} | {row['ppl']:,.0f} [{low:,.0f}, {high:,.0f}] | {seeds} | "
                f"{row['ratio']:.3f} [{ratio_low:.3f}, {ratio_high:.3f}] |"
            )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
