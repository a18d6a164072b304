"""MT-Eval's five turns from a served model to the report: killed 20 times, and with faults."""

import dataclasses
import hashlib
import json
import os
import random
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import parrot_jax
from parrot_jax.api.faulty_server import KEY, FaultyScript, body_key
from parrot_jax.api.scripted_server import Scripted, ScriptedServer
from parrot_jax.cli import main
from parrot_jax.evaluate.scores import read_scores
from parrot_jax.evaluate.sheets import read_sheets
from parrot_jax.evaluate.summary import make_report

pytestmark = pytest.mark.slow

WriteConfig = Callable[..., Path]
HISTORIES = ["own", "reference", "none"]


def grade(body: dict[str, Any]) -> Scripted:
    """A grade that depends on the prompt only; one reply of 20 is nonsense."""
    number = int(hashlib.sha256(json.dumps(body["messages"]).encode()).hexdigest(), 16)
    return Scripted(text="I am not sure." if number % 20 == 0 else f"Grade: [[{1 + number % 10}]]")


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, shared_data: Path) -> Iterator[str]:
    """`parrot serve` of a tiny LLaMA with the real tokenizer and random weights; its address."""
    folder = tmp_path_factory.mktemp("served")
    config = parrot_jax.small_example(folder)
    model = dataclasses.replace(
        config.model, vocab_size=32000, hidden_size=16, intermediate_size=32, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=2, max_position_embeddings=8192,
    )  # fmt: skip
    tokenizer = str(shared_data / "llama_tokenizer" / "tokenizer.model")
    data = dataclasses.replace(config.data, tokenizer=tokenizer, eval_sources=())
    parrot_jax.train_model(dataclasses.replace(config, model=model, data=data, max_steps=0))
    command = [sys.executable, "-m", "parrot_jax.cli", "serve", config.out, "--port", "0"]
    process = subprocess.Popen(
        [*command, "--batch-rows", "8", "--model-name", "m"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    printed = ""
    for line in process.stdout:
        printed += line
        if found := re.search(r"http://127\.0\.0\.1:\d+/v1", printed.replace("\n", "")):
            break
    else:
        raise AssertionError(printed)
    yield found[0]
    process.terminate()
    process.communicate(timeout=60)


def run_killed(command: list[str], *, times: int, journal: Path, dice: random.Random) -> None:
    """Runs a command, kills it at random moments after it sent more, and lets it finish."""
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    for _ in range(times):
        before, process = num_requests(journal), subprocess.Popen(command, **quiet)
        while process.poll() is None and num_requests(journal) == before:
            time.sleep(0.01)
        time.sleep(dice.uniform(0, 0.3))
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
        process.wait(timeout=120)
    assert subprocess.run(command, **quiet).returncode == 0


def num_requests(journal: Path) -> int:
    if not journal.exists():
        return 0
    try:
        db = sqlite3.connect(f"file:{journal}?mode=ro", uri=True)
        ((count,),) = db.execute("SELECT count(*) FROM requests")
        db.close()
    except sqlite3.Error:
        return 0
    return count


@pytest.mark.parametrize(
    ("limit", "kills"), [pytest.param(6, 4, id="small"),
                         pytest.param(80, 20, id="full", marks=pytest.mark.nightly)],
)  # fmt: skip
def test_a_run_that_was_killed_gives_the_tables_of_one_that_was_not(
    limit: int, kills: int, served: str, write_config: WriteConfig, shared_data: Path,
    tmp_path: Path,
) -> None:  # fmt: skip
    benchmark = str(shared_data / "mt_eval" / "mt-bench_extended.jsonl")
    dice, reports = random.Random(7), []
    for name, times in (("whole", 0), ("killed", kills // 2)):
        answers, judged = tmp_path / name / "answers", tmp_path / name / "judged"
        config = write_config(
            "answerer", served, benchmark=benchmark, history=HISTORIES, limit=limit,
            out=str(answers),
            endpoint={"model": "m", "max_tokens": 8, "temperature": 0.0, "concurrency": 16},
        )  # fmt: skip
        command = [sys.executable, "-m", "parrot_jax.cli", "evaluate", "answer", str(config)]
        run_killed(command, times=times, journal=answers / "journal.sqlite", dice=dice)
        assert len(read_sheets(answers)) == 3 * limit
        with ScriptedServer(grade, delay_s=0.02) as server:
            config = write_config(
                "judge",
                server.url,
                benchmark=benchmark,
                answers=[str(answers)],
                out=str(judged),
                repeats=2,
                endpoint={"concurrency": 16},
            )
            command = [sys.executable, "-m", "parrot_jax.cli", "evaluate", "judge", str(config)]
            run_killed(command, times=times, journal=judged / "journal.sqlite", dice=dice)
        reports.append(make_report(read_scores([judged])).to_json())
    whole, killed = reports
    assert killed == whole
    turns = sum(model["overall"]["scored"] for model in whole["models"].values())
    assert turns > 0.8 * 3 * 5 * limit


def test_at_20_percent_faults_nothing_is_scored_that_was_not_answered(
    write_config: WriteConfig, shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("FAULTY_KEY", KEY)
    benchmark = str(shared_data / "mt_eval" / "mt-bench_extended.jsonl")
    answers, judged = tmp_path / "answers", tmp_path / "judged"
    endpoint = {
        "api_key_env": "FAULTY_KEY", "timeout_s": 2.0, "concurrency": 32,
        "retries": {"first_delay_s": 0.01, "max_attempts": 3},
    }  # fmt: skip

    def answer(body: dict[str, Any]) -> Scripted:
        # Some requests are refused for good, some replies are empty: answers that stay missing.
        number = int(body_key(body), 16)
        if number % 40 == 0:
            return Scripted(status=400, text="cannot process this request")
        return Scripted(text="" if number % 40 == 1 else f"answer {number % 1000}")

    for role, script, out in (("answerer", answer, answers), ("judge", grade, judged)):
        changes: dict[str, Any] = {"history": ["own", "none"], "limit": 20}
        if role == "judge":
            changes = {"answers": [str(answers)], "attempts": 2}
        with (
            open(tmp_path / f"{role}.log", "w", buffering=1) as log,
            ScriptedServer(
                FaultyScript(script, seed=3, rate=0.2, log=log), keeps_bodies=False
            ) as server,
        ):
            config = write_config(
                role, server.url, benchmark=benchmark, out=str(out), endpoint=endpoint, **changes
            )
            for _ in range(3):  # what failed is asked again by the next run
                if main(["evaluate", role.replace("answerer", "answer"), str(config)]) == 0:
                    break
    sheets = {(sheet.model_id, str(sheet.question_id)): sheet for sheet in read_sheets(answers)}
    assert len(sheets) == 40
    rows = [
        json.loads(line)
        for line in (judged / "model_judgment" / "gpt-4_single.jsonl").read_text().splitlines()
    ]
    assert len(rows) == 40 * 5
    states: Counter[str] = Counter()
    for row in rows:
        answered = sheets[row["model"], str(row["question_id"])].answers[row["turn"] - 1]
        if row["score"] is not None:
            # A score has an answer, and is what the judge's text says.
            assert answered is not None
            assert f"[[{row['score']:.0f}]]" in row["judgment"]
            states["scored"] += 1
        else:
            assert row["reason"]
            assert bool(row.get("failed")) == (answered is None)
            states["failed" if row.get("failed") else "unscored"] += 1
    assert states["scored"] > 100
    assert states["failed"] > 3
    assert states["unscored"] > 0
    report = make_report(read_scores([judged])).to_json()
    for kind in states:
        assert sum(model["overall"][kind] for model in report["models"].values()) == states[kind]
    for role, out in (("answerer", answers), ("judge", judged)):
        lines = (tmp_path / f"{role}.log").read_text().splitlines()
        accepted = Counter(json.loads(line)["sha256"] for line in lines)
        db = sqlite3.connect(out / "journal.sqlite")
        query = """
            SELECT body FROM request_bodies LEFT JOIN replies USING (request)
            WHERE may_be_billed IS NOT 0
        """
        billed = Counter(body_key(json.loads(body)) for (body,) in db.execute(query))
        db.close()
        assert not accepted - billed, "the journal has every request that the server accepted"
