"""What the card reaches at best: a bfloat16 matrix product, and a copy in its memory.

Both on random data, since a product of zeros can run faster than one of real numbers.
"""

import statistics
import time
from collections.abc import Callable
from typing import Any

from measuring import TOY, record, spread

SIZE = 256 if TOY else 8192
BYTES = 2**20 if TOY else 2**32


def timed(function: Callable[..., Any], *arrays: Any, repeats: int, inner: int = 1) -> list[float]:
    """Seconds of a call, several times; each is the mean of `inner` calls started together."""
    import jax

    jax.block_until_ready(function(*arrays))
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        results = [function(*arrays) for _ in range(inner)]
        jax.block_until_ready(results)
        seconds.append((time.perf_counter() - started) / inner)
    return seconds


def matmul_seconds(repeats: int) -> list[float]:
    """Seconds of a product of two matrices [SIZE, SIZE]."""
    import jax
    import jax.numpy as jnp

    keys = jax.random.split(jax.random.key(0))
    left, right = (jax.random.normal(key, (SIZE, SIZE), jnp.bfloat16) for key in keys)
    return timed(jax.jit(jnp.matmul), left, right, repeats=repeats, inner=1 if TOY else 10)


def matmul_rate(repeats: int) -> float:
    """FLOP/s of that product."""
    return 2 * SIZE**3 / statistics.median(matmul_seconds(repeats))


def main() -> None:
    import jax
    import jax.numpy as jnp

    seconds = matmul_seconds(20)
    rate = 2 * SIZE**3 / statistics.median(seconds)
    record(
        f"bf16 product {SIZE}",
        f"{rate / 1e12:.1f} TFLOP/s, {spread(seconds)}",
        predicted="" if TOY else "790 TFLOP/s",
        seconds=seconds,
    )
    source = jax.random.bits(jax.random.key(1), (BYTES // 4,), jnp.uint32)
    # Not a plain copy, which XLA may leave out.
    seconds = timed(jax.jit(lambda array: array ^ 1), source, repeats=20)
    rate = 2 * BYTES / statistics.median(seconds)
    record(
        "copy in memory",
        f"{rate / 1e12:.2f} TB/s read and written, {spread(seconds)}",
        predicted="" if TOY else "0.9 of the vendor's bandwidth",
        seconds=seconds,
    )


if __name__ == "__main__":
    main()
