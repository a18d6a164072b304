"""Which settings of the 7B step are fastest? Each variant is `train.py sft7b` in its own process.

Prints the tokens per second of each variant, then the fastest. One that does not fit or does not
compile is reported and costs only itself; those for which no time is left are named. Without
accumulation first, since accumulated gradients take memory.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from measuring import HERE, TOY, record

VARIANTS = (
    "",
    "batch_rows=8",
    "remat=attention batch_rows=1",
    "remat=attention batch_rows=2",
    "remat=dots batch_rows=2",
    "unroll_layers=4",
    "loss_tile=8192",
    "xla_flags=[--xla_gpu_enable_triton_gemm=false]",
    "xla_flags=[--xla_gpu_autotune_level=3]",
    "batch_rows=8 micro_rows=4 accumulator_dtype=bfloat16",
    "xla_flags=[--xla_gpu_enable_command_buffer=]",
)
"""Overrides of configs/sft7b.yaml, the likeliest gains first."""

_SECONDS = 75
"""Limit of a variant."""
_LEAST_S = 1 if TOY else 30
"""A variant with less is not begun."""


def measure(variant: str, folder: Path, seconds: float = _SECONDS) -> tuple[float | None, str]:
    """Tokens per second of a variant, or None and why it has none."""
    results = folder / "variant.jsonl"
    results.write_text("")
    command = [sys.executable, str(HERE / "train.py"), "sft7b", "--steps", "5" if TOY else "8"]
    process = subprocess.Popen(
        [*command, "--set", *variant.split()],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "GPU_BENCH_RESULTS": str(results)},
    )
    try:
        output, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return None, f"ended at {seconds:.0f} s"
    print(output, flush=True)
    found = {line["what"]: line for line in map(json.loads, results.read_text().splitlines())}
    if "tokens/s" not in found:
        last = (output.strip().splitlines() or ["no output"])[-1]
        return None, last[:160]
    memory = found["peak memory"]["result"].split(",")[0]
    return float(found["tokens/s"]["result"].replace(",", "")), f"peak {memory}"


def main() -> None:
    until = time.monotonic() + float(os.environ.get("GPU_BENCH_SECONDS", "inf")) - 10
    rates: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        for variant in VARIANTS[:3] if TOY else VARIANTS:
            name = variant or "configs/sft7b.yaml"
            left = until - time.monotonic()
            if left < _LEAST_S:
                record(name, "not begun, the time was used up")
                continue
            rate, why = measure(variant, Path(folder), min(_SECONDS, left))
            record(name, f"{rate:,.0f} tokens/s, {why}" if rate else f"no figure: {why}", rate=rate)
            if rate:
                rates[name] = rate
    if not rates:
        raise SystemExit("no variant could be measured")
    best = max(rates, key=lambda name: rates[name])
    base = rates.get("configs/sft7b.yaml")
    record("fastest", best + (f", {rates[best] / base:.2f} times as fast as it is" if base else ""))


if __name__ == "__main__":
    main()
