"""Runs the quickstart with several seeds and compares it with its targets.

    python scripts/bench/quickstart.py --out runs/bars --seeds 3

Each run is the command of `make quickstart`; existing runs are not repeated. Exits with 1 if a
target is missed.
"""

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

BUDGETS_S = {
    "ask": 120, "collect": 90, "chat": 150, "chat_first_turn": 40, "capo": 50, "exam": 125,
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", default="runs/bars", help="folder of the runs")
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    summaries = []
    for seed in range(options.seeds):
        folder = Path(options.out) / f"seed-{seed}"
        command = ["quickstart", "--out", str(folder), "--seed", str(seed)]
        print("$ parrot " + " ".join(command), flush=True)
        before = cpu_times()
        subprocess.run([sys.executable, "-m", "parrot_jax.cli", *command], check=True)
        spent = [now - then for now, then in zip(cpu_times(), before, strict=True)]
        print(f"seed {seed}: the host stole {spent[7] / sum(spent):.0%} of the CPU time")
        summaries.append(json.loads((folder / "summary.json").read_text(encoding="utf-8")))
    rows = [row for summary in summaries for row in bars(summary)] + budgets(summaries)
    print("| figure | value | target | |\n|---|---|---|---|")
    for what, seen, bar, holds in rows:
        print(f"| {what} | {seen} | {bar} | {'reached' if holds else 'MISSED'} |")
    sys.exit(0 if all(row[3] for row in rows) else 1)


def cpu_times() -> list[int]:
    """CPU ticks by kind, from /proc/stat; the eighth is time stolen by the host."""
    with open("/proc/stat", encoding="ascii") as file:
        return [int(ticks) for ticks in file.readline().split()[1:]]


def bars(summary: dict[str, Any]) -> list[tuple[str, str, str, bool]]:
    """Compares one seed with the targets: (name, value, target, whether it is reached)."""
    ask, chat = summary["ask"], summary["chat"]
    whole, first = chat["accuracy_by_turn"], chat["accuracy_by_turn_first_turn_only"]
    distance = ask["kind_distance"] - ask["kind_distance_floor"]
    least_lead = min(a - b for a, b in zip(whole[4:], first[4:], strict=True))
    rows = [
        ("valid_question_rate", ask["valid_question_rate"], ">= 0.95", 0.95),
        ("kind_distance above its floor", -distance, "<= 0.10", -0.10),
        ("mean_turns", summary["collection"]["mean_turns"], ">= 8", 8.0),
        ("all turns trained: right at turn 8", whole[7], ">= 0.95", 0.95),
        ("smallest lead over first turns only, turns 5 to 8", least_lead, ">= 0.30", 0.30),
    ]
    return [
        (f"seed {summary['seed']}: {what}", f"{abs(seen):.3f}", bar, seen >= limit)
        for what, seen, bar, limit in rows
    ]


def budgets(summaries: list[dict[str, Any]]) -> list[tuple[str, str, str, bool]]:
    """Compares the seconds of each stage and in total, as medians over the seeds."""
    seconds = {
        stage: statistics.median(summary["stages"][stage] for summary in summaries)
        for stage in BUDGETS_S
    }
    seconds["all"] = statistics.median(summary["wall_s"] for summary in summaries)
    limits = {**BUDGETS_S, "all": 600}
    return [
        (f"median seconds of {stage}", f"{spent:.0f}", f"<= {limits[stage]}",
         spent <= limits[stage])
        for stage, spent in seconds.items()
    ]  # fmt: skip


if __name__ == "__main__":
    main()
