"""Attention kernels at LLaMA's sizes: are they right, do segments leak, how fast are they?

    python scripts/bench/gpu/attention.py pallas cudnn-offsets      # none = all

The case starts a process for ours and one for each of the others: a kernel that hangs, or breaks
the card's context, costs the figures of its process.

Packed rows of 8 to 16 segments, bfloat16, forward and backward. Each kernel is first held against
float32, and one segment is changed to see that no other one moves; a kernel that fails is timed
too, and says so. Rounds alternate between the kernels of a process. FLOPs are those of causal
attention over whole rows (forward once, backward 2.5 times), even if a kernel skips segments.

    pallas         ours, the default on GPUs (parrot_jax/model/attention_pallas.py)
    mha            jax.experimental.pallas.ops.gpu.attention, where jax still has it
    cudnn offsets  cuDNN with the offset and length of each segment, from a private function of jax
    tokamax        its Triton and Mosaic kernels, with the first key of each query
    block_causal   ours, in plain XLA
    cudnn, whole   cuDNN over whole rows: less than the task, but a bound
"""

import argparse
import dataclasses
import functools
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from measuring import GIB, HERE, TOY, packed_rows, record

from parrot_jax.model.attention import attend, choose

ROOT = HERE.parents[2]
Attention = Callable[[jax.Array, jax.Array, jax.Array, dict[str, Any]], jax.Array]
ROWS, TOKENS, WIDTH = (2, 128, 16) if TOY else (4, 4096, 128)
HEADS = (4, 2) if TOY else (40, 32)
SEGMENTS = (2, 4) if TOY else (8, 16)
ROUNDS, CALLS = (3, 1) if TOY else (10, 5)
INTERPRETED = TOY and jax.default_backend() != "gpu"
"""Pallas runs as plain XLA, to see that this program works."""
OURS = ("pallas", "block_causal")
"""If one of these fails, the case does."""
ALLOWED = 0.02
"""Distance from float32 over its norm; bfloat16 itself is off by 0.003."""


def ours(name: str) -> Attention:
    backend = choose(name, "gpu" if INTERPRETED else None)
    if INTERPRETED and backend.kernel:
        function = functools.partial(backend.function, interpret=True)
        backend = dataclasses.replace(backend, function=function)
    return lambda q, k, v, rows: attend(q, k, v, rows["segment_ids"], backend=backend)


def mha() -> Attention:
    """JAX's own kernel for Triton."""
    from jax.experimental.pallas.ops.gpu import attention

    function: Any = attention.mha
    return lambda q, k, v, rows: function(
        q, k, v, rows["segment_ids"], sm_scale=WIDTH**-0.5, causal=True, interpret=INTERPRETED
    )


def cudnn_offsets() -> Attention:
    from jax._src.cudnn import fused_attention_stablehlo as cudnn

    def function(q: jax.Array, k: jax.Array, v: jax.Array, rows: dict[str, Any]) -> jax.Array:
        lengths, offsets = rows["lengths"], rows["offsets"]
        found: Any = cudnn.dot_product_attention(
            q,
            k,
            v,
            q_seqlen=lengths,
            kv_seqlen=lengths,
            q_offsets=offsets,
            kv_offsets=offsets,
            scale=WIDTH**-0.5,
            mask_type=cudnn.MaskType.PADDING_CAUSAL,
        )
        return found[0] if isinstance(found, tuple | list) else found

    return function


def tokamax(name: str) -> Attention:
    """Its kernel with `k_start`, which its public function does not take."""
    # It does not import with typeguard 4; prepare.sh fetched the version that it pins.
    sys.path[:0] = [str(wheel) for wheel in (ROOT / ".gpu" / "tokamax").glob("typeguard-2*.whl")]
    from tokamax._src.ops.attention import api, base  # pyright: ignore[reportMissingImports]

    kernel = api.IMPLEMENTATIONS[name]

    def function(q: jax.Array, k: jax.Array, v: jax.Array, rows: dict[str, Any]) -> jax.Array:
        starts = (jnp.arange(TOKENS) - rows["positions"])[:, None]
        return kernel(q, k, v, mask=base.Mask(k_start=starts, is_causal=True))

    return function


def cudnn_whole() -> Attention:
    backend = choose("cudnn", segments=False)
    return lambda q, k, v, _: attend(q, k, v, None, backend=backend)


CONTESTANTS: dict[str, Callable[[], Attention]] = {
    "pallas": functools.partial(ours, "pallas"),
    "block_causal": functools.partial(ours, "block_causal"),
    "mha": mha,
    "cudnn offsets": cudnn_offsets,
    "tokamax triton": functools.partial(tokamax, "triton"),
    "tokamax mosaic": functools.partial(tokamax, "mosaic_gpu"),
    "cudnn, whole": cudnn_whole,
}


def inputs(heads: int) -> tuple[list[jax.Array], dict[str, Any]]:
    """Queries, keys, values and an upstream gradient, and the segments in each kernel's form."""
    keys = jax.random.split(jax.random.key(heads), 4)
    arrays = [jax.random.normal(key, (ROWS, TOKENS, heads, WIDTH), jnp.bfloat16) for key in keys]
    rows = packed_rows(0, rows=ROWS, tokens=TOKENS, vocab=100, segments=SEGMENTS)
    most = int(rows["segment_ids"].max())
    lengths = np.full((ROWS, most), -1, np.int32)
    offsets = np.full((ROWS, most + 1), -1, np.int32)
    for row, ids in enumerate(rows["segment_ids"]):
        counts = np.bincount(ids)[1:]
        lengths[row, : len(counts)] = counts
        offsets[row, : len(counts)] = np.cumsum(counts) - counts
    shapes = {
        "segment_ids": rows["segment_ids"],
        "positions": rows["positions"],
        "lengths": lengths,
        "offsets": offsets,
    }
    return arrays, {name: jnp.asarray(array) for name, array in shapes.items()}


def with_gradients(function: Attention) -> Callable[..., tuple[jax.Array, ...]]:
    def run(arrays: list[jax.Array], rows: dict[str, Any]) -> tuple[jax.Array, ...]:
        *qkv, upstream = arrays
        output, pullback = jax.vjp(lambda q, k, v: function(q, k, v, rows), *qkv)
        return output, *pullback(upstream)

    return run


def expected(arrays: list[jax.Array], rows: dict[str, Any], heads: int) -> list[np.ndarray]:
    """Output and gradients of some heads of the first row, in float32."""
    few = [array[:1, :, :heads].astype(jnp.float32) for array in arrays]
    first = {name: array[:1] for name, array in rows.items()}
    with jax.default_matmul_precision("highest"):
        found = jax.jit(with_gradients(ours("dense")))(few, first)
    return [np.asarray(array) for array in found]


def distance(found: Any, exact: list[np.ndarray]) -> float:
    """The largest of the four distances, relative to the norm."""
    heads = exact[0].shape[2]
    return max(
        float(
            np.linalg.norm(np.asarray(one[:1, :, :heads], np.float32) - two) / np.linalg.norm(two)
        )
        for one, two in zip(found, exact, strict=True)
    )


def leaks(function: Any, arrays: list[jax.Array], rows: dict[str, Any], before: Any) -> bool:
    """Whether a changed second segment moves a bit of another one."""
    inside = (rows["segment_ids"] == 2)[:, :, None, None]
    other = [jnp.where(inside, -array, array) for array in arrays]
    after = function(other, rows)
    return any(
        bool((jnp.where(inside, 0, one) != jnp.where(inside, 0, two)).any())
        for one, two in zip(before, after, strict=True)
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    known = {name.replace(", ", "-").replace(" ", "-"): name for name in CONTESTANTS}
    parser.add_argument("names", nargs="*", default=[*known], choices=[*known], metavar="KERNEL")
    chosen = [known[name] for name in parser.parse_args().names]
    failed: list[str] = []
    for heads in HEADS:
        arrays, rows = inputs(heads)
        exact = expected(arrays, rows, 2)
        flops = 3.5 * 2 * ROWS * heads * TOKENS**2 * WIDTH
        runs: dict[str, Any] = {}
        notes: dict[str, str] = {}
        for name in chosen:
            make = CONTESTANTS[name]
            what = f"{name}, {heads} heads"
            try:
                function = jax.jit(with_gradients(make())).lower(arrays, rows).compile()
                found = jax.block_until_ready(function(arrays, rows))
            except Exception as error:  # of a kernel that is not ours: the others are measured
                reason = (str(error).strip().splitlines() or [""])[0][:160]
                record(what, f"does not run: {type(error).__name__}: {reason}")
                failed.append(what)
                continue
            memory: Any = function.memory_analysis()
            temporaries = memory.temp_size_in_bytes
            off = distance(found, exact)
            whole = name == "cudnn, whole"
            leak = not whole and leaks(function, arrays, rows, found)
            wrong = not whole and (leak or not off < ALLOWED)
            notes[name] = (
                ("whole rows, " if whole else "WRONG, " if wrong else "")
                + (f"off by {off:.4f}, " if not whole else "")
                + ("LEAKS, " if leak else "")
                + f"{temporaries / GIB:.2f} GiB"
            )
            runs[name] = function
            failed += [what] * wrong
        seconds: dict[str, list[float]] = {name: [] for name in runs}
        for _ in range(ROUNDS):
            for name, function in runs.items():
                started = time.perf_counter()
                # Several at once, since starting a single one takes a part of its time.
                jax.block_until_ready([function(arrays, rows) for _ in range(CALLS)])
                seconds[name].append((time.perf_counter() - started) / CALLS)
        for name, times in seconds.items():
            middle = statistics.median(times)
            record(
                f"{name}, {heads} heads",
                f"{middle * 1e3:.2f} ms ({min(times) * 1e3:.2f} to {max(times) * 1e3:.2f}), "
                f"{flops / middle / 1e12:.0f} TFLOP/s, {notes[name]}",
                seconds=times,
                flops=flops,
            )
    if bad := [what for what in failed if what.split(",")[0] in OURS]:
        raise SystemExit(f"kernels of this project do not run or are wrong: {'; '.join(bad)}")


if __name__ == "__main__":
    main()
