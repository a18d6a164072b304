"""A sample to send: one file, drawn by a seed, without folders, secrets and scripts."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from parrot_jax.api.scripted_server import Scripted, ScriptedServer, converse
from parrot_jax.cli import main
from parrot_jax.collect.run import collect
from parrot_jax.core.config import config_from_dict
from parrot_jax.evaluate.answer_config import AnswerConfig
from parrot_jax.evaluate.answering import answer

from .conftest import Index, row
from .test_jobs import FailsOnce, benchmark, collection

KEY = "ghp_" + "a1B2" * 9  # the form of a GitHub token


def drawn(page: str) -> list[str]:
    return re.findall(r'<span class="text">(d\d+)</span>', page)


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> str:
        assert main(["view", *map(str, arguments), "--html", "out.html"]) == 0
        return (tmp_path / "out.html").read_text()

    return run


def test_the_draw_is_by_seed_and_nested(write, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("".join(map(row, range(30))) + "broken\n")
    five = write("a.jsonl", "--sample", 5)
    assert "5 of 30 dialogues, drawn at random with the seed 0." in five
    assert "1 row could not be read" in five
    assert drawn(write("a.jsonl", "--sample", 5)) == drawn(five)
    assert set(drawn(five)) < set(drawn(write("a.jsonl", "--sample", 9)))
    assert drawn(write("a.jsonl", "--sample", 5, "--seed", 1)) != drawn(five)
    assert len(drawn(write("a.jsonl", "--sample", 99))) == 30


def test_it_has_no_script_no_folder_and_no_secret(
    write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = ["<script>alert(1)</script> \x1b[2J \u202eevil", "write to ann@mail.org"]
    (tmp_path / "a.jsonl").write_text(
        row(0, *texts, file="/home/ann/x.json") + row(1, f"my key is {KEY}") + row(2)
    )
    page = write(tmp_path / "a.jsonl")
    assert "2 of 3 dialogues" in page
    assert "1 with a key or a password were passed over" in page
    assert KEY not in page
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt; ␛[2J \ufffdevil" in page
    assert str(tmp_path) not in page
    assert "/home/ann" not in page
    assert not re.search(r"(src|href)=\"(?!#)", page)
    assert "look before you send it: e-mail in 1" in capsys.readouterr().out


def test_of_a_collection_it_names_no_server(write, tmp_path: Path) -> None:
    with ScriptedServer(FailsOnce()) as server:
        collect(collection(tmp_path, server.url, concurrency=1))
    page = write(tmp_path / "out")
    assert "2 attempts" in page
    assert "left out: cut_answer" in page
    for private in ("10.0.0.5", "127.0.0.1", str(tmp_path), json.dumps(server.url)):
        assert private not in page


def test_what_a_server_said_when_it_failed_is_in_no_sample(
    write, index: Index, tmp_path: Path
) -> None:
    def refuses_the_first(body: dict[str, Any]) -> Scripted:
        if body["messages"][0]["content"] in ("What is 0?", "Why?"):
            return Scripted(status=400, text="no room at http://10.0.0.5/v1")
        return converse(body)

    questions = benchmark(tmp_path)
    questions.write_text(questions.read_text() + '{"question_id": 82, "turns": ["How?"]}\n')
    with ScriptedServer(refuses_the_first) as server:
        collect(collection(tmp_path, server.url, concurrency=1))
        values = {
            "out": str(tmp_path / "answers"), "benchmark": str(questions),
            "answerer": {"base_url": server.url, "model": "/srv/models/m", "concurrency": 1},
        }  # fmt: skip
        answer(config_from_dict(AnswerConfig, values, where="test"))
    for folder in ("out", "answers"):
        shown = index(tmp_path / folder).dialogue(0)
        assert shown is not None
        assert "10.0.0.5" in shown.to_json().decode()  # the pages show it
        page = write(tmp_path / folder)
        assert "10.0.0.5" not in page
        assert "/srv" not in page


def test_every_text_is_searched_for_secrets_and_folders(write, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(row(0, stop="/home/ann/stop.txt") + row(1))
    page = write("a.jsonl")
    assert "stop.txt" in page
    assert "/home/ann" not in page
    judged = tmp_path / "judged" / "model_judgment"
    judged.mkdir(parents=True)
    texts = ("Rating: [[8]]", f"Rating: [[8]] {KEY}")
    judgments = [
        {"question_id": number, "model": "m", "judge": ["gpt-4", "single-v1"], "turn": 1,
         "judgment": text, "score": 8, "user_prompt": "Why?"}
        for number, text in enumerate(texts)
    ]  # fmt: skip
    lines = "".join(json.dumps(one) + "\n" for one in judgments)
    (judged / "gpt-4_single.jsonl").write_text(lines)
    page = write("judged")
    assert "1 of 2 dialogues" in page
    assert KEY not in page


def test_it_is_never_drawn_from_half_an_index(
    write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.jsonl").write_text(row(0))
    write("a.jsonl")
    with (tmp_path / "a.jsonl").open("a") as file:
        file.write(row(1))
    (index,) = (tmp_path / ".parrot_cache" / "view").glob("*.sqlite")
    arguments = ["view", "a.jsonl", "--html", "out.html"]
    with FileLock(index.with_suffix(".lock")):
        assert main(arguments) == 2
        assert "stop it, or choose another --cache-dir" in capsys.readouterr().err
        assert main([*arguments, "--cache-dir", "other"]) == 0
    assert "2 of 2 dialogues" in (tmp_path / "out.html").read_text()
    index.write_bytes(index.read_bytes()[:20_000])
    assert "2 of 2 dialogues" in write("a.jsonl")
