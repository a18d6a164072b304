"""The journal: what is in it stays in it, one process writes it, anybody reads it."""

import asyncio
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from parrot_jax.api.journal import JournalReader, JournalWriter, Said
from parrot_jax.api.replies import Outcome, Reply, read_response
from parrot_jax.core.errors import DiskFullError, UserError

HELLO = read_response(
    200,
    '{"choices": [{"message": {"content": "Hello."}, "finish_reason": "stop"}],'
    ' "usage": {"prompt_tokens": 5, "completion_tokens": 2}}',
)
BOOM = read_response(500, "boom")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run" / "journal.sqlite"


async def ask(journal: JournalWriter, turn: int, dialogue: int = 0) -> int:
    return await journal.sent(
        dialogue=dialogue, turn=turn, speaker="answerer", attempt=1, body='{"seed": 1}'
    )


def test_it_is_begun_wholly_or_not_at_all(path: Path) -> None:
    def broken() -> Iterator[str]:
        yield "first"
        raise UserError("the second row is broken")

    with JournalWriter(path) as journal, pytest.raises(UserError, match="second row"):
        journal.begin({}, broken())
    with pytest.raises(UserError, match="is empty"):
        JournalReader(path)
    with JournalWriter(path) as journal:
        assert journal.is_new
        journal.begin({"seed": 3}, ["first", "second"])
    reader = JournalReader(path)
    assert reader.num_dialogues() == 2
    assert reader.beginning(1) == "second"
    assert reader.last_config() == {"seed": 3}


def test_what_was_journaled_is_read_by_others_while_it_is_written(path: Path) -> None:
    async def write() -> None:
        with JournalWriter(path) as journal:
            journal.begin({}, ["first"])
            reader = JournalReader(path)
            request = await ask(journal, 1)
            assert reader.counts().requests == 1
            assert reader.said(0) == []
            await journal.received(request, HELLO)
            assert reader.said(0) == [Said(1, Reply(Outcome.COMPLETE, "Hello."))]

    asyncio.run(write())


def test_many_writes_at_once_share_commits_and_keep_their_ids(path: Path) -> None:
    async def write() -> list[int]:
        with JournalWriter(path) as journal:
            journal.begin({}, ["first"])
            return await asyncio.gather(*(ask(journal, turn) for turn in range(200)))

    ids = asyncio.run(write())
    with sqlite3.connect(path) as db:
        turns = dict(db.execute("SELECT id, turn FROM requests"))
    assert [turns[id] for id in ids] == list(range(200))


def test_a_request_without_a_reply_counts_as_repeated_once_it_was_sent_again(path: Path) -> None:
    async def write() -> None:
        with JournalWriter(path) as journal:
            journal.begin({}, ["first", "second"])
            await ask(journal, 1)  # no reply, sent again below
            await journal.received(await ask(journal, 1), BOOM)
            await journal.received(await ask(journal, 1), HELLO)
            await ask(journal, 1, dialogue=1)  # no reply, and not sent again yet

    asyncio.run(write())
    counts = JournalReader(path).counts()
    assert (counts.requests, counts.repeated, counts.failed) == (4, 1, 1)
    assert counts.tokens == {"answerer": {"prompt": 5, "completion": 2}}
    assert JournalReader(path).said(0) == [Said(1, HELLO.reply)]


def test_time_in_which_nothing_ran_is_no_wall_time(path: Path) -> None:
    with JournalWriter(path) as journal:
        journal.begin({}, ["first"])
    with JournalWriter(path) as journal:
        journal.go_on({})
    with sqlite3.connect(path) as db:
        db.execute("UPDATE starts SET started_at = 1000 * id")
        for start, sent_at, received_at in ((1, 1002, 1004), (2, 2001, 2003)):
            db.execute(
                "INSERT INTO requests VALUES (?, ?, 0, 1, 'asker', 1, ?, '')",
                (start, start, sent_at),
            )
            columns = "(request, received_at, outcome, text)"
            reply = (start, received_at, "cut", "")
            db.execute(f"INSERT INTO replies {columns} VALUES (?, ?, ?, ?)", reply)
    assert JournalReader(path).counts().wall_s == 4 + 3


def test_a_second_process_is_told_to_wait(path: Path) -> None:
    code = f"from parrot_jax.api.journal import JournalWriter; JournalWriter({str(path)!r})"
    with JournalWriter(path):
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    line = f"another process writes the journal {path}; wait for it or stop it."
    assert done.stderr.splitlines()[-1].endswith(line)
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_files_that_are_no_journal_are_left_alone(tmp_path: Path) -> None:
    text = tmp_path / "text.sqlite"
    text.write_text("no database at all, but long enough to be read as one " * 20)
    other = tmp_path / "other.sqlite"
    with sqlite3.connect(other) as db:
        db.execute("CREATE TABLE songs (name TEXT)")
    for path in (text, other):
        before = path.read_bytes()
        for open_journal in (JournalReader, JournalWriter):
            with pytest.raises(UserError, match=f"{path.name} is no journal"):
                open_journal(path)
        assert path.read_bytes() == before


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write into the folder .*: Not a directory"):
        JournalWriter(tmp_path / "file" / "run" / "journal.sqlite")
    with pytest.raises(UserError, match="there is no journal"):
        JournalReader(tmp_path / "none.sqlite")


def test_a_full_disk_reaches_all_who_wait_for_a_write(path: Path) -> None:
    async def write() -> list[int | BaseException]:
        with JournalWriter(path) as journal:
            journal.begin({}, ["first"])
            # SQLite's own limit gives the error that a full disk gives.
            journal._db.execute("PRAGMA max_page_count = 1")
            sends = [
                journal.sent(dialogue=0, turn=n, speaker="asker", attempt=1, body="x" * 5000)
                for n in range(3)
            ]
            return await asyncio.gather(*sends, return_exceptions=True)

    errors = asyncio.run(write())
    assert [type(error) for error in errors] == [DiskFullError] * 3
    assert "no room left on the disk for the journal" in str(errors[0])
    assert JournalReader(path).counts().requests == 0
