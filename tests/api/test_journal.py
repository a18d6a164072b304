"""The journal: rows are durable; one process writes, any process reads."""

import asyncio
import contextlib
import json
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from parrot_jax.api.journal import End, JournalWriter, Start
from parrot_jax.api.journal_file import put_aside, upgrade
from parrot_jax.api.journal_reader import JournalReader, SpeakerCounts, StepReply
from parrot_jax.api.replies import Outcome, Reply, Usage, read_response
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


_opened: list[JournalReader] = []


def read(path: Path) -> JournalReader:
    """Opens a reader that is closed when the test ends."""
    _opened.append(JournalReader(path))
    return _opened[-1]


@pytest.fixture(autouse=True)
def close_readers() -> Iterator[None]:
    yield
    while _opened:
        _opened.pop().close()


async def ask(journal: JournalWriter, step: int, item: int = 0) -> int:
    return await journal.sent(
        item=item,
        step=step,
        speaker="answerer",
        attempt=1,
        body='{"seed": 1}',
        worst=Usage(40, 9),
    )


def test_it_is_begun_wholly_or_not_at_all(path: Path) -> None:
    def broken() -> Iterator[str]:
        yield "first"
        raise UserError("the second row is broken")

    with JournalWriter(path) as journal, pytest.raises(UserError, match="second row"):
        journal.begin(Start({}), broken())
    with pytest.raises(UserError, match="is empty"):
        read(path)
    with JournalWriter(path) as journal:
        assert journal.is_new
        journal.begin(Start({"seed": 3}), ["first", "second"])
    reader = read(path)
    assert reader.num_items() == 2
    assert reader.item(1) == "second"
    assert reader.last_start() == Start({"seed": 3}, {})


def test_what_was_journaled_is_read_by_others_while_it_is_written(path: Path) -> None:
    async def write() -> None:
        with JournalWriter(path) as journal:
            journal.begin(Start({}), ["first"])
            reader = read(path)
            request = await ask(journal, 1)
            assert reader.counts().speakers["answerer"].requests == 1
            assert reader.said(0) == []
            await journal.received(request, HELLO)
            assert reader.said(0) == [StepReply(1, Reply(Outcome.COMPLETE, "Hello."))]

    asyncio.run(write())


def test_many_writes_at_once_share_commits_and_keep_their_ids(path: Path) -> None:
    async def write() -> list[int]:
        with JournalWriter(path) as journal:
            journal.begin(Start({}), ["first"])
            return await asyncio.gather(*(ask(journal, turn) for turn in range(200)))

    ids = asyncio.run(write())
    with contextlib.closing(sqlite3.connect(path)) as db, db:
        turns = dict(db.execute("SELECT id, step FROM requests"))
    assert [turns[id] for id in ids] == list(range(200))


def test_a_request_without_a_reply_counts_as_repeated_once_it_was_sent_again(path: Path) -> None:
    async def write() -> None:
        with JournalWriter(path) as journal:
            journal.begin(Start({}), ["first", "second"])
            await ask(journal, 1)  # no reply, sent again below
            await journal.received(await ask(journal, 1), BOOM)
            await journal.received(await ask(journal, 1), HELLO)
            await ask(journal, 1, item=1)  # no reply, and not sent again yet

    asyncio.run(write())
    counts = read(path).counts()
    assert counts.repeated == 1
    # Two requests have no reply; they may have cost up to their worst case.
    assert counts.speakers == {
        "answerer": SpeakerCounts(
            requests=4, answered=1, failed=1, lost=2, known=Usage(5, 2), uncertain=Usage(80, 18)
        )
    }
    assert read(path).said(0) == [StepReply(1, HELLO.reply)]


def test_time_in_which_nothing_ran_is_no_wall_time(path: Path) -> None:
    with JournalWriter(path) as journal:
        journal.begin(Start({}), ["first"])
    with JournalWriter(path) as journal:
        journal.resume(Start({}))
    with contextlib.closing(sqlite3.connect(path)) as db, db:
        db.execute("UPDATE starts SET started_at = 1000 * id")
        for start, sent_at, received_at in ((1, 1002, 1004), (2, 2001, 2003)):
            db.execute(
                "INSERT INTO requests VALUES (?, ?, 0, 1, 'asker', 1, ?, 0, 0)",
                (start, start, sent_at),
            )
            columns = "(request, received_at, outcome, may_be_billed)"
            reply = (start, received_at, "cut", 1)
            db.execute(f"INSERT INTO replies {columns} VALUES (?, ?, ?, ?)", reply)
    assert read(path).counts().wall_s == 4 + 3


def test_a_second_process_is_told_to_wait(path: Path) -> None:
    code = f"from parrot_jax.api.journal import JournalWriter; JournalWriter({str(path)!r})"
    with JournalWriter(path):
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    line = f"another process is writing the journal {path}; wait for it or stop it."
    assert done.stderr.splitlines()[-1].endswith(line)
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_a_link_to_a_journal_has_its_lock(path: Path) -> None:
    link = path.with_name("link.sqlite")
    with JournalWriter(path):
        link.symlink_to(path)
        with pytest.raises(UserError, match="another process is writing"):
            JournalWriter(link)


def test_files_that_are_no_journal_are_left_alone(tmp_path: Path) -> None:
    text = tmp_path / "text.sqlite"
    text.write_text("no database at all, but long enough to be read as one " * 20)
    other = tmp_path / "other.sqlite"
    with contextlib.closing(sqlite3.connect(other)) as db, db:
        db.execute("CREATE TABLE songs (name TEXT)")
    for path in (text, other):
        before = path.read_bytes()
        for open_journal in (JournalReader, JournalWriter):
            with pytest.raises(UserError, match=f"{path.name} is not a journal"):
                open_journal(path)
        assert path.read_bytes() == before


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write to the folder .*: Not a directory"):
        JournalWriter(tmp_path / "file" / "run" / "journal.sqlite")
    with pytest.raises(UserError, match="there is no journal"):
        read(tmp_path / "none.sqlite")


def test_a_full_disk_reaches_all_who_wait_for_a_write(path: Path) -> None:
    async def write() -> list[int | BaseException]:
        with JournalWriter(path) as journal:
            journal.begin(Start({}), ["first"])
            # SQLite's page limit gives the same error as a full disk.
            journal._db.execute("PRAGMA max_page_count = 1")
            sends = [
                journal.sent(
                    item=0,
                    step=n,
                    speaker="asker",
                    attempt=1,
                    body="x" * 5000,
                    worst=Usage(),
                )
                for n in range(3)
            ]
            return await asyncio.gather(*sends, return_exceptions=True)

    errors = asyncio.run(write())
    assert [type(error) for error in errors] == [DiskFullError] * 3
    assert "no room left on the disk for the journal" in str(errors[0])
    assert read(path).counts().speakers == {}


def test_why_dialogues_ended_and_which_go_on(path: Path) -> None:
    async def write() -> None:
        with JournalWriter(path) as journal:
            journal.begin(Start({}), ["first", "second", "third", "fourth"])
            await journal.ended(0, End("max_turns", 3))
            await journal.ended(2, End("budget", 1, "of the asker"))
            await journal.ended(2, End("max_turns", 5))

    asyncio.run(write())
    reader = read(path)
    assert reader.without_end() == [1, 3]
    assert reader.end(2) == End("max_turns", 5)
    assert reader.end(1) is None
    assert reader.ended("max_turns", below=5) == [0]
    assert reader.num_ends() == {"max_turns": 2}


def test_more_dialogues_come_after_those_that_there_are(path: Path) -> None:
    with JournalWriter(path) as journal:
        journal.begin(Start({}), ["first", "second"])
    with JournalWriter(path) as journal:
        journal.resume(Start({"sample": 3}), ["third"])
    assert list(read(path).items()) == ["first", "second", "third"]


def test_a_journal_is_put_aside_whole(path: Path) -> None:
    for name in ("first", "second"):
        put_aside(path, with_them=("summary.json",))
        with JournalWriter(path) as journal:
            assert journal.is_new
            journal.begin(Start({}), [name])
        (path.parent / "summary.json").write_text(name)
    put_aside(path, with_them=("summary.json",))
    for number, name in enumerate(("first", "second"), 1):
        folder = path.parent / f"earlier-{number}"
        assert read(folder / path.name).item(0) == name
        assert (folder / "summary.json").read_text() == name
    assert sorted(p.name for p in path.parent.iterdir() if not p.name.startswith(".")) == [
        "earlier-1", "earlier-2"
    ]  # fmt: skip


def test_a_network_file_system_is_refused(
    path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import psutil

    def mount(place: Path, kind: str) -> Any:
        return SimpleNamespace(mountpoint=str(place), fstype=kind)

    mounts = [mount(Path("/"), "ext4"), mount(tmp_path, "nfs4")]
    monkeypatch.setattr(psutil, "disk_partitions", lambda all: mounts)
    with pytest.raises(UserError, match=r"is on a network file system \(nfs4\)"):
        JournalWriter(path)
    # A local disk mounted inside the network file system is accepted.
    mounts.append(mount(path.parent, "xfs"))
    JournalWriter(path).close()


DAMAGES = [
    ("starts", "config = '{' || config", "row 1 of starts in the journal .* is not JSON"),
    ("starts", "config = '[]'", "row 1 of starts .* is not a JSON object"),
    ("starts", "started_at = -5", "row 1 of starts .* started_at -5.0"),
    ("items", "number = 7", "row 7 of items .* there are 1, with gaps"),
    ("items", "input = CAST(x'ff41' AS TEXT)", "row 0 .* its input is not text"),
    ("requests", "worst_prompt = 9000000000000000000", "row 1 of requests .* worst_prompt 90"),
    ("requests", "step = -1", "row 1 of requests .* step -1"),
    ("replies", "prompt_tokens = 9007199254740991", "row 1 of replies .* prompt_tokens 90071992"),
    ("replies", "outcome = 'fine'", "row 1 of replies .* outcome 'fine'"),
    ("replies", "status = 1e9", "row 1 of replies .* status 1000000000"),
    ("replies", "model = CAST(x'ff41' AS TEXT)", "row 1 of replies .* its model is not text"),
    (
        "reply_bodies",
        "text = CAST(x'ff41' AS TEXT)",
        "row 1 of reply_bodies .* its text is not text",
    ),
    ("ends", "progress = -2", "row 0 of ends .* progress -2"),
]


@pytest.mark.parametrize(("table", "change", "message"), DAMAGES)
def test_a_damaged_row_is_one_line_that_names_it(
    path: Path, table: str, change: str, message: str
) -> None:
    async def write() -> None:
        with JournalWriter(path) as journal:
            journal.begin(Start({"seed": 1}), ["first"])
            await journal.received(await ask(journal, 1), HELLO)
            await journal.ended(0, End("max_turns", 1))

    asyncio.run(write())
    with contextlib.closing(sqlite3.connect(path)) as db, db:
        db.execute(f"UPDATE {table} SET {change}")

    def read_all() -> None:
        reader = read(path)
        reader.last_start()
        reader.counts()
        reader.models()
        reader.item(0)
        reader.said(0)
        reader.end(0)

    with pytest.raises(UserError, match=message) as error:
        read_all()
    assert "restore the file from a copy, or " in str(error.value)
    assert "\n" not in str(error.value)


def test_the_way_out_of_a_damaged_reply_has_it_asked_again(path: Path) -> None:
    async def write() -> None:
        with JournalWriter(path) as journal:
            journal.begin(Start({}), ["first"])
            for turn in (1, 2, 3):
                await journal.received(await ask(journal, turn), HELLO)
            await journal.ended(0, End("max_turns", 2))

    asyncio.run(write())
    with contextlib.closing(sqlite3.connect(path)) as db, db:
        db.execute("UPDATE replies SET prompt_tokens = 1 << 60 WHERE request = 2")
    with pytest.raises(UserError) as error:
        read(path)
    statements = str(error.value).partition(f'sqlite3 {path} "')[2].rstrip('".')
    with contextlib.closing(sqlite3.connect(path)) as db, db:
        db.executescript(statements)
    reader = read(path)
    assert reader.said(0) == [StepReply(1, HELLO.reply)]
    assert reader.without_end() == [0]


def test_a_file_cut_short_is_one_line(path: Path) -> None:
    with JournalWriter(path) as journal:
        journal.begin(Start({}), ["first " * 1000] * 50)
    with contextlib.closing(sqlite3.connect(path)) as db, db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="is damaged: .*; restore it from a copy"):
        list(read(path).items())


def test_texts_that_sqlite_cannot_take_do_not_reach_it(path: Path) -> None:
    """Any response can be journaled, whatever the server sends."""
    content = {"message": {"content": "a\0b\ud800"}, "finish_reason": "stop"}
    odd = read_response(200, json.dumps({"choices": [content], "model": "m\ud800\0"}))
    error = read_response(500, json.dumps({"error": {"message": "a\0b\ud800\x1b[2J"}}))

    async def write() -> None:
        with JournalWriter(path) as journal:
            journal.begin(Start({}), ["first"])
            for response in (odd, error):
                await journal.received(await ask(journal, 1), response)

    asyncio.run(write())
    with contextlib.closing(sqlite3.connect(path)) as db, db:
        (of_odd,), (of_error,) = db.execute("SELECT error FROM replies ORDER BY request")
    assert "the text is not valid Unicode" in of_odd
    assert of_error == "HTTP 500: a\u2400b\ufffd\u241b[2J"


def test_a_journal_of_the_version_before_is_brought_up_to_date(path: Path) -> None:
    older = """
        PRAGMA user_version = 2;
        ALTER TABLE items RENAME COLUMN input TO beginning;
        ALTER TABLE items RENAME TO dialogues;
        DROP INDEX requests_of_steps;
        ALTER TABLE requests RENAME COLUMN item TO dialogue;
        ALTER TABLE requests RENAME COLUMN step TO turn;
        CREATE INDEX requests_of_turns ON requests (dialogue, turn);
        ALTER TABLE ends RENAME COLUMN item TO dialogue;
        ALTER TABLE ends RENAME COLUMN progress TO turns;
    """
    columns = "SELECT group_concat(name) FROM pragma_table_info(?)"

    def shape() -> list[str]:
        with contextlib.closing(sqlite3.connect(path)) as db:
            return [db.execute(columns, (t,)).fetchone()[0] for t in ("items", "requests", "ends")]

    async def write() -> None:
        with JournalWriter(path) as journal:
            journal.begin(Start({}), ["first"])
            await journal.received(await ask(journal, 1), HELLO)
            await journal.ended(0, End("max_turns", 1))

    asyncio.run(write())
    newest = shape()
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.executescript(older)
    with pytest.raises(UserError, match="once more: that brings it up to date"):
        read(path)
    upgrade(path)
    upgrade(path)
    assert shape() == newest
    reader = read(path)
    assert reader.item(0) == "first"
    assert reader.said(0) == [StepReply(1, HELLO.reply)]
    assert reader.end(0) == End("max_turns", 1)
