"""Time and memory of the tiled loss, compared with the dense one, forward and backward.

    python scripts/bench/loss.py
    python scripts/bench/loss.py --tokens 8192 --width 1024 --vocab 32000 --dtype bfloat16

`--live` is the share of live tokens; `compacted` computes only these.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from parrot_jax.losses.token_loss import role_weighted_nll

Loss = Callable[[jax.Array, jax.Array, jax.Array, jax.Array], jax.Array]


def dense(hidden: jax.Array, head: jax.Array, ids: jax.Array, weights: jax.Array) -> jax.Array:
    head = head.astype(hidden.dtype)
    logits = jnp.einsum("BTD,DV->BTV", hidden, head, preferred_element_type=jnp.float32)
    logprobs = jax.nn.log_softmax(logits)
    return -(weights * jnp.take_along_axis(logprobs, ids[..., None], axis=-1)[..., 0]).sum()


def chunked(tile: int, live_capacity: int | None = None) -> Loss:
    def loss(*batch: jax.Array) -> jax.Array:
        return role_weighted_nll(*batch, tile=tile, live_capacity=live_capacity).loss_sum

    return loss


def temporary_mib(compiled: Any) -> float:
    return compiled.memory_analysis().temp_size_in_bytes / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--vocab", type=int, default=8192)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--live", type=float, default=0.13)
    parser.add_argument("--tiles", type=int, nargs="+", default=[256, 512, 1024, 2048])
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()

    rng = np.random.default_rng(0)
    batch = (
        jnp.asarray(rng.normal(size=(8, args.tokens // 8, args.width)), args.dtype),
        jnp.asarray(rng.normal(size=(args.width, args.vocab)) / args.width**0.5, jnp.float32),
        jnp.asarray(rng.integers(0, args.vocab, (8, args.tokens // 8)), jnp.int32),
        jnp.asarray(rng.random((8, args.tokens // 8)) < args.live, jnp.float32),
    )
    capacity = int(1.1 * args.live * args.tokens)
    contestants: dict[str, Loss] = {"dense": dense}
    for tile in args.tiles:
        contestants[f"chunked {tile}"] = chunked(tile)
        contestants[f"compacted {tile}"] = chunked(tile, capacity)
    compiled = {
        name: jax.jit(jax.value_and_grad(loss, (0, 1))).lower(*batch).compile()
        for name, loss in contestants.items()
    }
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(args.rounds + 1):
        for name, function in compiled.items():
            start = time.perf_counter()
            jax.block_until_ready(function(*batch))
            times[name].append((time.perf_counter() - start) * 1e3)
    print(
        f"{args.tokens} tokens, {args.live:.0%} live, D={args.width}, V={args.vocab}, "
        f"{args.dtype}, forward and backward:"
    )
    slowest = statistics.median(times["dense"][1:])
    for name, function in compiled.items():
        median = statistics.median(times[name][1:])
        memory = temporary_mib(function)
        print(f"  {name:15} {median:8.1f} ms  {slowest / median:5.2f} x dense  {memory:7.0f} MiB")


if __name__ == "__main__":
    main()
