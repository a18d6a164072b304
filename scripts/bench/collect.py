"""Calls per second of a collection or a judge, compared with bare clients.

    python scripts/bench/collect.py [--in-flight 64 256 1000] [--delay-ms 50] [--rounds 5]
    python scripts/bench/collect.py --what judge --in-flight 64

The bare clients send the same requests. A judge grades 80 dialogues of eight turns. The server runs
in a separate process, on a separate core if there are two, and replies after a fixed delay. Each
request and reply is journaled on disk (WAL, synchronous=FULL) before the run continues. The bare
clients have no journal: `send` is the endpoint that `collect` uses, `create` the usual call of the
`openai` client. The order alternates between rounds.
"""

import argparse
import asyncio
import contextlib
import functools
import json
import multiprocessing
import os
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import openai

from parrot_jax.api.endpoint import Endpoint
from parrot_jax.api.endpoint_config import EndpointConfig, JobEndpointConfig
from parrot_jax.api.scripted_server import Scripted, ScriptedServer, converse
from parrot_jax.collect.collect_config import BeginningsConfig, CollectConfig, SpeakerConfig
from parrot_jax.collect.run import collect
from parrot_jax.collect.stops import StopConfig
from parrot_jax.core.logs import console
from parrot_jax.evaluate.judge_config import JudgeConfig
from parrot_jax.evaluate.judging import judge

TURNS, JUDGED_TURNS = 4, 8


def pin(place: int) -> None:
    """Pins this process to one core, if there are several."""
    if hasattr(os, "sched_setaffinity") and len(cores := sorted(os.sched_getaffinity(0))) > 1:
        os.sched_setaffinity(0, {cores[place]})


def serve(delay_s: float, urls: Any) -> None:
    """The server's process: reports its address and serves until it is terminated."""
    pin(-1)
    with ScriptedServer(reply, delay_s=delay_s, keeps_bodies=False) as server:
        urls.put(server.url)
        time.sleep(24 * 3600)


def reply(body: dict[str, Any]) -> Scripted:
    """A grade if one is asked for, else the next turn of a dialogue."""
    wants_grade = "Grade the " in body["messages"][-1]["content"]
    return Scripted(text="Correct, but short. [[7]]") if wants_grade else converse(body)


def judge_bodies(url: str, folder: Path, dialogues: int, in_flight: int) -> list[dict[str, Any]]:
    """Judges answers of about 100 words; returns the requests that were sent."""
    questions, answers = folder / "question.jsonl", folder / "answers.jsonl"
    with open(questions, "w") as asked, open(answers, "w") as said:
        for number in range(dialogues):
            turns = [f"What is {number} in step {turn}, and why?" for turn in range(JUDGED_TURNS)]
            row = {"question_id": number, "category": "math", "turns": turns}
            asked.write(json.dumps(row) + "\n")
            texts = [f"It is {number + turn}. " * 30 for turn in range(JUDGED_TURNS)]
            row = {"question_id": number, "model_id": "m", "choices": [{"turns": texts}]}
            said.write(json.dumps(row) + "\n")
    config = JudgeConfig(
        out=str(folder / "out"),
        benchmark=str(questions),
        answers=(str(answers),),
        judge=JobEndpointConfig(
            base_url=url, model="bench", temperature=0.0, max_tokens=256, concurrency=in_flight
        ),
    )
    with console.capture():
        judge(config)
    with contextlib.closing(sqlite3.connect(folder / "out" / "journal.sqlite")) as db, db:
        return [json.loads(body) for (body,) in db.execute("SELECT body FROM request_bodies")]


def collect_bodies(url: str, folder: Path, dialogues: int, in_flight: int) -> list[dict[str, Any]]:
    """Runs a whole collection; returns the requests that it sent."""
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
        max_turns=TURNS,
        concurrency=in_flight,
        # Scripted texts differ only in a number.
        stops=StopConfig(repeated_question=None),
    )
    with console.capture():
        collect(config)
    with contextlib.closing(sqlite3.connect(folder / "out" / "journal.sqlite")) as db, db:
        return [json.loads(body) for (body,) in db.execute("SELECT body FROM request_bodies")]


async def send_bodies(
    url: str, bodies: Sequence[dict[str, Any]], in_flight: int, *, create: bool
) -> None:
    """Sends requests with a bare client: the `openai` client, or the endpoint of `collect`."""
    waiting = iter(bodies)

    async def work(send: Callable[[dict[str, Any]], Awaitable[Any]]) -> None:
        for body in waiting:
            await send(body)

    if create:
        async with openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as client:
            create_one = client.chat.completions.create
            await asyncio.gather(*(work(lambda body: create_one(**body)) for _ in range(in_flight)))
    else:
        async with Endpoint(EndpointConfig(base_url=url, model="bench")) as endpoint:
            await asyncio.gather(*(work(endpoint.send) for _ in range(in_flight)))


def bench(url: str, what: str, dialogues: int, in_flight: int, rounds: int) -> None:
    """Prints calls per second, and this process's CPU milliseconds per call."""
    rates: dict[str, list[tuple[float, float]]] = {}
    bodies: list[dict[str, Any]] = []

    @contextlib.contextmanager
    def timed(name: str) -> Iterator[None]:
        wall, cpu = time.perf_counter(), time.process_time()
        yield
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        rates.setdefault(name, []).append((len(bodies) / wall, cpu / len(bodies) * 1e3))

    run = judge_bodies if what == "judge" else collect_bodies

    def run_ours() -> None:
        nonlocal bodies
        with tempfile.TemporaryDirectory(dir=".") as folder, timed(what):
            bodies = run(url, Path(folder), dialogues, in_flight)

    def run_client(name: str) -> None:
        with timed(f"client, {name}"):
            asyncio.run(send_bodies(url, bodies, in_flight, create=name == "create"))

    variants = [run_ours, *(functools.partial(run_client, n) for n in ("create", "send"))]
    for number in range(rounds):
        # The first round starts with ours, which generates the requests for the others.
        for variant in variants if number % 2 == 0 else reversed(variants):
            variant()
    print(f"{len(bodies):,} calls, {in_flight} in flight   calls/s        CPU ms/call")
    for name, seen in rates.items():
        (rate, low, high), (cpu, *_) = (
            (statistics.median(x), min(x), max(x)) for x in zip(*seen, strict=True)
        )
        print(f"  {name:24} {rate:6.0f} ({low:.0f} to {high:.0f}) {cpu:8.2f}")
    ours, theirs = ([rate for rate, _ in rates[n]] for n in (what, "client, create"))
    ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
    print(f"  {what} / create: median of rounds {statistics.median(ratios):.2f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--what", choices=["collect", "judge"], default="collect")
    parser.add_argument("--in-flight", type=int, nargs="+", default=[64, 256, 1000])
    parser.add_argument("--delay-ms", type=float, default=50.0)
    parser.add_argument("--rounds", type=int, default=5, help="the median is printed")
    options = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    urls = context.Queue()
    server = context.Process(target=serve, args=(options.delay_ms / 1e3, urls), daemon=True)
    server.start()
    try:
        url = urls.get()
        pin(0)
        for in_flight in options.in_flight:
            dialogues = 80 if options.what == "judge" else max(200, 2 * in_flight)
            bench(url, options.what, dialogues, in_flight, options.rounds)
    finally:
        server.terminate()
        server.join()


if __name__ == "__main__":
    main()
