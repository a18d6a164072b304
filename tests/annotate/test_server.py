"""The real command over plain HTTP: who is let in, what is refused, what survives a kill."""

import json
import re
import sqlite3
from pathlib import Path

import pytest

from parrot_jax.cli import main

from .conftest import Client, Start, short_dialogues, write_dialogues


def test_foreign_pages_hosts_and_programs_neither_read_nor_write(
    start: Start, tmp_path: Path
) -> None:
    out = tmp_path / "a.sqlite"
    server = start(short_dialogues(tmp_path / "own.jsonl", 3), "--out", out)
    client = Client(server)
    verdict = {"annotator": "Ada", "item": "1", "value": "not"}
    requests = [("/", None), ("/judge?annotator=Ada", None), ("/static/judge.js", None)]
    requests += [("/verdict", verdict), ("/undo", {"annotator": "Ada", "undo": "1"})]
    for path, body in requests:  # no cookie
        status, _, reply = client.ask(path, body)
        assert (status, "second" in reply) == (403, False)
    client.sign_in()
    for headers in (
        {"Origin": "https://attacker.example"},
        {"Origin": "null"},
        {"Host": "attacker.example"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Cookie": client.cookie + "x"},
        {"Cookie": ""},
    ):
        for path, body in requests:
            status, _, reply = client.ask(path, body, headers)
            assert (status, "second" in reply) == (403, False), (path, headers)
    assert client.ask("/verdict", verdict, {"Content-Type": "text/plain"})[0] == 415
    assert client.ask("/verdict")[0] == 405  # a link or an image cannot write
    with sqlite3.connect(out) as db:
        assert db.execute("SELECT count(*) FROM verdicts").fetchone() == (0,)
    db.close()
    assert client.judge("Ada", 1, "not")[0] == 200
    assert "Ada: 1 of 3 done" in server.stop()


def test_stale_and_invalid_verdicts_are_refused(start: Start, tmp_path: Path) -> None:
    server = start(short_dialogues(tmp_path / "own.jsonl", 3), "--out", tmp_path / "a.sqlite")
    client = Client(server)
    client.sign_in()
    assert client.judge("Ada", 1, "human-like")[1]["said"] == "Saved: Human-like."
    status, reply = client.judge("Ada", 1, "not")  # another tab, or a lost reply
    assert (status, reply["done"]) == (409, 1)
    assert "this question has the verdict “human-like” already" in reply["said"]
    for token in ("3", "0", "-1", "", "x", "99999999999999"):
        status, reply = client.judge("Ada", token, "not")
        assert (status, "another question comes first" in reply["said"]) == (409, True)
    assert client.undo("Ada", 7)[0] == 409
    assert client.undo("Grace", 1)[0] == 409  # it is Ada's
    status, reply = client.undo("Ada", 1)
    assert (status, reply["said"], reply["done"]) == (200, "Taken back: Human-like.", 0)
    assert client.undo("Ada", 1)[0] == 409  # pressed twice
    for annotator, value, said in (
        ("Ada", "10", "'10' is no verdict of the task human-like"),
        ("", "not", "the name is ''"),
        ("a" * 61, "not", "one of 1 to 60"),
        ("a\x1b[2J", "not", "the name is 'a␛[2J'"),
        ("a\u202eb", "not", "the name is"),
        ("\u200d", "not", "the name is"),
    ):
        status, reply = client.judge(annotator, 1, value)
        assert (status, said in reply["error"]) == (400, True), reply
    for name in ("علی\u200cرضا", "ශ්\u200dරී", "👩\u200d💻"):  # joiners are part of these
        status, reply = client.judge(name, 1, "not")
        assert (status, reply.get("done")) == (200, 1), reply
    status, _, reply = client.ask("/verdict", {"annotator": "Ada", "item": 1, "value": "not"})
    assert (status, json.loads(reply)["error"]) == (400, "`item` is 1; it must be a text.")
    status, _, reply = client.ask("/judge?annotator=%1b", headers={"Accept": "text/html"})
    assert (status, "Problem 400" in reply) == (400, True)


def test_the_same_command_continues_after_a_kill_and_another_one_is_refused(
    start: Start, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, own = tmp_path / "a.sqlite", short_dialogues(tmp_path / "own.jsonl", 3)
    arguments = [own, "--out", out]
    server = start(*arguments)
    client = Client(server)
    client.sign_in()
    client.judge("Ada", 1, "human-like")
    client.judge("Ada", 2, "skip")
    command = ["annotate", *map(str, arguments)]
    assert main(command) == 2
    assert "another process is writing the journal" in capsys.readouterr().err
    server.kill()
    capsys.readouterr()
    for more, message in (
        (["--seed", "1"], "of another annotation: --seed 0 there, 1 here"),
        (["--questions", "2"], "--questions None there, 2 here"),
        (["--task", "grade"], "--task human-like there, grade here"),
        ([str(short_dialogues(tmp_path / "b.jsonl", 3))], "the files own there, b, own here"),
    ):
        assert main([command[0], *more, *command[1:]]) == 2
        assert message in capsys.readouterr().err
    text = own.read_text()
    own.write_text(text.replace("second 1", "third 1"))
    assert main(command) == 2
    assert "has other texts than the files now" in capsys.readouterr().err
    own.write_text(text)
    again = Client(start(*arguments))
    assert again.ask("/", headers={"Cookie": client.cookie})[0] == 403  # of the server before
    again.sign_in()
    page = again.ask("/judge?annotator=Ada")[2]
    assert 'data-item="3" data-undo="2"' in page
    assert "2 of 3" in page
    assert again.judge("Ada", 3, "not")[1]["done"] == 3
    assert "Nothing is left for you" in again.ask("/judge?annotator=Ada")[2]


def test_a_file_that_was_moved_is_never_written(start: Start, tmp_path: Path) -> None:
    out = tmp_path / "a.sqlite"
    server = start(short_dialogues(tmp_path / "own.jsonl", 3), "--out", out)
    client = Client(server)
    client.sign_in()
    out.rename(tmp_path / "moved.sqlite")
    status, reply = client.judge("Ada", 1, "not")
    assert (status, "was moved, deleted or replaced" in reply["error"]) == (400, True)
    (tmp_path / "moved.sqlite").rename(out)
    assert client.judge("Ada", 1, "not")[1]["done"] == 1


def test_nothing_that_is_sent_tells_the_source(start: Start, tmp_path: Path) -> None:
    same = ["What is a heron?", "A bird.", "And what does it eat?"]
    files = [
        write_dialogues(tmp_path / f"{name}.jsonl", [[*same[:2], f"{same[2]} {n}"]])
        for n, name in enumerate(("parrotfile", "chatgptfile"))
    ]
    client = Client(start(*files, "--out", tmp_path / "a.sqlite"))
    client.sign_in()
    start_page = client.ask("/")[2]
    pages = [client.ask("/judge?annotator=Ada")]
    said = client.judge("Ada", 1, "not")[1]
    pages.append(client.ask("/judge?annotator=Ada"))
    for _, headers, text in pages:
        for told in ("parrotfile", "chatgptfile", "d0"):
            assert told not in text
            assert told not in str(headers)
            assert told not in start_page + json.dumps(said)
    # But for the question and the progress, both pages are the same.
    alike = [
        re.sub(r"eat\? \d|data-\w+=\"\d?\"|\d of 2|value=\"\d\"", "", text) for _, _, text in pages
    ]
    assert alike[0] == alike[1]


def test_a_review_writes_the_file_of_the_terminal(
    start: Start, built: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    client = Client(start(built, "--task", "review"))
    client.sign_in()
    assert main(["evaluate", "review", str(built), "--reviewer", "Ada"]) == 2
    assert "another process is writing" in capsys.readouterr().err

    def current(annotator: str) -> str:
        page = client.ask(f"/judge?annotator={annotator}")[2]
        found = re.search(r'data-item="(\w+)"', page)
        return found[1] if found else ""

    first = current("Ada")
    assert client.judge("Ada", first, "edit", text="a\x07")[0] == 400
    assert client.judge("Ada", first, "edit", text="Why that?")[0] == 200
    assert client.judge("Grace", first, "accept")[0] == 409  # Ada was faster
    assert client.judge("Grace", current("Grace"), "reject")[0] == 200
    assert client.judge("Ada", current("Ada"), "skip")[0] == 200
    assert client.judge("Ada", current("Ada"), "accept")[0] == 200
    assert current("Ada") == ""
    one, two = map(json.loads, built.read_text().splitlines())
    assert one["turns"] == ["Q1 of 81?", "Why that?"]
    assert one["written_by"] == ["question.jsonl", "Ada (edited ask)"]
    assert one["accepted_by"] == [None, "Ada"]
    assert one["rejected"] == [
        {"turn": 3, "text": "Q3 of 81?", "written_by": "ask", "rejected_by": "Grace"}
    ]
    assert two["accepted_by"] == [None, None, "Ada"]
    # Ada takes back her last two steps, the second of which was a skip; Grace came after the edit.
    assert client.undo("Ada", 4)[1]["said"] == "Taken back: Accept."
    assert client.undo("Ada", 3)[1]["said"] == "Taken back: Skip."
    status, reply = client.undo("Ada", 1)
    assert (status, "somebody has decided on the same dialogue" in reply["said"]) == (409, True)


def test_a_review_keeps_what_another_program_wrote_meanwhile(start: Start, built: Path) -> None:
    client = Client(start(built, "--task", "review"))
    client.sign_in()
    found = re.search(r'data-item="(\w+)"', client.ask("/judge?annotator=Ada")[2])
    assert found
    before = built.read_text()
    built.write_text(before.replace("Q3 of 82?", "Corrected by hand"))
    status, reply = client.judge("Ada", found[1], "accept")
    assert (status, "another program has changed" in reply["error"]) == (400, True)
    assert "Corrected by hand" in built.read_text()
    built.unlink()
    assert client.judge("Ada", found[1], "accept")[0] == 400
    assert not built.exists()
    built.write_text(before)
    assert client.judge("Ada", found[1], "accept")[0] == 200


def test_an_edit_that_changes_nothing_of_what_is_shown_accepts(start: Start, built: Path) -> None:
    question = " Why\u202e\x1b[2J? "
    built.write_text(built.read_text().replace("Q2 of 81?", json.dumps(question)[1:-1]))
    client = Client(start(built, "--task", "review"))
    client.sign_in()
    page = client.ask("/judge?annotator=Ada")[2]
    shown = re.findall(r'<div class="text" dir="auto">([^<]*)</div>', page)[-1]
    token = re.search(r'data-item="(\w+)"', page)
    assert token
    assert client.judge("Ada", token[1], "edit", text=shown)[1]["said"] == "Saved: Accept."
    first = json.loads(built.read_text().splitlines()[0])
    assert (first["turns"][1], first["written_by"][1]) == (question, "ask")
