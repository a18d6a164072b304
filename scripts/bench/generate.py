"""Greedy generation with a cache on a CPU, beside transformers and vLLM: tokens per second.

The same LLaMA-like model in float32 (width 512, 8 layers, 32,000 ids) and the same random prompts;
no token ends a reply. The peers are transformers' `generate` with sdpa and its default cache, and
vLLM's `LLM.generate` without its cache of prefixes, since the prompts repeat. Each generator is a
process of its own that waits while another one measures; rounds alternate. vLLM has an environment
of its own (`make .venv-vllm/.installed`); without it there are two generators.

    .venv-torch/bin/python scripts/bench/generate.py [--batch 1 8 32] [--prompt 256] [--new 64]
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

SIZES: dict[str, Any] = {
    "vocab_size": 32000, "hidden_size": 512, "intermediate_size": 1376, "num_hidden_layers": 8,
    "num_attention_heads": 8, "num_key_value_heads": 8, "max_position_embeddings": 4096,
    "tie_word_embeddings": False,
}  # fmt: skip
VLLM = Path(__file__).resolve().parents[2] / ".venv-vllm/bin/python"
PYTHONS = {"ours": sys.executable, "transformers": sys.executable, "vLLM": str(VLLM)}
KINDS = tuple(kind for kind, python in PYTHONS.items() if Path(python).exists())


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


def transformers(options: argparse.Namespace) -> Callable[[], int]:
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


def vllm(options: argparse.Namespace) -> Callable[[], int]:
    """The same sizes with weights that vLLM makes up."""
    # Without a process of its own for the engine, and on all cores.
    os.environ |= {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_CPU_KVCACHE_SPACE": "4",
                   "VLLM_CPU_OMP_THREADS_BIND": f"0-{(os.cpu_count() or 1) - 1}",
                   "VLLM_LOGGING_LEVEL": "WARNING", "HF_HUB_OFFLINE": "1"}  # fmt: skip
    from vllm import LLM, SamplingParams  # pyright: ignore[reportMissingImports] - an extra

    config = SIZES | {"architectures": ["LlamaForCausalLM"], "model_type": "llama"}
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "config.json").write_text(json.dumps(config))
        llm = LLM(
            folder, load_format="dummy", dtype="float32", skip_tokenizer_init=True,
            enable_prefix_caching=False, max_model_len=options.prompt + options.new,
        )  # fmt: skip
    asked = [{"prompt_token_ids": ids} for ids in prompts(options).tolist()]
    greedy = SamplingParams(
        temperature=0.0, max_tokens=options.new, ignore_eos=True, detokenize=False
    )

    def run() -> int:
        replies = llm.generate(asked, greedy, use_tqdm=False)
        return sum(len(reply.outputs[0].token_ids) for reply in replies)

    return run


def work(kind: str, options: argparse.Namespace) -> None:
    """Answers each line of the input with tokens per second."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # vLLM prints
    run = {"ours": ours, "transformers": transformers, "vLLM": vllm}[kind](options)
    expected = options.batch * options.new
    assert run() == expected, "a reply ended early"
    print("ready", file=answers, flush=True)
    for _ in sys.stdin:
        started = time.perf_counter()
        count = run()
        print(json.dumps(count / (time.perf_counter() - started)), file=answers, flush=True)


def measure(batch: int, options: argparse.Namespace) -> str:
    """A line of the table."""
    common = ["--batch", str(batch), "--prompt", str(options.prompt), "--new", str(options.new)]
    workers = {
        kind: subprocess.Popen(
            [PYTHONS[kind], __file__, *common, "--work", kind],
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
    line = f"| {batch} | {statistics.median(rates['ours']):,.0f} |"
    for kind in KINDS[1:]:
        ratios = [one / two for one, two in zip(rates["ours"], rates[kind], strict=True)]
        line += f" {statistics.median(rates[kind]):,.0f} | {statistics.median(ratios):.2f} "
        line += f"({min(ratios):.2f} to {max(ratios):.2f}) |"
    return line


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
    heads = "".join(f" {kind}, tokens/s | ours / {kind} (range of rounds) |" for kind in KINDS[1:])
    print(f"| batch | ours, tokens/s |{heads}")
    print("|---" * (2 * len(KINDS)) + "|")
    for batch in options.batch:
        print(measure(batch, options), flush=True)


if __name__ == "__main__":
    main()
