"""Time and memory of a step with LoRA, beside training all weights, and beside peft.

All three train the same LLaMA-like model in float32 on the same rows, each in a process of its own
that waits while another one measures. Rounds alternate; prints medians, ratios, and the peak memory
of each process over what it had before the model was made.

    .venv-torch/bin/python scripts/bench/lora.py [--rank 16] [--rows 4] [--tokens 256] [--rounds 7]
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

SIZES: dict[str, Any] = {
    "vocab_size": 8192,
    "hidden_size": 1024,
    "intermediate_size": 2816,
    "num_hidden_layers": 6,
    "num_attention_heads": 16,
    "num_key_value_heads": 16,
    "max_position_embeddings": 4096,
}
"""85M weights; 77M of them in products."""

KINDS = ("full", "lora", "peft")
LR = 1e-4
Step = Callable[[], float]


def rows(options: argparse.Namespace) -> Any:
    """Random tokens of one full segment a row, [rows, T]."""
    import numpy as np

    rng = np.random.default_rng(0)
    return rng.integers(3, SIZES["vocab_size"], (options.rows, options.tokens)).astype(np.int32)


def our_step(options: argparse.Namespace, *, adapters: bool) -> Step:
    """`parrot train`'s step, without its data and files."""
    import jax
    import jax.numpy as jnp

    from parrot_jax.losses.token_loss import default_tile
    from parrot_jax.model.attention import choose
    from parrot_jax.model.decoder import init_params
    from parrot_jax.model.lora import LORA, init_adapters
    from parrot_jax.model.lora_config import LoraConfig
    from parrot_jax.model.model_config import ModelConfig
    from parrot_jax.train.forward import Forward
    from parrot_jax.train.objectives import RoleMaskedLoss
    from parrot_jax.train.optim import adamw
    from parrot_jax.train.step import train_step
    from parrot_jax.train.train_config import OptimConfig
    from parrot_jax.train.train_state import TrainState

    model = ModelConfig(**SIZES)
    lora = LoraConfig(rank=options.rank, base_dtype="float32") if adapters else None
    forward = Forward(
        model=model, compute_dtype=jnp.dtype("float32"), attention=choose(segments=False),
        remat="none", loss_tile=default_tile("cpu"), packed=False, lora=lora,
    )  # fmt: skip
    optimizer = adamw(OptimConfig())
    trained, frozen = init_params(model, 0), {}
    if lora is not None:
        frozen, trained = trained, {LORA: init_adapters(model, lora, 0)}
    state = TrainState(trained, optimizer.init(trained), jnp.int32(0), frozen)
    tokens = jnp.asarray(rows(options))[None]
    batch = {
        "tokens": tokens,
        "loss_weights": jnp.ones(tokens.shape, jnp.float32),
        "segment_ids": jnp.ones(tokens.shape, jnp.int32),
        "positions": jnp.broadcast_to(jnp.arange(options.tokens), tokens.shape),
    }
    run = jax.jit(
        lambda state, batch: train_step(
            state, batch, LR, forward=forward, objective=RoleMaskedLoss(None),
            optimizer=optimizer, clip_norm=1.0,
        ),
        donate_argnums=0,
    )  # fmt: skip

    def step() -> float:
        nonlocal state
        state, metrics = run(state, batch)
        return float(metrics.loss)

    return step


def peft_step(options: argparse.Namespace) -> Step:
    """The same model by transformers and peft, and torch's AdamW."""
    import torch  # pyright: ignore[reportMissingImports] - an extra
    from peft import LoraConfig, get_peft_model  # pyright: ignore[reportMissingImports] - an extra
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.set_num_threads(os.cpu_count() or 1)
    torch.manual_seed(0)
    config: Any = LlamaConfig(**SIZES)  # whose attention is sdpa by default
    model: Any = LlamaForCausalLM(config)
    model = get_peft_model(
        model,
        LoraConfig(r=options.rank, lora_alpha=32, target_modules="all-linear",
                   task_type="CAUSAL_LM"),
    ).train()  # fmt: skip
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=LR, betas=(0.9, 0.95), weight_decay=0.0)
    tokens = torch.tensor(rows(options), dtype=torch.long)

    def step() -> float:
        loss = model(tokens, labels=tokens).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return float(loss.detach())

    return step


def work(kind: str, options: argparse.Namespace) -> None:
    """Answers each line of the input with the seconds of a step and its loss."""
    if kind == "peft":
        import peft  # pyright: ignore[reportMissingImports] # noqa: F401
        import transformers  # noqa: F401

        before = peak_bytes()
        step = peft_step(options)
    else:
        import jax

        jax.block_until_ready(jax.numpy.zeros(1) + 1)
        before = peak_bytes()
        step = our_step(options, adapters=kind == "lora")
    for _ in range(2):
        step()  # compiles, and fills the caches
    print("ready", flush=True)
    for _ in sys.stdin:
        started = time.perf_counter()
        loss = step()
        answer = {"seconds": time.perf_counter() - started, "loss": loss,
                  "bytes": peak_bytes() - before}  # fmt: skip
        print(json.dumps(answer), flush=True)


def peak_bytes() -> int:
    """The most memory that this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--rows", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--work", choices=KINDS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        work(options.work, options)
        return
    workers = {
        kind: subprocess.Popen(
            [sys.executable, __file__, *sys.argv[1:], "--work", kind],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        for kind in KINDS
    }  # fmt: skip
    found: dict[str, list[dict[str, float]]] = {kind: [] for kind in KINDS}
    for worker in workers.values():
        assert worker.stdout is not None
        assert worker.stdout.readline() == "ready\n"
    for _ in range(options.rounds):
        for kind, worker in workers.items():
            assert worker.stdin is not None
            assert worker.stdout is not None
            worker.stdin.write("\n")
            worker.stdin.flush()
            found[kind].append(json.loads(worker.stdout.readline()))
    for worker in workers.values():
        worker.communicate()
    seconds = {kind: statistics.median(one["seconds"] for one in found[kind]) for kind in KINDS}
    print("| step | median, s | range, s | / full | / peft | peak memory, GB |")
    print("|---|---|---|---|---|---|")
    for kind in KINDS:
        times = [one["seconds"] for one in found[kind]]
        print(
            f"| {kind} | {seconds[kind]:.2f} | {min(times):.2f} to {max(times):.2f} | "
            f"{seconds[kind] / seconds['full']:.2f} | {seconds[kind] / seconds['peft']:.2f} | "
            f"{found[kind][-1]['bytes'] / 1e9:.2f} |"
        )
    print("losses of the last round: "
          + ", ".join(f"{kind} {found[kind][-1]['loss']:.3f}" for kind in KINDS))  # fmt: skip


if __name__ == "__main__":
    main()
