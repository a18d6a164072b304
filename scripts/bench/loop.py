"""The share of a small run's time that is spent outside the train step.

A child process runs `parrot train` on the dialogues of the synthetic world and notes when each
step starts. The time of the loop is that between two starts, after the first steps. When the run is
done, the child calls the same compiled step again on the batches of the same steps, which are on
the device, and waits once at the end: the time of the step alone. The share outside the step is
1 - step / loop, from the means.

`--source` measures another checkout of the project, e.g. of an older commit, in the same rounds; it
may be given several times. All checkouts train on the same files, and must log the same losses.

    .venv/bin/python scripts/bench/loop.py [--source OLD_CHECKOUT] [--steps 300] [--rounds 5]
"""

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[2]
SKIPPED = 20
"""Steps at the start that are not measured; the first one compiles."""


class Case(NamedTuple):
    """A small run."""

    rows: int
    tokens: int
    width: int
    layers: int


CASES = {
    "64 x 2, 8 x 128": Case(8, 128, 64, 2),
    "quickstart's asker, 128 x 3, 4 x 256": Case(4, 256, 128, 3),
}


def config_of(case: Case, world: Path, steps: int, out: Path) -> dict[str, Any]:
    """A run without evaluations, and with one checkpoint, at its end."""
    return {
        "task": "ask", "out": str(out),
        "data": {
            "sources": [{"kind": "messages", "path": str(world / "people.jsonl")}],
            "tokenizer": str(world / "tokenizer.model"),
            "mask": {"loss_roles": ["user"], "skip_first_turn": True},
            "row_tokens": case.tokens, "cache_dir": str(out / "cache"),
        },
        "model": {
            "vocab_size": 896, "hidden_size": case.width, "intermediate_size": 2 * case.width,
            "num_hidden_layers": case.layers, "num_attention_heads": 4, "num_key_value_heads": 4,
            "max_position_embeddings": 512, "tie_word_embeddings": True,
        },
        "optim": {"lr": 3e-3}, "epochs": 100, "max_steps": steps, "batch_rows": case.rows,
        "compute_dtype": "float32", "seed": 0, "checkpoint_every_steps": 10**9,
    }  # fmt: skip


def child(config: str) -> None:
    """Trains, then prints the times as JSON; uses only what old commits have, too."""
    import jax

    from parrot_jax import cli
    from parrot_jax.train import loop

    starts: list[float] = []
    last: list[Any] = []
    arguments: list[tuple[Any, ...]] = []
    set_up: Any = loop.set_up

    def watched_set_up(*args: Any, **kwargs: Any) -> Any:
        setup = set_up(*args, **kwargs)
        real = setup.program.step

        def step(state: Any, *rest: Any) -> Any:
            starts.append(time.perf_counter())
            state, metrics = real(state, *rest)
            last[:] = real, state
            arguments.append(rest)
            return state, metrics

        return setup._replace(program=setup.program._replace(step=step))

    loop.set_up = watched_set_up
    status = cli.main(["train", config])
    if status:
        raise SystemExit(status)
    periods = [late - early for early, late in itertools.pairwise(starts)][SKIPPED:]
    step, state = last
    for rest in arguments[:SKIPPED]:
        state, _ = step(state, *rest)
    jax.block_until_ready(state)
    started = time.perf_counter()
    for rest in arguments[SKIPPED:-1]:
        state, _ = step(state, *rest)
    jax.block_until_ready(state)
    alone = (time.perf_counter() - started) / len(periods)
    result = [statistics.median(periods), statistics.fmean(periods), alone]
    print("\n" + json.dumps([value * 1e3 for value in result]), flush=True)


def run(source: Path, case: Case, world: Path, steps: int) -> tuple[list[float], list[float]]:
    """Times in ms (median and mean of the loop, the step alone), and all losses, of one child."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        config = Path(folder) / "config.yaml"
        config.write_text(json.dumps(config_of(case, world, steps, out)))  # JSON is YAML
        ended = subprocess.run(
            [sys.executable, __file__, "--child", str(config)],
            env=os.environ | {"PYTHONPATH": str(source)}, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        if ended.returncode:
            raise SystemExit(f"{source}: exit status {ended.returncode}\n{ended.stdout}")
        lines = (out / "metrics.jsonl").read_text().splitlines()
        return json.loads(ended.stdout.splitlines()[-1]), [json.loads(x)["loss"] for x in lines]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--source", type=Path, action="append", default=[])
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(options.child)
        return
    if options.steps < 2 * SKIPPED:
        parser.error(f"--steps must be at least {2 * SKIPPED}")
    sources = {"this": ROOT} | {str(path): path.resolve() for path in options.source}
    print("| run: width x layers, rows x T | source | loop, ms/step: median, mean | step, ms | "
          "outside the step (range of rounds) | losses |")  # fmt: skip
    print("|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as world:
        command = [sys.executable, "-m", "parrot_jax.cli", "world", "write", "--out", world]
        subprocess.run(command, env=os.environ | {"PYTHONPATH": str(ROOT)},
                       stdout=subprocess.DEVNULL, check=True)  # fmt: skip
        for name, case in CASES.items():
            times: dict[str, list[list[float]]] = {source: [] for source in sources}
            losses: dict[str, list[float]] = {}
            for _ in range(options.rounds):
                for source, path in sources.items():
                    found, losses[source] = run(path, case, Path(world), options.steps)
                    times[source].append(found)
            for source, rounds in times.items():
                middle, mean, alone = map(statistics.median, zip(*rounds, strict=True))
                shares = [1 - alone / mean for _, mean, alone in rounds]
                found = losses[source]
                same = "" if source == "this" else f", {compare(found, losses['this'])}"
                print(
                    f"| {name} | {source} | {middle:.2f}, {mean:.2f} | {alone:.2f} | "
                    f"{statistics.median(shares):.1%} ({min(shares):.1%} to {max(shares):.1%}) | "
                    f"{found[0]:.6f} to {found[-1]:.6f}{same} |",
                    flush=True,
                )


def compare(losses: list[float], known: list[float]) -> str:
    """Whether all losses of two runs are the same numbers."""
    if losses == known:
        return f"all {len(known)} bit-equal"
    first = next(
        (n for n, pair in enumerate(zip(losses, known, strict=False), 1) if pair[0] != pair[1]),
        "none",
    )
    return f"NOT EQUAL, first at step {first} ({len(losses)} and {len(known)} steps)"


if __name__ == "__main__":
    main()
