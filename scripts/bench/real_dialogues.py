"""Live tokens per second on real dialogues, beside transformers; the loss is on the user's turns.

All train a LLaMA-like model in float32 with AdamW on the same dialogues. Only the first T tokens of
a dialogue are used by the peers; ours cuts longer ones into windows, and leaves out text after the
last live turn (with --trim, the peers do this, too).

    ours      rows, program and steps of `parrot train`: rows packed with windows, 4 in a step
    padded    transformers with sdpa: 4 dialogues in a step, in the order of the file, padded to the
              longest, logits of all positions, torch's fused AdamW
    compiled  the same with torch.compile(dynamic=True)
    packed    as padded, but rows packed by best fit, 4 in a step. From `position_ids`, which
              restart in each dialogue of a row, transformers makes the block-diagonal mask of sdpa

The peers are in `transformers_steps.py`. Each trainer is a process of its own that waits while
another one measures. In each round, every trainer trains on the same share of its epoch, so a
round's time includes reading the rows. Prints medians by round, and ratios over all rounds.

    .venv-torch/bin/python scripts/bench/real_dialogues.py --data DIALOGUES --tokenizer TOKENIZER
"""

import argparse
import itertools
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from transformers_steps import Counts, Step, config_of, torch_steps

ROOT = Path(__file__).resolve().parents[2]
KINDS = ("ours", "padded", "compiled", "packed")


def our_steps(options: argparse.Namespace) -> tuple[int, Step]:
    """The number of steps of an epoch, and the step of `parrot train`."""
    from parrot_jax.train.setup import set_up
    from parrot_jax.train.state import new_state

    config = config_of(options)
    setup = set_up(config, is_new=True)
    setup.print_summary(config)
    print("live capacity", setup.live_capacity)
    state = new_state(config, setup.program.optimizer, setup.program.state)

    def step(number: int) -> tuple[Any, Counts]:
        nonlocal state
        rows = setup.batches[number]
        counts = [int((rows["loss_weights"] > 0).sum()), int((rows["segment_ids"] > 0).sum())]
        state, metrics = setup.program.step(state, setup.batch(number), setup.learning_rate(number))
        return metrics.loss, [*counts, rows["tokens"].size]

    return len(setup.rows) // options.rows, step


def work(options: argparse.Namespace) -> None:
    """Trains on a round's share of the epoch for each line of the input; answers with JSON."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # for what others print
    kind = options.work
    num_steps, step = our_steps(options) if kind == "ours" else torch_steps(options, kind)
    losses = [float(step(number)[0]) for number in range(3)]  # compiles
    print(json.dumps(losses[0]), file=answers, flush=True)
    for line in sys.stdin:
        first, stop = (
            math.ceil(num_steps * options.share * n / options.rounds)
            for n in (int(line), int(line) + 1)
        )
        started = time.perf_counter()
        done = [step(number) for number in range(first, stop)]
        last = float(done[-1][0])
        seconds = time.perf_counter() - started
        counts = np.sum([counts for _, counts in done], axis=0).tolist()
        print(json.dumps([seconds, *counts, last]), file=answers, flush=True)


def answer(worker: subprocess.Popen) -> Any:
    assert worker.stdout is not None
    line = worker.stdout.readline()
    if not line:
        raise SystemExit(f"a trainer ended with exit status {worker.wait()}")
    return json.loads(line)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", required=True, help="dialogues as messages JSONL")
    parser.add_argument("--tokenizer", required=True, help="with at most 32,000 ids")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--tokens", type=int, default=2048, help="T")
    parser.add_argument("--rows", type=int, default=4, help="rows or dialogues of a step")
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--share", type=float, default=1.0, help="of the epoch, over all rounds")
    parser.add_argument("--limit", type=int, help="use only the first dialogues")
    parser.add_argument("--trim", action="store_true", help="for the peers, see above")
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    parser.add_argument("--work", choices=KINDS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        work(options)
        return
    with tempfile.TemporaryDirectory() as folder:
        words = [sys.executable, *sys.argv, "--folder", folder]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        workers, first = {}, {}
        for kind in options.kinds:
            workers[kind] = subprocess.Popen(
                [*words, "--work", kind], env=environment,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            )  # fmt: skip
            first[kind] = answer(workers[kind])
        results: dict[str, list[list[float]]] = {kind: [] for kind in workers}
        for number, (kind, worker) in itertools.product(range(options.rounds), workers.items()):
            worker.stdin.write(f"{number}\n")
            worker.stdin.flush()
            results[kind].append(answer(worker))
        for worker in workers.values():
            worker.communicate()
    print("| trainer | live tokens/s | tokens/s with padding | padding | live | live tokens, all "
          "rounds | s | first loss | last loss |")  # fmt: skip
    print("|---|---|---|---|---|---|---|---|---|")
    rates = {kind: [live / s for s, live, *_ in rounds] for kind, rounds in results.items()}
    for kind, rounds in results.items():
        seconds, live, tokens, positions = np.sum(rounds, axis=0)[:4]
        padded = statistics.median(row[3] / row[0] for row in rounds)
        print(f"| {kind} | {statistics.median(rates[kind]):,.0f} | {padded:,.0f} | "
              f"{1 - tokens / positions:.1%} | {live / tokens:.1%} | {live:,.0f} | {seconds:.0f} | "
              f"{first[kind]:.3f} | {rounds[-1][4]:.3f} |")  # fmt: skip
    # Not by round: the share of live tokens differs between dialogues, and so between rounds.
    totals = {kind: np.sum(rounds, axis=0) for kind, rounds in results.items()}
    for kind in [kind for kind in workers if kind != "ours" and "ours" in workers]:
        ours, theirs = (totals[name][1] / totals[name][0] for name in ("ours", kind))
        print(f"ours / {kind}: {ours / theirs:.2f}, live tokens a second over all rounds")


if __name__ == "__main__":
    main()
