"""Calls a second of the collection loop, beside the bare client that sends the same requests.

    python scripts/bench/collect.py [--dialogues 200] [--in-flight 64] [--delay-ms 50]

The server is a process of its own and answers after a fixed delay. `collect` journals each request
and each reply to the disk (WAL, synchronous=FULL) before it goes on; `client` is the same package
without a journal: `post` as `collect` uses it, with aiohttp below and without models of requests
and replies, `create` as most people do, with neither changed.
"""

import argparse
import asyncio
import contextlib
import json
import multiprocessing
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx2
import openai

from parrot_jax.api.scripted_server import ScriptedServer
from parrot_jax.collect.config import BeginningsConfig, CollectConfig, SpeakerConfig
from parrot_jax.collect.engine import collect
from parrot_jax.core.logs import console


def serve(delay_s: float, urls: Any) -> None:
    """The server's process: says where it is, then serves until it is terminated."""
    with ScriptedServer(delay_s=delay_s) as server:
        urls.put(server.url)
        time.sleep(24 * 3600)


def collect_bodies(url: str, folder: Path, dialogues: int, in_flight: int) -> list[dict[str, Any]]:
    """Runs a whole collection; the requests that it sent."""
    beginnings = folder / "beginnings.jsonl"
    with open(beginnings, "w") as file:
        for number in range(dialogues):
            messages = [{"role": "user", "content": f"What is {number}, and why? " * 10}]
            file.write(json.dumps({"messages": messages}) + "\n")
    endpoint = SpeakerConfig(base_url=url, model="bench", temperature=1.0, max_tokens=256)
    config = CollectConfig(
        out=str(folder / "out"),
        asker=endpoint,
        answerer=endpoint,
        beginnings=(BeginningsConfig(kind="messages", path=str(beginnings)),),
        concurrency=in_flight,
    )
    with console.capture():
        collect(config)
    with sqlite3.connect(folder / "out" / "journal.sqlite") as db:
        return [json.loads(body) for (body,) in db.execute("SELECT body FROM request_bodies")]


async def send_bodies(
    url: str, bodies: Sequence[dict[str, Any]], in_flight: int, *, create: bool
) -> None:
    """Sends requests by the client alone."""
    http_client = None if create else openai.DefaultAioHttpClient()
    async with openai.AsyncOpenAI(
        base_url=url, api_key="none", max_retries=0, http_client=http_client
    ) as client:
        waiting = iter(bodies)

        async def work() -> None:
            for body in waiting:
                if create:
                    await client.chat.completions.create(**body)
                else:
                    await client.post("/chat/completions", body=body, cast_to=httpx2.Response)

        await asyncio.gather(*(work() for _ in range(in_flight)))


def bench(url: str, dialogues: int, in_flight: int, rounds: int) -> None:
    """Prints calls a second, and milliseconds of this process's CPUs a call."""
    rates: dict[str, list[tuple[float, float]]] = {}
    bodies: list[dict[str, Any]] = []

    @contextlib.contextmanager
    def timed(name: str) -> Iterator[None]:
        wall, cpu = time.perf_counter(), time.process_time()
        yield
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        rates.setdefault(name, []).append((len(bodies) / wall, cpu / len(bodies) * 1e3))

    for _ in range(rounds):
        with tempfile.TemporaryDirectory(dir=".") as folder, timed("collect"):
            bodies = collect_bodies(url, Path(folder), dialogues, in_flight)
        for name in ("post", "create"):
            with timed(f"client, {name}"):
                create = name == "create"
                asyncio.run(send_bodies(url, bodies, in_flight, create=create))
    print(f"{len(bodies):,} calls, {in_flight} in flight   calls/s        CPU ms/call")
    for name, seen in rates.items():
        (rate, low, high), (cpu, *_) = (
            (statistics.median(x), min(x), max(x)) for x in zip(*seen, strict=True)
        )
        print(f"  {name:24} {rate:6.0f} ({low:.0f} to {high:.0f}) {cpu:8.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--dialogues", type=int, default=200)
    parser.add_argument("--in-flight", type=int, default=64)
    parser.add_argument("--delay-ms", type=float, default=50.0)
    parser.add_argument("--rounds", type=int, default=3, help="all contestants in turn; the median")
    options = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    urls = context.Queue()
    server = context.Process(target=serve, args=(options.delay_ms / 1e3, urls), daemon=True)
    server.start()
    try:
        bench(urls.get(), options.dialogues, options.in_flight, options.rounds)
    finally:
        server.terminate()
        server.join()


if __name__ == "__main__":
    main()
