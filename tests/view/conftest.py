"""Indexes of small files, and the real command in a process of its own."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from parrot_jax.view.indexing import Part
from parrot_jax.view.opening import open_paths
from parrot_jax.view.reading import IndexReader

from ..chromium import browser, context, page  # noqa: F401

ROOT = Path(__file__).resolve().parents[2]
Index = Callable[..., IndexReader]


def row(number: int, *texts: str, **keys: Any) -> str:
    """A line of a file: question, answer, question, ..."""
    texts = texts or (f"question {number}", f"answer {number}")
    messages = [
        {"role": "assistant" if place % 2 else "user", "content": text}
        for place, text in enumerate(texts)
    ]
    return json.dumps({"id": f"d{number}", **keys, "messages": messages}) + "\n"


def update(part: Part) -> Part:
    """One pass of the indexing."""
    for _ in part.update():
        pass
    return part


@pytest.fixture
def open_part(tmp_path: Path) -> Iterator[Callable[[Path | str], Part]]:
    """Returns a function that opens a path, without reading it."""
    with contextlib.ExitStack() as stack:

        def open_one(path: Path | str) -> Part:
            (part,) = open_paths([str(path)], str(tmp_path / "cache"))
            stack.callback(part.close)
            return part

        yield open_one


@pytest.fixture
def index(open_part: Callable[[Path | str], Part]) -> Iterator[Index]:
    """Returns a function that reads a path, and opens its index."""
    with contextlib.ExitStack() as stack:

        def read(path: Path | str) -> IndexReader:
            part = update(open_part(path))
            part.close()
            assert part.problem == ""
            reader = IndexReader(part.index)
            stack.callback(reader.close)
            return reader

        yield read


class Server:
    """`parrot view` in a process; its lines are read in a thread."""

    def __init__(self, folder: Path, *arguments: object) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-u", "-m", "parrot_jax.cli", "view", *map(str, arguments)],
            cwd=folder, env=os.environ | {"PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        assert self.process.stdout is not None
        first = self.process.stdout.readline()
        found = re.search(r"http://127\.0\.0\.1:(\d+)/(\?token=[\w-]+)", first)
        assert found, first + self.process.stdout.read()
        self.port, self.token, self.link = int(found[1]), found[2], found[0]
        self.url = f"http://127.0.0.1:{self.port}"
        self._reader = threading.Thread(target=self.process.stdout.read, daemon=True)
        self._reader.start()

    def kill(self) -> None:
        """Kills the process at once."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        self._reader.join()
        assert self.process.stdout is not None
        self.process.stdout.close()


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Returns a function that starts the command; all are killed at the end."""
    servers = []

    def start(*arguments: object) -> Server:
        servers.append(Server(tmp_path, *arguments))
        return servers[-1]

    yield start
    for server in servers:
        server.kill()
