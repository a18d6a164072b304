"""A collection with a damaged journal: one line names what is left, and nothing is lost."""

import contextlib
import os
import re
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from parrot_jax.api.scripted_server import ScriptedServer
from parrot_jax.cli import main
from parrot_jax.collect.collect_config import CollectConfig
from parrot_jax.core.config import save_config

MakeConfig = Callable[..., CollectConfig]


def run_sql(*statements: str) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        with contextlib.closing(sqlite3.connect(path)) as db, db:
            for statement in statements:
                db.execute(statement)

    return damage


DAMAGES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "missing": (Path.unlink, "is empty or missing|there is no journal"),
    "no bytes": (lambda path: path.write_bytes(b""), "is empty"),
    "cut": (lambda path: path.write_bytes(path.read_bytes()[:9000]), "is damaged: .* malformed"),
    "its first bytes": (lambda path: path.write_bytes(path.read_bytes()[:100]), "is damaged"),
    "garbage": (lambda path: path.write_bytes(os.urandom(9000)), "is not a journal"),
    "other version": (run_sql("PRAGMA user_version = 1"), "this version of parrot .* version is 1"),
    "a table is missing": (run_sql("DROP TABLE replies"), "is damaged: no such table: replies"),
    "other keys": (
        run_sql("UPDATE starts SET config = json_set(config, '$.tempo', 1)"),
        "unknown key `tempo`",
    ),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_journal_is_one_line_with_the_ways_out(
    name: str, make_config: MakeConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damage, problem = DAMAGES[name]
    path = tmp_path / "config.yaml"
    with ScriptedServer() as server:
        config = make_config(server.url)
        save_config(config, path)
        assert main(["collect", str(path)]) == 0
        dialogues = Path(config.out) / "dialogues.jsonl"
        before, num_requests = dialogues.read_bytes(), len(server.bodies)
        damage(Path(config.out) / "journal.sqlite")
        export = ["collect", "export", config.out, "--out", str(tmp_path / "parrot")]
        for command in (
            ["collect", str(path)], ["collect", "plan", str(path)],
            ["collect", "status", config.out], export,
        ):  # fmt: skip
            capsys.readouterr()
            assert main(command) == 2
            error = capsys.readouterr().err
            assert error.count("\n") == 1, error
            assert re.search(problem, error), error
            assert f"The dialogues that had ended are in {dialogues}" in error
        assert dialogues.read_bytes() == before
        assert len(server.bodies) == num_requests
        # Finished dialogues can be read without the journal, and `restart` moves everything away.
        assert main(["stats", config.out]) == 0
        assert main(["collect", str(path), "--if-exists", "restart"]) == 0
    aside = Path(config.out) / "earlier-1"
    assert (aside / "dialogues.jsonl").read_bytes() == before
    assert dialogues.read_bytes() == before


def test_a_journal_that_lost_its_log_is_not_gone_on_with(
    make_config: MakeConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "config.yaml"
    with ScriptedServer() as server:
        config = make_config(server.url, max_turns=2)
        save_config(config, path)
        assert main(["collect", str(path)]) == 0
        journal = Path(config.out) / "journal.sqlite"
        older = journal.read_bytes()
        assert main(["collect", str(path), "--max-turns", "3"]) == 0
        journal.write_bytes(older)
        assert main(["collect", str(path), "--max-turns", "3"]) == 2
        error = capsys.readouterr().err
        assert "has 10 requests, but" in error
        assert "counted 18: it is an older copy, or its file journal.sqlite-wal was lost" in error
        (Path(config.out) / "summary.json").unlink()
        assert main(["collect", str(path), "--max-turns", "3"]) == 0


def test_an_out_that_names_a_file_is_one_line(
    make_config: MakeConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, path = tmp_path / "file", tmp_path / "config.yaml"
    file.write_text("all of it")
    with ScriptedServer() as server:
        config = make_config(server.url)
        save_config(config, path)
        assert main(["collect", str(path)]) == 0
    for out in (str(file), str(file / "out")):
        for command in (
            ["collect", str(path)], ["collect", "plan", str(path)],
            ["collect", "export", config.out], ["stats", config.out],
        ):  # fmt: skip
            capsys.readouterr()
            assert main([*command, "--out", out]) == 2
            line = f"parrot: out is {out}, but {file} is not a folder; choose another path.\n"
            assert capsys.readouterr().err == line
    assert main(["collect", "status", str(file)]) == 2
    assert file.read_text() == "all of it"
