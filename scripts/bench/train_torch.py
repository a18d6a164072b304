"""The train step on a CPU beside transformers and torch, at the sizes of train_step.md.

Both train the same LLaMA-like model in float32 on the same rows of one segment, whose live tokens
come in runs of 20. The peer is transformers with sdpa and fused AdamW, once as it is and once with
torch.compile. Each trainer is a process of its own that waits while another one measures; rounds
alternate. Prints medians, and our speed over that of the faster peer, by round.

    .venv-torch/bin/python scripts/bench/train_torch.py [--rows 8 --tokens 512 --width 256 ...]
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

LR = 1e-3
KINDS = ("ours", "torch", "compiled")


class Size(NamedTuple):
    """One line of the table."""

    rows: int
    tokens: int
    width: int
    layers: int
    live: float
    """Share of live tokens."""


SIZES = (
    Size(8, 512, 256, 4, 0.13),
    Size(8, 512, 256, 4, 0.86),
    Size(8, 512, 256, 4, 1.0),
    Size(2, 2048, 256, 4, 1.0),
    Size(16, 256, 256, 4, 1.0),
    Size(4, 1024, 512, 8, 0.8),
)


def model_of(size: Size) -> dict[str, Any]:
    return {
        "vocab_size": 32000, "hidden_size": size.width, "intermediate_size": size.width * 43 // 16,
        "num_hidden_layers": size.layers, "num_attention_heads": 8, "num_key_value_heads": 8,
        "max_position_embeddings": 4096, "tie_word_embeddings": True,
    }  # fmt: skip


def batch_of(size: Size) -> tuple[np.ndarray, np.ndarray]:
    """Tokens and loss weights [rows, T]; the first token of a row is not live."""
    rng = np.random.default_rng(0)
    shape = (size.rows, size.tokens)
    tokens = rng.integers(3, 32000, shape).astype(np.int32)
    runs = rng.random((size.rows, -(-size.tokens // 20))) < size.live
    live = np.repeat(runs, 20, axis=1)[:, : size.tokens].astype(np.float32)
    live[:, 0] = 0
    return tokens, live


def our_step(size: Size) -> Callable[[], float]:
    """The step of `parrot train`."""
    import jax
    import jax.numpy as jnp

    from parrot_jax.losses.token_loss import default_tile
    from parrot_jax.model.attention import choose
    from parrot_jax.model.decoder import init_params
    from parrot_jax.model.model_config import ModelConfig
    from parrot_jax.train.forward import Forward
    from parrot_jax.train.objectives import RoleMaskedLoss
    from parrot_jax.train.optim import adamw
    from parrot_jax.train.step import train_step
    from parrot_jax.train.train_config import OptimConfig
    from parrot_jax.train.train_state import TrainState

    model = ModelConfig(**model_of(size))
    tokens, live = batch_of(size)
    # As `parrot train` chooses it from the counts of its data.
    capacity = int(-(-1.3 * live.sum() // 256) * 256)
    forward = Forward(
        model=model, compute_dtype=jnp.dtype("float32"), attention=choose(segments=False),
        remat="none", loss_tile=default_tile("cpu"), packed=False,
    )  # fmt: skip
    optimizer = adamw(OptimConfig())
    params = init_params(model, 0)
    state = TrainState(params, optimizer.init(params), jnp.int32(0))
    batch = {
        "tokens": jnp.asarray(tokens)[None],
        "loss_weights": jnp.asarray(live)[None],
        "segment_ids": jnp.ones((1, *tokens.shape), jnp.int32),
        "positions": jnp.broadcast_to(jnp.arange(size.tokens), (1, *tokens.shape)),
    }
    objective = RoleMaskedLoss(capacity)
    run = jax.jit(
        lambda state, batch: train_step(
            state, batch, LR, forward=forward, objective=objective, optimizer=optimizer,
            clip_norm=1.0,
        ),
        donate_argnums=0,
    )  # fmt: skip

    def step() -> float:
        nonlocal state
        state, metrics = run(state, batch)
        return float(metrics.loss)

    return step


def torch_step(size: Size, *, compiled: bool) -> Callable[[], float]:
    """Transformers' model and loss, gradient clipping, torch's fused AdamW."""
    import torch  # pyright: ignore[reportMissingImports] - an extra
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.set_num_threads(os.cpu_count() or 1)
    torch.manual_seed(0)
    config: Any = LlamaConfig(**model_of(size), use_cache=False)  # whose attention is sdpa
    model: Any = LlamaForCausalLM(config).train()
    weights = list(model.parameters())
    optimizer = torch.optim.AdamW(weights, lr=LR, betas=(0.9, 0.95), weight_decay=0.0, fused=True)
    if compiled:
        model = torch.compile(model)
    tokens, live = batch_of(size)
    ids = torch.tensor(tokens, dtype=torch.long)
    labels = ids.masked_fill(torch.tensor(live) == 0, -100)

    def step() -> float:
        loss = model(input_ids=ids, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return float(loss.detach())

    return step


def work(kind: str, size: Size) -> None:
    """Answers each line of the input with the seconds of a step and its loss."""
    step = our_step(size) if kind == "ours" else torch_step(size, compiled=kind == "compiled")
    losses = [step() for _ in range(2)]  # compiles
    print(json.dumps(losses[0]), flush=True)
    for _ in sys.stdin:
        started = time.perf_counter()
        step()
        print(json.dumps(time.perf_counter() - started), flush=True)


def measure(size: Size, rounds: int) -> str:
    """A line of the table."""
    words = [str(value) for value in size]
    workers = {
        kind: subprocess.Popen(
            [sys.executable, __file__, "--work", kind, *words],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        for kind in KINDS
    }  # fmt: skip
    seconds: dict[str, list[float]] = {kind: [] for kind in KINDS}
    losses = {kind: answer(worker) for kind, worker in workers.items()}
    for _ in range(rounds):
        for kind, worker in workers.items():
            assert worker.stdin is not None
            worker.stdin.write("\n")
            worker.stdin.flush()
            seconds[kind].append(answer(worker))
    for worker in workers.values():
        worker.communicate()
    by_round = zip(*seconds.values(), strict=True)
    ratios = [min(torch, compiled) / ours for ours, torch, compiled in by_round]
    middle = {kind: statistics.median(times) * 1e3 for kind, times in seconds.items()}
    return (
        f"| {size.rows} x {size.tokens}, {size.width} x {size.layers} | {size.live:.0%} | "
        + " | ".join(f"{middle[kind]:,.0f}" for kind in KINDS)
        + f" | {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}) | "
        + ", ".join(f"{loss:.3f}" for loss in losses.values())
        + " |"
    )


def answer(worker: subprocess.Popen) -> float:
    assert worker.stdout is not None
    line = worker.stdout.readline()
    if not line:
        raise SystemExit(f"a trainer ended with exit status {worker.wait()}")
    return json.loads(line)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    for name in ("rows", "tokens", "width", "layers"):
        parser.add_argument(f"--{name}", type=int)
    parser.add_argument("--live", type=float, default=1.0)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--work", nargs=6, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.work:
        kind, *sizes, live = options.work
        work(kind, Size(*map(int, sizes), live=float(live)))
        return
    own = [options.rows, options.tokens, options.width, options.layers]
    if any(own) and not all(own):
        parser.error("give --rows, --tokens, --width and --layers together")
    print("| rows x T, width x layers | live | ours, ms | torch, ms | compiled, ms | "
          "faster peer / ours (range of rounds) | first losses |")  # fmt: skip
    print("|---|---|---|---|---|---|---|")
    for size in [Size(*own, live=options.live)] if all(own) else SIZES:
        print(measure(size, options.rounds), flush=True)


if __name__ == "__main__":
    main()
