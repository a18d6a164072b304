"""Time and peak memory for input from hostile or broken peers, compared with an older checkout.

    git worktree add --detach ../before COMMIT
    python scripts/bench/hostile.py --before ../before [--mb 1000] [--dialogues 500]

Four cases, each in separate processes with the older and with this code: the stop rules check a
reply of 16,000 `_`, a served model gets 40,000 messages, a reply is endless, and a journal is
damaged. Failures are reported with exit code, number of lines and last line.
"""

import argparse
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import yaml

from parrot_jax.world.world_files import VOCAB_SIZE

HERE = Path(__file__).resolve().parents[2]

PARROT = "import sys; from parrot_jax.cli import main; sys.exit(main())"

JUDGE = """
import resource, time
from parrot_jax.collect.stops import StopConfig, StopJudge
from parrot_jax.dialogue.types import Turn
judge = StopJudge(StopConfig())
said = ("user", "Who founded Oria?"), ("assistant", "Nobody knows."), ("user", "Why?")
turns = [Turn(role, text) for role, text in said]
judge(turns, "Nobody wrote it down.")
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
started = time.perf_counter()
judge(turns, "_" * 16_000)
seconds = time.perf_counter() - started
print(seconds, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024, "judged")
"""

SEND = """
import asyncio, resource, sys, time
from parrot_jax.api.endpoint_config import EndpointConfig
from parrot_jax.api.endpoint import Endpoint
async def send():
    async with Endpoint(EndpointConfig(base_url=sys.argv[1], model="m", timeout_s=600)) as endpoint:
        body = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}
        return (await endpoint.send(body)).error or "a reply"
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
started = time.perf_counter()
said = asyncio.run(send())
seconds = time.perf_counter() - started
print(seconds, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024, said)
"""


def python(source: Path, *arguments: str, folder: Path) -> subprocess.Popen[str]:
    """Starts Python with the package of this checkout."""
    environment = os.environ | {"PYTHONPATH": str(source), "JAX_PLATFORMS": "cpu"}
    return subprocess.Popen(
        [sys.executable, "-c", *arguments], cwd=folder, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def measured(source: Path, *arguments: str, folder: Path) -> tuple[int, float, float, str]:
    """Runs a program; returns exit code, seconds, peak memory in MB, and output."""
    started = time.perf_counter()
    process = python(source, *arguments, folder=folder)
    assert process.stdout is not None
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    seconds = time.perf_counter() - started
    return process.returncode, seconds, usage.ru_maxrss / 1024, output


def snippet(source: Path, code: str, *arguments: str, folder: Path) -> str:
    """Runs code that prints seconds, MB and a result; returns them formatted."""
    status, *_, output = measured(source, code, *arguments, folder=folder)
    lines = output.strip().splitlines() or [""]
    if status:
        return f"exit code {status}, {len(lines)} lines: {lines[-1][:100]}"
    seconds, mb, said = lines[-1].split(" ", 2)
    return f"{float(seconds):8.3f} s, {float(mb):7,.1f} MB more; {said[:100]}"


# ---- replies ------------------------------------------------------------------------------------


@contextmanager
def answering(answer: Callable[[BaseHTTPRequestHandler, dict[str, Any]], None]) -> Iterator[str]:
    """Runs a local server; yields its URL."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            try:
                answer(self, json.loads(body))
            except ConnectionError:
                self.close_connection = True  # the client disconnected

        def log_message(self, format: str, *args: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        request_queue_size = 1024  # with the default 5, connections would wait for seconds

    server = Server(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()
        server.server_close()


def without_end(mb: int) -> Callable[[BaseHTTPRequestHandler, dict[str, Any]], None]:
    """A reply of this many megabytes of spaces."""

    def answer(handler: BaseHTTPRequestHandler, _: dict[str, Any]) -> None:
        handler.send_response(200)
        handler.send_header("connection", "close")
        handler.end_headers()
        for _part in range(mb):
            handler.wfile.write(b" " * 2**20)

    return answer


THINGS = ("river", "harbour", "market", "bridge", "tower", "garden", "castle", "library", "well",
          "theatre", "mill")  # fmt: skip


def usual(handler: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
    """A reply that depends on the dialogue so far."""
    history = body["messages"]
    thing = THINGS[len(history)]
    asks = history[-1]["role"] == "assistant"
    text = f"Where can its {thing} be seen?" if asks else f"Its {thing} lies in the north."
    reply = {
        "id": "r", "object": "chat.completion", "created": 0, "model": "m",
        "choices": [
            {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
        ],
        "usage": {"prompt_tokens": 9, "completion_tokens": 9, "total_tokens": 18},
    }  # fmt: skip
    content = json.dumps(reply).encode()
    handler.send_response(200)
    handler.send_header("content-type", "application/json")
    handler.send_header("content-length", str(len(content)))
    handler.end_headers()
    handler.wfile.write(content)


# ---- cases --------------------------------------------------------------------------------------


def served(source: Path, folder: Path) -> str:
    """Posts 40,000 messages to a two-layer model behind `parrot serve`."""
    folder.mkdir()
    status, *_, output = measured(source, PARROT, "world", "write", "--out", "world", folder=folder)
    assert status == 0, output
    config = {
        "task": "chat", "out": "run", "epochs": 1, "batch_rows": 4, "compute_dtype": "float32",
        "data": {
            "sources": [{"kind": "messages", "path": "world/held_out.jsonl", "sample": 16}],
            "tokenizer": "world/tokenizer.model", "row_tokens": 128, "eval_fraction": 0,
            "mask": {"loss_roles": ["assistant"], "skip_first_turn": False},
        },
        "model": {
            "vocab_size": VOCAB_SIZE, "hidden_size": 32, "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256,
        },
    }  # fmt: skip
    (folder / "train.yaml").write_text(yaml.safe_dump(config))
    status, *_, output = measured(source, PARROT, "train", "train.yaml", folder=folder)
    assert status == 0, output
    server = python(source, PARROT, "serve", "run", "--port", "0", folder=folder)
    try:
        assert server.stdout is not None
        url = server.stdout.readline().split(" at ")[-1].split()[0]
        short = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes?"}]
        post(url, [short[0]])  # compiles
        before = most_memory(server.pid)
        longest, ended = [0.0], threading.Event()
        watch = threading.Thread(target=watch_health, args=(url, ended, longest))
        watch.start()
        started = time.perf_counter()
        said = post(url, [*short * 20_000, short[0]])
        seconds = time.perf_counter() - started
        ended.set()
        watch.join()
        mb = most_memory(server.pid) - before
        health = f"/health at most {longest[0]:.2f} s"
        return f"{seconds:8.3f} s, {mb:7,.1f} MB more, {health}; {said[:100]}"
    finally:
        server.terminate()
        server.wait()


def post(url: str, messages: list[dict[str, str]]) -> str:
    """Returns a served model's response to these messages."""
    body = json.dumps({"model": "run", "messages": messages, "max_tokens": 4}).encode()
    headers = {"content-type": "application/json"}
    request = urllib.request.Request(f"{url}/chat/completions", body, headers)
    try:
        with urllib.request.urlopen(request, timeout=600) as reply:
            return f"{reply.status}"
    except urllib.error.HTTPError as error:
        return f"{error.code} {error.read().decode()}"


def watch_health(url: str, ended: threading.Event, longest: list[float]) -> None:
    """Requests /health until the end; keeps the longest response time."""
    while not ended.is_set():
        started = time.perf_counter()
        with urllib.request.urlopen(f"{url.removesuffix('/v1')}/health", timeout=600) as reply:
            reply.read()
        longest[0] = max(longest[0], time.perf_counter() - started)
        ended.wait(0.02)


def most_memory(pid: int) -> float:
    """The peak memory of a process in MB."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def damage(journal: Path, how: str) -> None:
    """Damages rows of a journal, or its file."""
    if how == "cut":
        os.truncate(journal, journal.stat().st_size // 2)
        return
    statement = {
        "usage": "UPDATE replies SET completion_tokens = 9007199254740993 WHERE request % 50 = 0",
        "text": "UPDATE reply_bodies SET text = CAST(x'ff41' AS TEXT) WHERE request % 50 = 0",
        "row": "UPDATE items SET input = '{' WHERE number % 50 = 0",
    }[how]
    with sqlite3.connect(journal) as connection:
        connection.execute(statement)
    connection.close()


def journals(source: Path, folder: Path, dialogues: int) -> Iterator[tuple[str, str]]:
    """Resumes a collection from journals with different damage."""
    folder.mkdir()
    turns = [{"role": "user", "content": ""}, {"role": "assistant", "content": "It depends."}]
    with open(folder / "dialogues.jsonl", "w") as file:
        for number in range(dialogues):
            turns[0]["content"] = f"What is known of river {number}"
            file.write(json.dumps({"id": str(number), "messages": turns}) + "\n")
    with answering(usual) as url:
        speaker = {"base_url": url, "model": "m", "max_tokens": 50}
        config = {
            "out": "talks", "asker": speaker, "answerer": speaker, "max_turns": 4, "seed": 0,
            "beginnings": [{"kind": "messages", "path": "dialogues.jsonl"}], "budget": False,
        }  # fmt: skip
        (folder / "collect.yaml").write_text(yaml.safe_dump(config))
        status, *_, output = measured(source, PARROT, "collect", "collect.yaml", folder=folder)
        assert status == 0, output
        shutil.move(folder / "talks", folder / "whole")
        for how in ("whole", "cut", "row", "text", "usage"):
            shutil.copytree(folder / "whole", folder / "talks")
            if how != "whole":
                damage(folder / "talks" / "journal.sqlite", how)
            command = ("collect", "collect.yaml", "--max-turns", "5")
            status, seconds, mb, output = measured(source, PARROT, *command, folder=folder)
            lines = [line for line in output.splitlines() if line.strip()] or [""]
            said = f"{len(lines)} lines, the last: {lines[-1][:140]}"
            yield how, f"{seconds:8.3f} s, {mb:7,.1f} MB; exit code {status}, {said}"
            shutil.rmtree(folder / "talks")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--before", type=Path, help="an older checkout")
    parser.add_argument("--mb", type=int, default=1000, help="size of the endless reply")
    parser.add_argument("--dialogues", type=int, default=500, help="dialogues in the journal")
    options = parser.parse_args()
    sources = {"before": options.before.resolve()} if options.before else {}
    sources["now"] = HERE
    # The local servers need no proxy.
    os.environ["NO_PROXY"] = os.environ["no_proxy"] = "127.0.0.1"
    with tempfile.TemporaryDirectory(prefix="hostile-") as name:
        for when, source in sources.items():
            folder = Path(name) / when
            folder.mkdir()
            print(f"{when}: 16,000 _ judged    {snippet(source, JUDGE, folder=folder)}", flush=True)
            print(f"{when}: 40,000 messages    {served(source, folder / 'serve')}", flush=True)
            with answering(without_end(options.mb)) as url:
                said = snippet(source, SEND, url, folder=folder)
            print(f"{when}: no end, {options.mb} MB    {said}", flush=True)
            for how, said in journals(source, folder / "journal", options.dialogues):
                print(f"{when}: journal, {how:5}     {said}", flush=True)


if __name__ == "__main__":
    main()
