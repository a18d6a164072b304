"""Plans the shipped runs for each topology: the tables of docs/plans.md.

    python scripts/bench/plan.py --out plans.jsonl [--only v5p]

Needs the extras cuda13 and tpu. Each plan is compiled by `parrot plan` in a separate process, since
jax reads its target only once, and stored as a line of the file. A killed benchmark resumes: stored
plans are not compiled again, so use another file after a change of the code. The plans take about a
minute each on two idle cores.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[2]
MFU = "0.4"
GIB = 2**30


class Case(NamedTuple):
    """A config and a topology to plan."""

    config: str
    """Name in configs/train, without `parrot_` and `.yaml`."""
    topology: str
    options: tuple[str, ...] = ()
    rows: int = 70_000
    """Rows of the training data."""


ONE_ROW = ("--micro-rows", "1", "--remat", "full")
CASES = (
    Case("ask_llama2_13b_a100x8", "a100-80g:1x8"),
    Case("ask_llama2_13b_a100x8_8steps", "a100-80g:1x8"),
    Case("ask_llama2_13b_a100x8_256", "a100-80g:1x8"),
    Case("ask_llama2_13b_a100x8_packed", "a100-80g:1x8"),
    Case("ask_llama1_13b", "a100-80g:1x8"),
    Case("ask_kwaiyii_13b", "a100-80g:1x8"),
    Case("ask_llama2_13b_a100x8", "a100-80g:2x8", ("--mesh.fsdp", "16")),
    Case("ask_llama2_13b_a100x8", "h100-80g:1x8"),
    Case("ask_llama2_13b_h200", "h200:1x1"),
    Case("ask_llama2_13b_h200", "h200:1x1", ("--accumulator-dtype", "float32")),
    Case("ask_llama2_13b_a100x8", "h200:1x8", ("--micro-rows", "4")),
    Case("ask_llama2_13b_v5p", "v4:2x2x4", ONE_ROW),
    Case("ask_llama2_13b_v5e", "v5e:4x8"),
    Case("ask_llama2_13b_v5p", "v5p:2x2x4"),
    Case("ask_llama2_13b_v5p", "v6e:4x4", ONE_ROW),
    *(
        Case(f"chat_{model}_{hardware}", topology, rows=40_000)
        for model in ("llama3.1_8b", "qwen3_8b")
        for hardware, topology in (
            ("a100x8", "a100-80g:1x8"),
            ("a100", "a100-80g:1x1"),
            ("v5e", "v5e:4x8"),
            ("lora_a100", "a100-80g:1x1"),
            ("lora_a100", "a100-80g:1x8"),
            ("lora_v5e", "v5e:2x4"),
        )
    ),
    Case("chat_llama2_13b_lora_a100", "a100-80g:1x1", rows=40_000),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", default="runs/plans.jsonl", help="file of the plans")
    parser.add_argument("--only", default="", help="part of a config's or topology's name")
    options = parser.parse_args()
    path = Path(options.out)
    path.parent.mkdir(parents=True, exist_ok=True)
    known = read_plans(path)
    plans = []
    for case in CASES:
        if options.only not in f"{case.config} {case.topology}":
            continue
        command = command_of(case)
        if command not in known:
            print(" ".join(command), file=sys.stderr, flush=True)
            plan = compile_plan(command)
            with open(path, "a", encoding="utf-8") as file:
                file.write(json.dumps({"command": command, "plan": plan}) + "\n")
            known[command] = plan
        plans.append((case, known[command]))
    print(as_markdown(plans))


def command_of(case: Case) -> tuple[str, ...]:
    """The arguments of `parrot`; also identifies the plan in the file."""
    config = f"configs/train/parrot_{case.config}.yaml"
    fixed = ("--rows", str(case.rows), "--mfu", MFU, "--json")
    return ("plan", config, "--topology", case.topology, *case.options, *fixed)


def read_plans(path: Path) -> dict[tuple[str, ...], Any]:
    """The plans of earlier calls."""
    if not path.exists():
        return {}
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return {tuple(line["command"]): line["plan"] for line in lines}


def compile_plan(command: Sequence[str]) -> dict[str, Any]:
    """Runs `parrot plan`; accepts plans that do not fit."""
    done = subprocess.run(
        [sys.executable, "-m", "parrot_jax.cli", *command],
        cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True,
    )  # fmt: skip
    return json.loads(done.stdout.splitlines()[-1])


def as_markdown(plans: Sequence[tuple[Case, dict[str, Any]]]) -> str:
    """Formats the plans as a Markdown table. Sizes are GiB per device."""
    head = ("config", "topology", "mesh", "micro-batches x rows", "remat", "attention",
            "parameters", "optimizer", "temporaries", "reserve", "device memory", "free", "fits",
            "step, s", "hours")  # fmt: skip
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for case, plan in plans:
        changed = f", `{' '.join(case.options)}`" if case.options else ""
        data, fsdp, tensor = plan["mesh"]
        time = plan["times"][0]
        cells = [
            case.config.removeprefix("ask_llama2_13b_").removeprefix("ask_").removeprefix("chat_")
            + changed,
            plan["topology"],
            f"{data} x {fsdp} x {tensor}",
            f"{plan['micro_batches']} x {plan['micro_rows'] * data * fsdp}",
            plan["remat"],
            plan["attention"],
            gib(plan["params_bytes"]),
            gib(plan["optimizer_bytes"]),
            gib(plan["temp_bytes"]),
            f"{plan['reserve_bytes'] / GIB:.2f}",
            gib(plan["hbm_bytes"]),
            "?" if plan["free_share"] is None else f"{plan['free_share']:.0%}",
            "yes" if plan["fits"] else "**no**",
            f"{time['step_s']:.1f}",
            f"{time['hours']:,.1f}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def gib(num_bytes: int | None) -> str:
    """Formats bytes as GiB; `?` if unknown."""
    return "?" if num_bytes is None else f"{num_bytes / GIB:.1f}"


if __name__ == "__main__":
    main()
