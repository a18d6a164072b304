"""Memory of a collection by its number of dialogues, and time to resume a large one.

    python scripts/bench/collect_size.py [--dialogues 1000 20000] [--turns 10]

Each size runs in a separate process. Replies are generated in that process, without a connection,
so only the collection, its journal and its export are measured. The largest collection is then
resumed with one more dialogue; its first journaled request marks the end of the resumption.
"""

import argparse
import contextlib
import json
import multiprocessing
import resource
import sqlite3
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from parrot_jax.api import scripted_server
from parrot_jax.api.endpoint import Endpoint
from parrot_jax.api.replies import Response, read_response
from parrot_jax.collect.collect_config import BeginningsConfig, CollectConfig, SpeakerConfig
from parrot_jax.collect.run import collect
from parrot_jax.collect.stops import StopConfig
from parrot_jax.core.logs import console

IN_FLIGHT = 256
_FILLER = "What a number is, is a question that people have asked for a very long time. " * 4


async def reply_in_process(endpoint: Endpoint, body: dict[str, Any]) -> Response:
    """Returns at once what a scripted server would send."""
    said = scripted_server.converse(body).text
    usage = {"prompt_tokens": 100, "completion_tokens": 50}
    message = {"message": {"content": f"{said} {_FILLER}"}, "finish_reason": "stop"}
    return read_response(200, json.dumps({"choices": [message], "usage": usage, "model": "m"}))


def run(folder: Path, dialogues: int, turns: int) -> tuple[float, float]:
    """Collects or resumes; returns seconds and this process's peak memory in MB."""
    beginnings = folder / "beginnings.jsonl"
    with open(beginnings, "w") as file:
        for number in range(dialogues):
            messages = [{"role": "user", "content": f"What is {number}?"}]
            file.write(json.dumps({"messages": messages}) + "\n")
    speaker = SpeakerConfig(base_url="http://127.0.0.1:1/v1", model="m")
    config = CollectConfig(
        out=str(folder / "out"), asker=speaker, answerer=speaker, max_turns=turns,
        beginnings=(BeginningsConfig(kind="messages", path=str(beginnings), sample=dialogues),),
        concurrency=IN_FLIGHT, stops=StopConfig(repeated_question=None),
    )  # fmt: skip
    Endpoint.send = reply_in_process  # type: ignore[method-assign]
    start = time.perf_counter()
    with console.capture():
        collect(config)
    seconds = time.perf_counter() - start
    return seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _process(results: Any, *arguments: Any) -> None:
    results.put(run(*arguments))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--dialogues", type=int, nargs="+", default=[1000, 20000])
    parser.add_argument("--turns", type=int, default=10)
    options = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    results = context.Queue()

    def in_process(*arguments: Any) -> tuple[float, float]:
        process = context.Process(target=_process, args=(results, *arguments))
        process.start()
        process.join()
        if process.exitcode:
            raise SystemExit(f"a collection ended with {process.exitcode}; see its output above")
        return results.get()

    with tempfile.TemporaryDirectory(dir=".") as parent:
        folder = Path(parent)
        for dialogues in sorted(options.dialogues):
            folder = Path(parent, str(dialogues))
            folder.mkdir()
            seconds, most_mb = in_process(folder, dialogues, options.turns)
            num_turns = 2 * dialogues * options.turns
            size_mb = (folder / "out" / "journal.sqlite").stat().st_size / 1e6
            print(
                f"{dialogues:7,} dialogues, {num_turns:,} turns: {most_mb:.0f} MB of memory at "
                f"most, {seconds:.0f} s, journal {size_mb:,.0f} MB",
                flush=True,
            )
        print(in_process_again(in_process, folder, max(options.dialogues), options.turns))


def in_process_again(in_process: Any, folder: Path, dialogues: int, turns: int) -> str:
    """Resumes with one more dialogue."""
    first: list[float] = []
    journal = folder / "out" / "journal.sqlite"
    watching = threading.Thread(target=_watch, args=(journal, first), daemon=True)
    start = time.perf_counter()
    watching.start()
    seconds, most_mb = in_process(folder, dialogues + 1, turns)
    watching.join()
    return (
        f"one more dialogue: first request after {first[0] - start:.1f} s, imports included; "
        f"done, including the full export, after {seconds:.0f} s; {most_mb:.0f} MB"
    )


def _watch(journal: Path, first: list[float]) -> None:
    with contextlib.closing(sqlite3.connect(f"file:{journal}?mode=ro", uri=True)) as db:
        (before,) = db.execute("SELECT max(id) FROM requests").fetchone()
        while db.execute("SELECT max(id) FROM requests").fetchone()[0] == before:
            time.sleep(0.02)
    first.append(time.perf_counter())


if __name__ == "__main__":
    main()
