"""Collectives and predicted MFU of LLaMA2-13B on 8 to 256 chips: the tables of docs/scaling.md.

    python scripts/bench/scaling.py --out scaling.jsonl [--only v5p]

Needs the extras cuda13 and tpu. As in plan.py, each plan is compiled by `parrot plan` in a process
of its own and stored as a line of the file, so a killed benchmark resumes. A plan takes a minute or
two on two idle cores.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

os.environ["JAX_PLATFORMS"] = "cpu"  # the formula needs no device

from parrot_jax.commands.plan import PlanConfig
from parrot_jax.core.arguments import parse_arguments
from parrot_jax.train.chips import CHIPS
from parrot_jax.train.scaling import computed_flops_per_token, least_tokens, sent_by_formula

SHARE = 0.6
"""Share of the peak that the products reach; an assumption."""
KINDS = ("all-gather", "reduce-scatter", "all-reduce", "collective-permute")
LIMITS = (("a100x8", "a100-80g"), ("a100x8", "h200"), ("v5p", "v5p"), ("v5e", "v5e"))
"""Configs and chips of the second table."""

ROOT = Path(__file__).resolve().parents[2]


class Case(NamedTuple):
    """A config and a topology to plan."""

    config: str
    """Name in configs/train, without `parrot_ask_llama2_13b_` and `.yaml`."""
    topology: str
    options: tuple[str, ...] = ()

    @property
    def command(self) -> tuple[str, ...]:
        """The arguments of `parrot`; also identifies the plan in the file."""
        config = f"configs/train/parrot_ask_llama2_13b_{self.config}.yaml"
        return ("plan", config, "--topology", self.topology, *self.options, "--json")


def mesh(fsdp: int, tensor: int = 1, batch_rows: int = 32, *more: str) -> tuple[str, ...]:
    """Options of a mesh without data parallelism."""
    return ("--mesh.fsdp", str(fsdp), "--mesh.tensor", str(tensor),
            "--batch-rows", str(batch_rows), *more)  # fmt: skip


CASES = (
    Case("a100x8", "a100-80g:1x8"),
    Case("a100x8", "h200:1x8", ("--micro-rows", "4")),
    Case("v5p", "v5p:2x2x4"),
    # The paper's 32 rows, each shared by several chips.
    Case("v5p", "v5p:4x4x4", mesh(32, 2, 32, "--micro-rows", "1")),
    Case("v5p", "v5p:4x8x8", mesh(32, 8, 32, "--micro-rows", "1")),
    Case("v5e", "v5e:16x16", mesh(32, 8)),
    # As many rows as chips, or twice as many; FSDP alone.
    Case("v5p", "v5p:4x4x4", mesh(64, 1, 128)),
    Case("v5p", "v5p:4x8x8", mesh(256, 1, 512)),
    Case("v5e", "v5e:16x16", mesh(256, 1, 256)),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", default="runs/scaling.jsonl", help="file of the plans")
    parser.add_argument("--only", default="", help="part of a config's or topology's name")
    options = parser.parse_args()
    path = Path(options.out)
    path.parent.mkdir(parents=True, exist_ok=True)
    known = read_plans(path)
    plans = []
    for case in CASES:
        if options.only not in f"{case.config} {case.topology}":
            continue
        if case.command not in known:
            print(" ".join(case.command), file=sys.stderr, flush=True)
            plan = compile_plan(case.command)
            with open(path, "a", encoding="utf-8") as file:
                file.write(json.dumps({"command": case.command, "plan": plan}) + "\n")
            known[case.command] = plan
        plans.append((case, known[case.command]))
    print(as_markdown(plans), end="\n\n")
    print(limits())


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


def config_of(command: Sequence[str]) -> PlanConfig:
    """The config that a command plans."""
    return parse_arguments(PlanConfig, command[1:], prog="parrot plan", description="")


def as_markdown(plans: Sequence[tuple[Case, dict[str, Any]]]) -> str:
    """Formats the plans as a Markdown table. Sizes and times are of one device in one step."""
    head = ("topology", "mesh", "rows", "remat", "formula, GB", *(f"{kind}, GB" for kind in KINDS),
            "PFLOP", "compute, s", "links, s", "bound by", "MFU, overlap", "none",
            f"at {SHARE:.0%}: overlap", "none", "fits")  # fmt: skip
    lines = [table_row(head), "|---" * len(head) + "|"]
    for case, plan in plans:
        config = config_of(case.command)
        chip = next(chip for chip in CHIPS if chip.name == case.topology.partition(":")[0])
        tokens = plan["tokens_per_step"] / plan["devices"]
        counted = tokens * plan["flops_per_token"]
        done = tokens * computed_flops_per_token(
            config.model, config.data.row_tokens, plan["remat"]
        )
        compute_s, links_s = done / chip.peak_flops, plan["sent_s"]
        mfus = [
            counted / chip.peak_flops / step_s
            for share in (1, SHARE)
            for step_s in (max(compute_s / share, links_s), compute_s / share + links_s)
        ]
        sent = plan["sent_bytes"]
        lines.append(table_row([
            case.topology,
            " x ".join(map(str, plan["mesh"])),
            str(config.batch_rows),
            plan["remat"],
            f"{sent_by_formula(config, tuple(plan['mesh'])).total / 1e9:.1f}",
            *(f"{sent.get(kind, 0) / 1e9:.1f}" for kind in KINDS),
            f"{done / 1e15:.3f}",
            f"{compute_s:.3f}",
            f"{links_s:.3f}",
            "compute" if compute_s >= links_s else "links",
            *(f"{mfu:.0%}" for mfu in mfus),
            "yes" if plan["fits"] else "**no**",
        ]))  # fmt: skip
    return "\n".join(lines)


def limits() -> str:
    """Formats, by formula, the fewest tokens with which FSDP alone hides behind compute."""
    head = ("chip", "remat", "GB per micro-batch", "least tokens at peak", f"at {SHARE:.0%}",
            "chips for 131,072 tokens at peak", f"at {SHARE:.0%}")  # fmt: skip
    lines = [table_row(head), "|---" * len(head) + "|"]
    for name, chip_name in LIMITS:
        # On 256 chips, one row each, so one micro-batch.
        path = f"configs/train/parrot_ask_llama2_13b_{name}.yaml"
        config = config_of(("plan", path, *mesh(256, 1, 256), "--micro-rows", "1"))
        chip = next(chip for chip in CHIPS if chip.name == chip_name)
        assert chip.link_bytes_per_s is not None
        sent = sent_by_formula(config, (1, 256, 1)).total
        flops = computed_flops_per_token(config.model, config.data.row_tokens, config.remat)
        least = [
            least_tokens(sent, flops, share * chip.peak_flops, chip.link_bytes_per_s)
            for share in (1, SHARE)
        ]
        lines.append(table_row([
            chip.name,
            config.remat,
            f"{sent / 1e9:.1f}",
            *(f"{tokens:,.0f}" for tokens in least),
            *(f"{32 * 4096 / tokens:,.0f}" for tokens in least),
        ]))  # fmt: skip
    return "\n".join(lines)


def table_row(cells: Sequence[str]) -> str:
    """A row of a Markdown table."""
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    main()
