"""The real command: who may read, links after a restart, a kill while it indexes."""

import contextlib
import http.client
import json
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from parrot_jax.cli import main
from parrot_jax.view.query import Query
from parrot_jax.view.reading import IndexReader

from .conftest import Index, Server, row

Serve = Callable[..., Server]


class Client:
    """Plain HTTP with the session of a browser."""

    def __init__(self, server: Server) -> None:
        self.port, self.cookie = server.port, ""
        _, headers, _ = self.ask(f"/{server.token}")
        self.cookie = headers["set-cookie"].split(";")[0]

    def ask(
        self, path: str, headers: dict[str, str] | None = None
    ) -> tuple[int, http.client.HTTPMessage, str]:
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self.port)) as connection:
            sent = {"Cookie": self.cookie, "Accept": "text/html"} | (headers or {})
            connection.request("GET", path, headers={k: v for k, v in sent.items() if v})
            reply = connection.getresponse()
            return reply.status, reply.headers, reply.read().decode()

    def wait_for(self, path: str, done: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Asks for news until a condition holds."""
        while True:
            status, _, text = self.ask(path)
            assert status == 200, text
            if done(found := json.loads(text)):
                return found
            time.sleep(0.05)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "a.jsonl"
    path.write_text("".join(map(row, range(60))) + "broken\n")
    return path


def test_only_the_browser_with_the_link_reads(serve: Serve, file: Path) -> None:
    server = serve(file)
    client = Client(server)
    paths = ("/1", "/1/0", "/1/news", "/1/rejected", "/static/view.js")
    for path in paths:
        assert client.ask(path)[0] == 200
        for headers in (
            {"Cookie": ""},
            {"Host": "attacker.example"},
            {"Origin": "https://attacker.example"},
            {"Sec-Fetch-Site": "cross-site"},
        ):
            status, _, text = client.ask(path, headers)
            assert status == 403
            assert "question 0" not in text
    assert client.ask(f"/{server.token}", {"Cookie": ""})[0] == 403  # used up
    _, headers, _ = client.ask("/1")
    assert "default-src 'none'; script-src 'self'" in headers["content-security-policy"]


def test_wrong_addresses_are_explained(serve: Serve, file: Path) -> None:
    client = Client(serve(file))
    client.wait_for("/1/news", lambda found: found["matching"] == 60)
    for path, status, said in (
        ("/2", 404, "there is no path 2; there are 1."),
        ("/1/999", 404, "a has no dialogue 999."),
        ("/1?sort=x", 400, "sort is &#39;x&#39;"),
        ("/1?after=-1", 400, "after is &#39;-1&#39;"),
        ("/1?q=" + "x" * 1001, 400, "q has 1,001 characters"),
        ("/1/99999999999999999999", 404, ""),
    ):
        found, _, text = client.ask(path)
        assert (found, said in text) == (status, True), text


def test_a_link_works_after_a_restart(serve: Serve, file: Path) -> None:
    first = serve(file)
    link = "/1/7?q=answer&sort=-words"
    client = Client(first)
    client.wait_for("/1/news", lambda found: found["matching"] == 60)
    before = client.ask(link)[2]
    first.kill()
    again = Client(serve(file, "--port", first.port))
    assert again.ask(link)[2] == before
    assert "question 7" in before


@pytest.mark.slow
def test_a_kill_while_it_indexes_loses_nothing(serve: Serve, tmp_path: Path, index: Index) -> None:
    path = tmp_path / "big.jsonl"
    path.write_text("".join(row(n, "word " * 200, "text " * 200) for n in range(6000)))
    server = serve(path)
    client = Client(server)
    half = client.wait_for("/1/news", lambda found: found["matching"] > 0)
    server.kill()
    (file,) = (tmp_path / ".parrot_cache" / "view").glob("*.sqlite")
    with contextlib.closing(IndexReader(file)) as reader:
        kept = reader.totals().dialogues
    assert half["matching"] <= kept < 6000
    assert kept % 500 == 0
    again = Client(serve(path))
    news = again.wait_for("/1/news", lambda found: not found["progress"])
    assert (news["matching"], news["generation"]) == (6000, 1)
    with contextlib.closing(IndexReader(file)) as reader:
        assert reader.page(Query(sort="-number")).rows[0].number == 5999
        assert reader.count(Query(q="word text d5999")) == 1
        assert reader.count(Query(q="d0")) == 1
    with contextlib.closing(sqlite3.connect(file)) as db:
        db.execute("INSERT INTO texts (texts) VALUES ('integrity-check')")
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "no path was given"),
        (("none.jsonl",), "no file matches the source path 'none.jsonl'"),
        (("a.jsonl", "a.jsonl"), "was given twice"),
        (("a.jsonl", "./a.jsonl"), "./a.jsonl was given twice"),
        (("a.jsonl", "--html", "a.jsonl"), "the name of a page must end in .html"),
        (("a.jsonl", "--port", "70000"), "--port is 70000; it must be at most 65535"),
        (("a.jsonl", "--sample", "0"), "--sample is 0; it must be at least 1"),
        (("config.yaml",), "config.yaml"),
    ],
)
def test_wrong_arguments_are_one_line(
    arguments: tuple[str, ...], said: str, file: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(file.parent)
    assert main(["view", *arguments]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_looking_loads_no_jax() -> None:
    code = "import sys, parrot_jax.view.opening, parrot_jax.view.serving, parrot_jax.view.sample"
    done = subprocess.run([sys.executable, "-c", f"{code}; sys.exit('jax' in sys.modules)"])
    assert done.returncode == 0
