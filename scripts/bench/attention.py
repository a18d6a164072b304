"""Times this machine's attention backends and `jax.nn.dot_product_attention`.

    python scripts/bench/attention.py
    python scripts/bench/attention.py --length 2048 --rows 2 --width 64 --backends block_causal
    python scripts/bench/attention.py --rows 4 --length 4096 --heads 40 --width 128 \
        --dtype bfloat16 --segments 12 --backends pallas      # a layer of LLaMA-2-13B on a GPU

Each runs forward and backward, alternating with the others, so that a busy machine slows all of
them equally; the median of the rounds is printed. `alone` is a single call. `in a model` is one of
six calls in a scan, where a call reuses the memory of the previous one, as layers do. FLOPs are
those of causal attention (forward once, backward 2.5 times), even if a kernel skips segments.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from parrot_jax.model.attention import attend, backends, choose

Attention = Callable[[jax.Array, jax.Array, jax.Array, jax.Array | None], jax.Array]

NUM_LAYERS = 6


def stock(
    query: jax.Array, key: jax.Array, value: jax.Array, segments: jax.Array | None
) -> jax.Array:
    if segments is None:
        return jax.nn.dot_product_attention(query, key, value, is_causal=True)
    length = query.shape[1]
    causal = jnp.tril(jnp.ones((length, length), bool))[None]
    mask = causal & (segments[:, :, None] == segments[:, None, :])
    return jax.nn.dot_product_attention(query, key, value, mask=mask[:, None])


def ours(name: str, packed: bool) -> Attention:
    backend = choose(name, segments=packed)
    return lambda query, key, value, segments: attend(query, key, value, segments, backend=backend)


def forward_and_backward(attention: Attention, num_layers: int) -> Callable[..., tuple]:
    def run(query, key, value, segments, upstream):  # noqa: ANN001, ANN202
        def layer(states: tuple, _: None) -> tuple[tuple, None]:
            output, pullback = jax.vjp(lambda q, k, v: attention(q, k, v, segments), *states)
            grads = pullback(upstream)
            mixed = (states[0] + 1e-3 * output, *states[1:])
            return tuple(s + 1e-3 * g for s, g in zip(mixed, grads, strict=True)), None

        return jax.lax.scan(layer, (query, key, value), None, length=num_layers)[0]

    return run


def temporary_mib(compiled: Any) -> float:
    return compiled.memory_analysis().temp_size_in_bytes / 2**20


def fitting(length: int, width: int, dtype: str, packed: bool) -> list[str]:
    """The backends that run on this machine and support these rows and heads."""
    return [
        backend.name
        for backend in backends()
        if backend.runs_on(jax.default_backend())
        and (backend.segments or not packed)
        and not (backend.refusal and backend.refusal(length, width, dtype))
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--heads", type=int, default=8)
    parser.add_argument("--kv-heads", type=int, default=None)
    parser.add_argument("--width", type=int, default=32)
    parser.add_argument(
        "--segments", type=int, default=4, help="dialogues per row; 1 = rows are not packed"
    )
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--backends", nargs="+", help="default: all that run here, and jax.nn")
    args = parser.parse_args()
    packed = args.segments > 1
    names = args.backends or ["jax.nn", *fitting(args.length, args.width, args.dtype, packed)]

    rng = np.random.default_rng(0)
    counts = (args.heads, *[args.kv_heads or args.heads] * 2, args.heads)
    shapes = [(args.rows, args.length, count, args.width) for count in counts]
    *qkv, upstream = (jnp.asarray(rng.normal(size=shape), args.dtype) for shape in shapes)
    segments = np.sort(rng.integers(1, args.segments + 1, (args.rows, args.length)), axis=1)
    arrays = (*qkv, jnp.asarray(segments, jnp.int32) if packed else None, upstream)
    flops = 3.5 * 2 * args.rows * args.heads * args.length**2 * args.width

    contestants = {name: stock if name == "jax.nn" else ours(name, packed) for name in names}
    for title, num_layers in (("alone", 1), ("in a model", NUM_LAYERS)):
        compiled = {
            name: jax.jit(forward_and_backward(attention, num_layers)).lower(*arrays).compile()
            for name, attention in contestants.items()
        }
        times: dict[str, list[float]] = {name: [] for name in contestants}
        for _ in range(args.rounds + 1):
            for name, function in compiled.items():
                start = time.perf_counter()
                jax.block_until_ready(function(*arrays))
                times[name].append((time.perf_counter() - start) * 1e3 / num_layers)
        shape = "x".join(map(str, shapes[0]))
        print(f"{title}, forward and backward of {shape}, {args.dtype}, per call:")
        first = statistics.median(times[names[0]][1:])
        for name, function in compiled.items():
            median = statistics.median(times[name][1:])
            memory = temporary_mib(function)
            print(
                f"  {name:14} {median:8.1f} ms  {first / median:5.2f} x {names[0]}  "
                f"{memory:7.0f} MiB  {flops / median / 1e9:7.2f} TFLOP/s"
            )


if __name__ == "__main__":
    main()
