"""A collection from a server with all kinds of faults, and killed repeatedly.

The dialogues must equal those of a run without faults, no turn may be lost, duplicated or out of
order, and the journal must have every call that may be billed.
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
    """Writes beginnings: half of them questions, half sessions."""
    with open(path, "w") as file:
        for number in range(size.dialogues):
            messages = [{"role": "user", "content": f"What is {number}?"}]
            if number % 2:
                messages.append({"role": "assistant", "content": "A number."})
            file.write(json.dumps({"id": f"d{number}", "messages": messages}) + "\n")


def write_config(folder: Path, url: str, name: str, beginnings: Path, size: Size) -> Path:
    """Writes the config of a collection with up to 10 turns; returns its path."""
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
    """Runs the server in a separate process; yields its address, and its counts once it ended."""
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
    """How often each request may have been accepted, according to the journal."""
    query = (
        "SELECT body FROM request_bodies LEFT JOIN replies USING (request) "
        "WHERE may_be_billed IS NOT 0"
    )
    return Counter(body_key(json.loads(body)) for (body,) in rows(run, query))


def check_turns(run: Path) -> None:
    """Checks that no turn is lost, duplicated or out of order; rejected requests cost nothing."""
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
    """Checks all files for the key, as bytes and in decoded JSON texts."""
    for path in run.iterdir():
        assert KEY.encode() not in path.read_bytes()
    for (text,) in rows(run, "SELECT body FROM reply_bodies WHERE body LIKE '%faulty%'"):
        with contextlib.suppress(ValueError):
            text = str(json.loads(text))
        assert KEY[3:] not in text
    # The server did send the key, and the placeholder replaced it.
    found = rows(run, "SELECT count(*) FROM replies WHERE error LIKE '%you sent%[api key]%'")
    assert found[0][0] > 0


@pytest.fixture(scope="module", params=SIZES)
def calm(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Calm:
    """A run without faults."""
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

    # Every fault occurred; in total, one call in five failed.
    assert [fault for fault in FAULTS if not counts[fault]] == []
    all_of_them = sum(counts[fault] for fault in FAULTS)
    assert all_of_them / (all_of_them + counts["none"]) == pytest.approx(0.2, abs=0.03)

    # All dialogues and their ends equal those of the run without faults.
    assert (run / "dialogues.jsonl").read_bytes() == (whole / "dialogues.jsonl").read_bytes()
    summary, expected = (json.loads((f / "summary.json").read_text()) for f in (run, whole))
    assert summary["stops"] == expected["stops"]
    assert summary["unfinished"] == 0
    odd = {"cut_question", "cut_answer", "filtered_question", "filtered_answer", "asker_left",
           "empty_answer", "error", "context_full"}  # fmt: skip
    assert set(summary["stops"]) <= {"max_turns", *odd}
    assert len(odd & set(summary["stops"])) >= 4
    check_turns(run)

    # The server's log and the journal agree on every call that may be billed.
    assert accepted_by(log) == billed_in(run)
    speakers = summary["speakers"].values()
    assert sum(speaker["lost"] for speaker in speakers) == 0
    failures = sum(counts[fault] for fault in (*REFUSALS, *LOSSES))
    ((rejected,),) = rows(run, "SELECT count(*) FROM replies WHERE outcome = 'rejected'")
    assert rejected == summary["stops"].get("error", 0)
    assert sum(speaker["failed"] for speaker in speakers) == failures + rejected
    rate_limited = counts["429"] + counts["429 with Retry-After"]
    assert sum(speaker["rate_limited"] for speaker in speakers) == rate_limited
    # Lost replies and impossible token counts are counted with their worst case.
    worst = rows(
        run,
        "SELECT outcome = 'failed', count(*), sum(worst_prompt + worst_completion) FROM requests "
        "JOIN replies ON request = id WHERE may_be_billed AND prompt_tokens IS NULL GROUP BY 1",
    )
    # A complete reply has a token count, even if its text is useless.
    lost = sum(counts[f] for f, what in LOSSES.items() if not {"text", "finish_reason"} & {*what})
    assert [(failed, count) for failed, count, _ in worst] == [
        (0, counts["impossible token counts"]), (1, lost)
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
    # Kills are spread by the size of the server's log, so that each interrupts some work.
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
    # Every billed request is in the journal. Requests that were journaled just before a kill may
    # not have reached the server.
    accepted, billed = accepted_by(log), billed_in(run)
    assert accepted <= billed
    assert (billed - accepted).total() <= lost
    # Only requests in flight at a kill were repeated.
    summary = json.loads((run / "summary.json").read_text())
    assert sum(speaker["lost"] for speaker in summary["speakers"].values()) == lost
    assert summary["repeated"] <= lost


def num_unanswered(run: Path) -> int:
    """Number of requests without a reply in the journal."""
    if not (run / "journal.sqlite").exists() or rows(run, "PRAGMA user_version") == [(0,)]:
        return 0  # killed before the journal was created
    query = "SELECT count(*) FROM requests WHERE id NOT IN (SELECT request FROM replies)"
    return rows(run, query)[0][0]
