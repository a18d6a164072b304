"""Times `parrot report` and `parrot runs` on a training run of many steps.

    python scripts/bench/run_report.py --run runs/ask --steps 100000

The run is a copy of a real one whose metrics are repeated to the number of steps, with an
evaluation and samples at every thousandth.
"""

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--run", required=True, help="a finished training run, with evaluations")
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        lengthen(Path(options.run), run, options.steps)
        size = (run / "metrics.jsonl").stat().st_size / 2**20
        print(f"{options.steps:,} steps, metrics.jsonl of {size:.0f} MiB")
        page = Path(folder) / "report.html"
        times(["report", str(run), "--out", str(page)], options.repeats)
        print(f"the page has {page.stat().st_size / 2**10:,.0f} KiB")
        times(["runs", folder], options.repeats)


def lengthen(source: Path, run: Path, steps: int) -> None:
    """Copies a run and repeats its metrics, evaluations and samples."""
    skipped = shutil.ignore_patterns("checkpoints", "tokenizer", "results", "*.jsonl")
    shutil.copytree(source, run, ignore=skipped)
    rows = [json.loads(line) for line in (source / "metrics.jsonl").read_text().splitlines()]
    with (run / "metrics.jsonl").open("w") as file:
        for step in range(1, steps + 1):
            file.write(json.dumps(rows[step % len(rows)] | {"step": step}) + "\n")
    results = sorted((source / "results").glob("eval-*.json"))
    last = json.loads(results[-1].read_text())
    samples = [json.loads(line) for line in (source / "samples.jsonl").read_text().splitlines()]
    (run / "results").mkdir()
    with (run / "samples.jsonl").open("w") as file:
        for step in range(1000, steps + 1, 1000):
            path = run / "results" / f"eval-{step:06d}.json"
            path.write_text(json.dumps(last | {"step": step}))
            for sample in samples[-5:]:
                file.write(json.dumps(sample | {"step": step}) + "\n")


def times(command: list[str], repeats: int) -> None:
    """Prints the seconds of a command as a whole process."""
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        program = [sys.executable, "-m", "parrot_jax.cli", *command]
        subprocess.run(program, check=True, stdout=subprocess.DEVNULL)
        seconds.append(time.perf_counter() - started)
    print(
        f"parrot {command[0]}: median {statistics.median(seconds):.2f} s "
        f"({min(seconds):.2f}-{max(seconds):.2f})"
    )


if __name__ == "__main__":
    main()
