"""Greedy generation with a cache on a CPU, beside transformers: tokens per second.

The same LLaMA-like model in float32 (width 512, 8 layers, 32,000 ids) and the same random prompts;
no token ends a reply. The peer is transformers' `generate` with sdpa and its default cache. Each
generator is a process of its own that waits while the other one measures; rounds alternate.

    .venv-torch/bin/python scripts/bench/generate.py [--batch 1 8 32] [--prompt 256] [--new 64]
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

SIZES: dict[str, Any] = {
    "vocab_size": 32000, "hidden_size": 512, "intermediate_size": 1376, "num_hidden_layers": 8,
    "num_attention_heads": 8, "num_key_value_heads": 8, "max_position_embeddings": 4096,
    "tie_word_embeddings": False,
}  # fmt: skip
KINDS = ("ours", "transformers")


def prompts(options: argparse.Namespace) -> np.ndarray:
    return np.random.default_rng(0).integers(3, 32000, (options.batch, options.prompt))


def ours(options: argparse.Namespace) -> Callable[[], int]:
    """`generate`, as `parrot generate` and the server call it; returns the number of new tokens."""
    import jax.numpy as jnp

    from parrot_jax.model.decoder import init_params
    from parrot_jax.model.generate import for_generation, generate
    from parrot_jax.model.model_config import ModelConfig

    model = ModelConfig(**SIZES)
    params = for_generation(model, init_params(model, 0), jnp.float32)
    texts = prompts(options).tolist()

    def run() -> int:
        rows = generate(model, params, texts, max_new_tokens=options.new, stop_ids=(),
                        compute_dtype=jnp.float32)  # fmt: skip
        return sum(len(row.ids) for row in rows)

    return run


def theirs(options: argparse.Namespace) -> Callable[[], int]:
    import torch  # pyright: ignore[reportMissingImports] - an extra
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.set_num_threads(os.cpu_count() or 1)
    torch.manual_seed(0)
    config: Any = LlamaConfig(**SIZES)  # whose attention is sdpa
    model: Any = LlamaForCausalLM(config).eval()
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = 0
    ids = torch.tensor(prompts(options), dtype=torch.long)
    mask = torch.ones_like(ids)

    def run() -> int:
        with torch.inference_mode():
            found = model.generate(
                ids, attention_mask=mask, max_new_tokens=options.new, do_sample=False
            )
        return (found.shape[1] - ids.shape[1]) * len(ids)

    return run


def work(kind: str, options: argparse.Namespace) -> None:
    """Answers each line of the input with tokens per second."""
    run = ours(options) if kind == "ours" else theirs(options)
    expected = options.batch * options.new
    assert run() == expected, "a reply ended early"
    print("ready", flush=True)
    for _ in sys.stdin:
        started = time.perf_counter()
        count = run()
        print(json.dumps(count / (time.perf_counter() - started)), flush=True)


def measure(batch: int, options: argparse.Namespace) -> str:
    """A line of the table."""
    common = ["--batch", str(batch), "--prompt", str(options.prompt), "--new", str(options.new)]
    workers = {
        kind: subprocess.Popen(
            [sys.executable, __file__, *common, "--work", kind],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        for kind in KINDS
    }  # fmt: skip
    rates: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for worker in workers.values():
        assert worker.stdout is not None
        if worker.stdout.readline() != "ready\n":
            raise SystemExit(f"a generator ended with exit status {worker.wait()}")
    for _ in range(options.rounds):
        for kind, worker in workers.items():
            assert worker.stdin is not None
            assert worker.stdout is not None
            worker.stdin.write("\n")
            worker.stdin.flush()
            rates[kind].append(json.loads(worker.stdout.readline()))
    for worker in workers.values():
        worker.communicate()
    ratios = [one / two for one, two in zip(*rates.values(), strict=True)]
    mine, peer = (statistics.median(each) for each in rates.values())
    return (
        f"| {batch} | {mine:,.0f} | {peer:,.0f} | {statistics.median(ratios):.2f} "
        f"({min(ratios):.2f} to {max(ratios):.2f}) |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--prompt", type=int, default=256, help="tokens of a prompt")
    parser.add_argument("--new", type=int, default=64, help="new tokens of a row")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--work", choices=KINDS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        options.batch = options.batch[0]
        work(options.work, options)
        return
    print("| batch | ours, tokens/s | transformers, tokens/s | ratio (range of rounds) |")
    print("|---|---|---|---|")
    for batch in options.batch:
        print(measure(batch, options), flush=True)


if __name__ == "__main__":
    main()
