"""Compiles the train steps of the GPU benchmark for cards you don't have: `predicted.json`.

    python scripts/bench/gpu/predict.py          # needs the extra cuda13, about a minute

Each is `parrot plan` of a config in `configs/` for one H100 and one H200. Memory comes from the
compiler, time from the operations of the formula at an assumed utilisation. `train.py` prints both
beside what it measures. Prints the table of docs/benchmarks/gpu.md.
"""

import json
import subprocess
import sys
from typing import Any

from measuring import GIB, HERE

ROOT = HERE.parents[2]
CHIPS = ("h100-80g", "h200")
MFU = {"sft7b": 0.5, "sft13b": 0.45, "lora8b": 0.45, "capo7b": 0.45}
"""What we expect of each config. Those of SFT are the goals."""
KEPT = (
    "fits",
    "hbm_bytes",
    "used_bytes",
    "reserve_bytes",
    "params_bytes",
    "optimizer_bytes",
    "temp_bytes",
    "flops_per_step",
    "tokens_per_step",
    "attention",
)


def predict(name: str, chip: str) -> dict[str, Any]:
    """The plan of a config on one card."""
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "parrot_jax.cli",
            "plan",
            str(HERE / "configs" / f"{name}.yaml"),
            "--topology",
            f"{chip}:1x1",
            "--mfu",
            str(MFU[name]),
            "--json",
        ],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    plan = json.loads(done.stdout.splitlines()[-1])
    return {key: plan[key] for key in KEPT} | {
        "mfu": MFU[name],
        "step_s": plan["times"][0]["step_s"],
    }


def as_markdown(predicted: dict[str, dict[str, dict[str, Any]]]) -> str:
    """One line per config and card; sizes in GiB."""
    head = (
        "config",
        "card",
        "parameters",
        "optimizer",
        "temporaries",
        "whole program",
        "of",
        "fits",
        "PFLOP a step",
        "assumed MFU",
        "step, s",
        "tokens/s",
    )
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for name, plans in predicted.items():
        for chip, plan in plans.items():
            sizes = [
                f"{plan[key] / GIB:.1f}"
                for key in (
                    "params_bytes",
                    "optimizer_bytes",
                    "temp_bytes",
                    "used_bytes",
                    "hbm_bytes",
                )
            ]
            cells = [
                name,
                chip,
                *sizes,
                "yes" if plan["fits"] else "**no**",
                f"{plan['flops_per_step'] / 1e15:.2f}",
                f"{plan['mfu']:.0%}",
                f"{plan['step_s']:.2f}",
                f"{plan['tokens_per_step'] / plan['step_s']:,.0f}",
            ]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    predicted = {name: {chip: predict(name, chip) for chip in CHIPS} for name in MFU}
    (HERE / "predicted.json").write_text(json.dumps(predicted, indent=1) + "\n", encoding="utf-8")
    print(as_markdown(predicted))


if __name__ == "__main__":
    main()
