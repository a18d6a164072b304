"""The command in a process of its own, and clients of it."""

import contextlib
import http.client
import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from parrot_jax.annotate.items import Item, Round
from parrot_jax.annotate.verdict_file import VerdictFile

from ..chromium import browser, context, link_of, page  # noqa: F401

ROOT = Path(__file__).resolve().parents[2]


class Server:
    """`parrot annotate` in a process."""

    def __init__(self, *arguments: object) -> None:
        self.command = [sys.executable, "-m", "parrot_jax.cli", "annotate", *map(str, arguments)]
        self.lines: list[str] = []
        self._process = subprocess.Popen(
            self.command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        self._reader = threading.Thread(target=self._read, daemon=True)

    def wait(self) -> "Server":
        """Returns when it serves."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.lines.append(line)
            if "token=" in line:
                break
        else:
            pytest.fail("".join(self.lines))
        self.link = link_of(self.lines[-1])
        self.port = int(self.link.split(":")[2].split("/")[0])
        self._reader.start()  # the pipe must not fill up
        return self

    def _read(self) -> None:
        assert self._process.stdout is not None
        self.lines += self._process.stdout

    def kill(self) -> None:
        """SIGKILL."""
        self._process.kill()
        self._process.wait(60)

    def stop(self) -> str:
        """SIGTERM; returns everything that was printed."""
        self._process.terminate()
        assert self._process.wait(60) == 0
        self._reader.join(60)
        return "".join(self.lines)

    def close(self) -> None:
        if self._process.poll() is None:
            self.kill()
        if self._reader.is_alive():
            self._reader.join(60)
        assert self._process.stdout is not None
        self._process.stdout.close()


class Client:
    """Plain HTTP, with or without the cookie of a browser that was let in."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.cookie = ""

    def ask(
        self, path: str, body: object = None, headers: dict[str, str] | None = None
    ) -> tuple[int, http.client.HTTPMessage, str]:
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=60)
        sent = {"Host": f"127.0.0.1:{self.server.port}", "Cookie": self.cookie}
        sent |= {"Content-Type": "application/json"} if body is not None else {}
        sent |= headers or {}
        method = "GET" if body is None else "POST"
        data = None if body is None else json.dumps(body).encode()
        with contextlib.closing(connection):  # the server may be killed meanwhile
            connection.request(method, path, data, {k: v for k, v in sent.items() if v})
            response = connection.getresponse()
            return response.status, response.headers, response.read().decode()

    def sign_in(self) -> None:
        status, headers, _ = self.ask("/" + self.server.link.split("/")[3])
        assert status == 303
        self.cookie = headers["set-cookie"].split(";")[0]

    def judge(self, annotator: str, item: object, value: str, **more: str) -> tuple[int, Any]:
        body = {"annotator": annotator, "item": str(item), "value": value, **more}
        status, _, reply = self.ask("/verdict", body)
        return status, json.loads(reply)

    def undo(self, annotator: str, undo: object) -> tuple[int, Any]:
        status, _, reply = self.ask("/undo", {"annotator": annotator, "undo": str(undo)})
        return status, json.loads(reply)


Start = Callable[..., Server]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts servers, and ends them with the test."""
    servers: list[Server] = []

    def run(*arguments: object) -> Server:
        servers.append(Server(*arguments))
        return servers[-1].wait()

    yield run
    for server in servers:
        server.close()


def write_dialogues(path: Path, texts: list[list[str]]) -> Path:
    """A file of dialogues; each is a list of texts, the user's first."""
    with open(path, "w") as file:
        for number, turns in enumerate(texts):
            messages = [
                {"role": ("user", "assistant")[place % 2], "content": text}
                for place, text in enumerate(turns)
            ]
            file.write(json.dumps({"id": f"d{number}", "messages": messages}) + "\n")
    return path


def short_dialogues(path: Path, count: int) -> Path:
    """Dialogues of two questions; the second is always the one to judge."""
    return write_dialogues(
        path,
        [
            [f"{path.stem} first {n}?", f"{path.stem} answer {n}.", f"{path.stem} second {n}?"]
            for n in range(count)
        ],
    )


def write(path: Path, task: str, items: Sequence[Item], verdicts: dict[str, str]) -> Path:
    """A file; `verdicts` has a letter or a digit for each item, by annotator; `.` = none."""
    words = {"h": "human-like", "n": "not", "s": "skip", "l": "left", "r": "right", "t": "tie"}
    with VerdictFile(path, {"task": task}, items) as file:
        for name, letters in verdicts.items():
            for number, letter in enumerate(letters, 1):
                if letter != ".":
                    file.add(name, number, words.get(letter, letter))
    return path


def items_of(*sources: tuple[str, ...], turn: int = 2) -> list[Item]:
    return [Item(one, f"d{n}", turn, (Round("Q"),)) for n, one in enumerate(sources)]


@pytest.fixture
def built(tmp_path: Path) -> Path:
    """A file of `parrot evaluate build`: two dialogues of a first question and two new ones."""
    path = tmp_path / "questions.jsonl"
    rows = [
        {
            "question_id": number,
            "category": "math",
            "turns": [f"Q{n} of {number}?" for n in (1, 2, 3)],
            "reference": ["A1", "A2", "A3"],
            "reference_model": "ans",
            "reference_written_by": ["ans"] * 3,
            "reference_is_made": [True] * 3,
            "written_by": ["question.jsonl", "ask", "ask"],
            "accepted_by": [None] * 3,
            "context_similarity": [None, 12.5, None],
            "seed_turns": 1,
            "given": 1,
            "benchmark": "longer",
        }
        for number in (81, 82)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path
