"""Requests per second of a served run, and their latency, beside calling `generate` directly.

    python scripts/bench/serve.py RUN [--rows 1 4 8 16 32] [--in-flight 64] [--requests 256]

For each number of rows per batch: a single client, many requests in flight, and `generate` on the
same prompts in full batches without a server. Latencies are of the requests in flight, seen by the
client. The stock client and the server share this process and its cores. `same` counts the replies
to the single client that are bit-identical among many requests; it must be all.
"""

import argparse
import asyncio
import contextlib
import statistics
import time
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
import openai

from parrot_jax.data.templates import make_template
from parrot_jax.model.families import num_parameters
from parrot_jax.model.generate import for_generation, generate
from parrot_jax.serve.app import make_app
from parrot_jax.serve.background import BackgroundServer
from parrot_jax.serve.jax_engine import JaxEngine
from parrot_jax.train.run_folder import RunFolder
from parrot_jax.weights.model_folder import load_params

History = list[tuple[Any, str]]

NUM_ALONE = 16


def histories(task: str, count: int) -> list[History]:
    """Dialogues of one to three rounds for which a model of this task writes the next turn."""
    found: list[History] = []
    for number in range(count):
        turns: History = []
        for turn in range(1 + number % 3):
            turns.append(("user", f"What about question {number}.{turn}?"))
            turns.append(("assistant", "It has many sides, and each has more."))
        found.append(turns if task == "ask" else turns[:-1])
    return found


async def ask(
    url: str, requests: Sequence[dict[str, Any]], in_flight: int
) -> list[tuple[list[int], float]]:
    """Returns the ids and the seconds of the replies, in order."""
    room = asyncio.Semaphore(in_flight)
    async with openai.AsyncOpenAI(base_url=url, api_key="none", timeout=600) as client:

        async def one(request: dict[str, Any]) -> tuple[list[int], float]:
            async with room:
                started = time.perf_counter()
                reply = await client.chat.completions.create(**request)
                seconds = time.perf_counter() - started
                return reply.model_dump()["choices"][0]["token_ids"], seconds

        return await asyncio.gather(*map(one, requests))


def timed(
    url: str, requests: Sequence[dict[str, Any]], in_flight: int
) -> tuple[float, tuple[Any, ...], tuple[float, ...]]:
    """Returns requests per second, and the ids and seconds of the replies."""
    started = time.perf_counter()
    replies = asyncio.run(ask(url, requests, in_flight))
    rate = len(requests) / (time.perf_counter() - started)
    ids, seconds = zip(*replies, strict=True)
    return rate, ids, seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("run", help="a run folder")
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 4, 8, 16, 32])
    parser.add_argument("--in-flight", type=int, default=64)
    parser.add_argument("--requests", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=3, help="the median is printed")
    parser.add_argument("--max-tokens", type=int, default=32)
    options = parser.parse_args()
    folder = RunFolder(options.run)
    config = folder.load_config()
    tokenizer, params = folder.load_tokenizer(), load_params(options.run)
    dtype = jnp.dtype(config.compute_dtype)
    stored = for_generation(config.model, params, dtype)
    turns = histories(config.task, options.requests)
    prompts = [make_template("parrot", tokenizer).prompt("", history) for history in turns]
    settings = {"max_tokens": options.max_tokens, "temperature": 1.0, "top_p": 0.95}
    requests = [
        {
            "model": "bench",
            "messages": [{"role": role, "content": text} for role, text in history],
            "seed": seed,
            "extra_body": {"return_token_ids": True},
            **settings,
        }
        for seed, history in enumerate(turns)
    ]

    def direct(rows: int) -> float:
        started = time.perf_counter()
        for first in range(0, len(prompts), rows):
            some = prompts[first : first + rows]
            generate(
                config.model, stored, some, max_new_tokens=options.max_tokens,
                stop_ids=(tokenizer.eos_id,), temperature=1.0, top_p=0.95,
                seeds=range(first, first + len(some)), num_rows=rows, compute_dtype=dtype,
            )  # fmt: skip
        return len(prompts) / (time.perf_counter() - started)

    rates: dict[int, list[tuple[float, float, float]]] = {rows: [] for rows in options.rows}
    same: dict[int, int] = {}
    waits: dict[int, list[float]] = {rows: [] for rows in options.rows}
    with contextlib.ExitStack() as servers:
        urls = {}
        for rows in options.rows:
            engine = JaxEngine(
                "bench", config.task, config.model, params, make_template("parrot", tokenizer),
                compute_dtype=dtype, batch_rows=rows,
            )  # fmt: skip
            urls[rows] = servers.enter_context(BackgroundServer(make_app(engine))).url
            timed(urls[rows], requests[:NUM_ALONE], NUM_ALONE)  # compiles
            direct(rows)
        for _ in range(options.repeats):
            for rows, url in urls.items():
                alone, replies, _ = timed(url, requests[:NUM_ALONE], 1)
                many, among_many, seconds = timed(url, requests, options.in_flight)
                waits[rows].extend(seconds)
                rates[rows].append((alone, many, direct(rows)))
                same[rows] = sum(map(list.__eq__, replies, among_many))
    print(f"{num_parameters(config.model):,} parameters, {config.compute_dtype}; requests/s")
    print(
        f"rows   alone  {options.in_flight:3} in flight   direct   same of {NUM_ALONE}"
        "   median ms   p99 ms"
    )
    for rows, seen in rates.items():
        alone, many, straight = (statistics.median(rate) for rate in zip(*seen, strict=True))
        middle, late = np.quantile(waits[rows], [0.5, 0.99]) * 1e3
        print(
            f"{rows:4} {alone:7.1f} {many:14.1f} {straight:8.1f} {same[rows]:12} {middle:11.0f} "
            f"{late:8.0f}"
        )


if __name__ == "__main__":
    main()
