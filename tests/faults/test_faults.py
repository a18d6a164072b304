"""A collection against a server that fails in every way, and killed again and again meanwhile.

Whatever happens, the dialogues are those of a calm run, no turn is lost, doubled or out of order,
and the journal knows of every call that the server may send a bill for.
"""

import contextlib
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from parrot_jax.api.faulty_server import FAULTS, KEY, LOSSES, REFUSALS, body_key

SEED = 20231011


class Size(NamedTuple):
    dialogues: int
    concurrency: int
    kills: int


class Calm(NamedTuple):
    size: Size
    beginnings: Path
    run: Path
    log_bytes: int


SIZES = [
    pytest.param(Size(100, 32, 8), marks=pytest.mark.slow, id="small"),
    pytest.param(Size(2000, 256, 50), marks=[pytest.mark.slow, pytest.mark.nightly], id="full"),
]


def write_beginnings(path: Path, size: Size) -> None:
    """Half of them are a question, half a session."""
    with open(path, "w") as file:
        for number in range(size.dialogues):
            messages = [{"role": "user", "content": f"What is {number}?"}]
            if number % 2:
                messages.append({"role": "assistant", "content": "A number."})
            file.write(json.dumps({"id": f"d{number}", "messages": messages}) + "\n")


def write_config(folder: Path, url: str, name: str, beginnings: Path, size: Size) -> Path:
    """A collection to 10 turns."""
    path = folder / f"{name}.yaml"
    speaker = {
        "base_url": url, "model": "faulty", "max_tokens": 256, "timeout_s": 2.0,
        "api_key_env": "PARROT_FAULTY_KEY",
    }  # fmt: skip
    values = {
        "out": str(folder / name),
        "asker": speaker,
        "answerer": speaker,
        "beginnings": [{"kind": "messages", "path": str(beginnings)}],
        "concurrency": size.concurrency,
        "retries": {"first_delay_s": 0.01, "max_attempts": 20},
    }
    path.write_text(yaml.safe_dump(values))
    return path


@contextmanager
def serving(log: Path, *, rate: float) -> Iterator[tuple[str, dict[str, int]]]:
    """The server in a process of its own: its address, and at the end what it did how often."""
    command = [sys.executable, "-m", "parrot_jax.api.faulty_server", "--seed", str(SEED)]
    process = subprocess.Popen(
        [*command, "--rate", str(rate), "--log", str(log)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    counts: dict[str, int] = {}
    try:
        yield process.stdout.readline().strip(), counts
    finally:
        printed, _ = process.communicate("")
        counts.update(json.loads(printed))


def start(config: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "parrot_jax.cli", "collect", str(config)]
    environment = {**os.environ, "PARROT_FAULTY_KEY": KEY}
    return subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment
    )


def finish(config: Path) -> None:
    process = start(config)
    _, error = process.communicate()
    assert process.returncode == 0, error.decode()


def rows(run: Path, query: str) -> list[Any]:
    with (
        contextlib.closing(sqlite3.connect(f"file:{run}/journal.sqlite?mode=ro", uri=True)) as db,
        db,
    ):
        return db.execute(query).fetchall()


def accepted_by(log: Path) -> Counter[str]:
    """How often the server accepted each request."""
    return Counter(json.loads(line)["sha256"] for line in log.read_text().splitlines())


def billed_in(run: Path) -> Counter[str]:
    """How often each request may have been accepted, as the journal has it."""
    query = (
        "SELECT body FROM request_bodies LEFT JOIN replies USING (request) "
        "WHERE may_be_billed IS NOT 0"
    )
    return Counter(body_key(json.loads(body)) for (body,) in rows(run, query))


def check_turns(run: Path) -> None:
    """No turn is lost, doubled or out of order; a rejected request has none, and costs nothing."""
    query = (
        "SELECT item, step FROM requests JOIN replies ON request = id "
        "WHERE outcome NOT IN ('failed', 'rejected') ORDER BY item, replies.request"
    )
    assert rows(run, "SELECT 1 FROM replies WHERE outcome = 'rejected' AND may_be_billed") == []
    last: dict[int, int] = {}
    for dialogue, turn in rows(run, query):
        first = 2 if dialogue % 2 else 1
        assert turn == last.get(dialogue, first - 1) + 1
        last[dialogue] = turn
    assert rows(run, "SELECT count(*) FROM ends") == rows(run, "SELECT count(*) FROM items")


def check_that_the_key_is_nowhere(run: Path) -> None:
    """Neither in the bytes of any file, nor in a text once JSON is decoded."""
    for path in run.iterdir():
        assert KEY.encode() not in path.read_bytes()
    for (text,) in rows(run, "SELECT body FROM reply_bodies WHERE body LIKE '%faulty%'"):
        with contextlib.suppress(ValueError):
            text = str(json.loads(text))
        assert KEY[3:] not in text
    # It came back in four ways, and each left its mark.
    found = rows(run, "SELECT count(*) FROM replies WHERE error LIKE '%you sent%[api key]%'")
    assert found[0][0] > 0


@pytest.fixture(scope="module", params=SIZES)
def calm(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Calm:
    """A run in which nothing fails."""
    folder, size = tmp_path_factory.mktemp("calm"), request.param
    beginnings = folder / "beginnings.jsonl"
    write_beginnings(beginnings, size)
    with serving(folder / "calm.log", rate=0.0) as (url, _):
        finish(write_config(folder, url, "calm", beginnings, size))
    return Calm(size, beginnings, folder / "calm", (folder / "calm.log").stat().st_size)


def test_one_call_in_five_fails_and_nobody_could_tell(calm: Calm, tmp_path: Path) -> None:
    size, beginnings, whole, _ = calm
    log = tmp_path / "faulty.log"
    with serving(log, rate=0.2) as (url, counts):
        config = write_config(tmp_path, url, "faulty", beginnings, size)
        finish(config)
    run = tmp_path / "faulty"

    # Every fault was met, one call in five.
    assert [fault for fault in FAULTS if not counts[fault]] == []
    all_of_them = sum(counts[fault] for fault in FAULTS)
    assert all_of_them / (all_of_them + counts["none"]) == pytest.approx(0.2, abs=0.03)

    # Every dialogue is complete, or ended for a true reason: that of the calm run.
    assert (run / "dialogues.jsonl").read_bytes() == (whole / "dialogues.jsonl").read_bytes()
    summary, expected = (json.loads((f / "summary.json").read_text()) for f in (run, whole))
    assert summary["stops"] == expected["stops"]
    assert summary["unfinished"] == 0
    odd = {"cut_question", "cut_answer", "filtered_question", "filtered_answer", "asker_left",
           "empty_answer", "error", "context_full"}  # fmt: skip
    assert set(summary["stops"]) <= {"max_turns", *odd}
    assert len(odd & set(summary["stops"])) >= 4
    check_turns(run)

    # The server's own log and the journal agree on every call that may be billed.
    assert accepted_by(log) == billed_in(run)
    speakers = summary["speakers"].values()
    assert sum(speaker["lost"] for speaker in speakers) == 0
    failures = sum(counts[fault] for fault in (*REFUSALS, *LOSSES))
    ((rejected,),) = rows(run, "SELECT count(*) FROM replies WHERE outcome = 'rejected'")
    assert rejected == summary["stops"].get("error", 0)
    assert sum(speaker["failed"] for speaker in speakers) == failures + rejected
    rate_limited = counts["429"] + counts["429 with Retry-After"]
    assert sum(speaker["rate_limited"] for speaker in speakers) == rate_limited
    # What was lost, or has no count that can be true, is counted in its worst case.
    worst = rows(
        run,
        "SELECT outcome = 'failed', count(*), sum(worst_prompt + worst_completion) FROM requests "
        "JOIN replies ON request = id WHERE may_be_billed AND prompt_tokens IS NULL GROUP BY 1",
    )
    # A reply that came whole has a count, though its text is of no use.
    lost = sum(counts[f] for f, what in LOSSES.items() if not {"text", "finish_reason"} & {*what})
    assert [(failed, count) for failed, count, _ in worst] == [
        (0, counts["tokens that nothing has"]), (1, lost)
    ]  # fmt: skip
    uncertain = sum(speaker["uncertain_tokens"] for speaker in speakers)
    assert sum(tokens for *_, tokens in worst) == uncertain
    check_that_the_key_is_nowhere(run)


def test_killed_at_random_instants_it_ends_with_the_same_dialogues(
    calm: Calm, tmp_path: Path
) -> None:
    size, beginnings, whole, calm_bytes = calm
    log, run = tmp_path / "killed.log", tmp_path / "killed"
    dice = random.Random(SEED)
    # Spread over the run by what the server has accepted, so that each kill meets it at work.
    instants = [0.9 * calm_bytes * (i + dice.random()) / size.kills for i in range(size.kills)]
    lost = 0
    with serving(log, rate=0.2) as (url, _):
        config = write_config(tmp_path, url, "killed", beginnings, size)
        for instant in instants:
            process = start(config)
            while log.stat().st_size < instant:
                assert process.poll() is None, process.communicate()[1].decode()
                time.sleep(0.005)
            time.sleep(dice.uniform(0, 0.05))
            assert process.poll() is None
            process.send_signal(signal.SIGKILL)
            process.communicate()
            lost_before, lost = lost, num_unanswered(run)
            assert lost - lost_before <= size.concurrency
        finish(config)

    assert (run / "dialogues.jsonl").read_bytes() == (whole / "dialogues.jsonl").read_bytes()
    check_turns(run)
    # Nothing was paid for that the journal does not know of; what was journaled and then killed
    # may never have reached the server.
    accepted, billed = accepted_by(log), billed_in(run)
    assert accepted <= billed
    assert (billed - accepted).total() <= lost
    # Sent again was what had been in flight, and no more.
    summary = json.loads((run / "summary.json").read_text())
    assert sum(speaker["lost"] for speaker in summary["speakers"].values()) == lost
    assert summary["repeated"] <= lost


def num_unanswered(run: Path) -> int:
    """Requests that were journaled as sent and have no reply."""
    if not (run / "journal.sqlite").exists() or rows(run, "PRAGMA user_version") == [(0,)]:
        return 0  # killed before the journal was begun
    query = "SELECT count(*) FROM requests WHERE id NOT IN (SELECT request FROM replies)"
    return rows(run, query)[0][0]
