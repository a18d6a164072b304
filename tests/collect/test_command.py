"""The command `parrot collect`: one-line errors, exit codes, Ctrl-C."""

import contextlib
import itertools
import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from parrot_jax.api.journal import JournalWriter
from parrot_jax.api.journal_reader import JournalReader
from parrot_jax.api.scripted_server import Scripted, ScriptedServer, converse
from parrot_jax.cli import main
from parrot_jax.collect.collect_config import CollectConfig
from parrot_jax.collect.folder import journal_path
from parrot_jax.core.config import config_to_dict, load_config, save_config

MakeConfig = Callable[..., CollectConfig]
Fails = Callable[..., str]

COLLECTS = (
    "parrot_jax.collect.run",
    "parrot_jax.api.scripted_server",
    "parrot_jax.commands.collect",
)


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with ScriptedServer() as running:
        yield running


@pytest.fixture
def fails(capsys: pytest.CaptureFixture[str]) -> Fails:
    """Runs `parrot collect`; checks the exit code; returns the only line on stderr."""

    def run(config: CollectConfig, *options: str, exit_code: int = 2) -> str:
        path = Path(config.beginnings[0].path).with_name("config.yaml")
        save_config(config, path)
        capsys.readouterr()
        assert main(["collect", str(path), *options]) == exit_code
        error = capsys.readouterr().err
        assert error.startswith("parrot: ")
        assert error.count("\n") == 1, error
        return error

    return run


def test_talking_to_endpoints_loads_no_jax_and_help_no_client() -> None:
    collects = f"import sys, {', '.join(COLLECTS)}; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", collects]).returncode == 0
    config = (
        "import sys, parrot_jax.collect, parrot_jax.api, parrot_jax.commands.collect\n"
        "sys.exit(bool({'jax', 'numpy', 'openai', 'sqlite3', 'asyncio'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", config]).returncode == 0


def test_it_collects_and_says_what_came_of_it(
    server: ScriptedServer, make_config: MakeConfig, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    path = tmp_path / "config.yaml"
    save_config(make_config(server.url), path)
    assert main(["collect", str(path), "--max-turns", "2"]) == 0
    printed = capsys.readouterr().out
    assert "4 of 4 dialogues exported, 2.00 turns each; 0 without a turn, 0 unfinished" in printed
    assert "stops     max_turns 4" in printed
    assert "asker     4 requests, of which 0 failed and 0 were lost" in printed
    assert "answerer  6 requests, of which 0 failed and 0 were lost" in printed
    assert "cost 0.00 USD" in printed
    assert main(["collect", str(path), "--max-turns", "2"]) == 0
    assert "resuming" in capsys.readouterr().out


def test_a_folder_that_cannot_be_written(
    server: ScriptedServer, make_config: MakeConfig, fails: Fails, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    line = fails(make_config(server.url), "--out", str(tmp_path / "file" / "out"))
    assert f"but {tmp_path / 'file'} is not a folder; choose another path." in line


def test_a_journal_of_another_config(
    server: ScriptedServer, make_config: MakeConfig, fails: Fails, tmp_path: Path
) -> None:
    config = make_config(server.url)
    path = tmp_path / "config.yaml"
    save_config(config, path)
    assert main(["collect", str(path)]) == 0
    line = fails(config, "--seed", "7")
    assert "holds a collection with another config (seed: 0 -> 7)" in line


def test_a_second_process_on_one_journal(
    server: ScriptedServer, make_config: MakeConfig, fails: Fails
) -> None:
    config = make_config(server.url)
    with JournalWriter(journal_path(config.out)):
        assert "another process is writing the journal" in fails(config)


def test_a_key_that_is_not_set_is_known_before_anything_is_made(
    server: ScriptedServer, make_config: MakeConfig, fails: Fails, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PARROT_TEST_KEY", raising=False)
    config = make_config(server.url, answerer={"api_key_env": "PARROT_TEST_KEY"})
    assert "environment variable PARROT_TEST_KEY is not set" in fails(config)
    assert not Path(config.out).exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_turns": 0}, "max_turns is 0; it must be at least 1"),
        ({"concurrency": 0}, "concurrency is 0; it must be at least 1"),
        (
            {"stops": {"meaningless_answers": ["("]}},
            "meaningless_answers: '(' is not a valid regular",
        ),
        ({"beginnings": []}, "beginnings is empty; name at least one"),
        ({"answerer": None}, "the speakers are asker; give asker and answerer, or writer alone"),
        (
            {"beginnings": [{"kind": "messages", "path": "x", "sample": 0}]},
            "beginnings x: sample is 0; it must be at least 1, or null",
        ),
        ({"max_turn": 3}, "unknown key `max_turn`; did you mean `max_turns`?"),
        ({"asker": {"base_url": "http://h/v1"}}, "`asker.model` is missing"),
    ],
)
def test_configs_that_cannot_work(
    changes: dict[str, Any], message: str, make_config: MakeConfig, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(config_to_dict(make_config("http://host/v1")) | changes))
    assert main(["collect", str(path)]) == 2
    assert message in capsys.readouterr().err


def test_an_endpoint_that_fails_is_exit_code_1(make_config: MakeConfig, fails: Fails) -> None:
    with ScriptedServer() as gone:
        url = gone.url
    line = fails(make_config(url), exit_code=1)
    assert "Cannot connect to host" in line
    assert "run the same command again to continue" in line


def test_the_key_is_in_no_file_and_no_line(
    make_config: MakeConfig, fails: Fails, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = "sk-0123456789-secret"
    monkeypatch.setenv("PARROT_TEST_KEY", key)
    with ScriptedServer(key="another") as server:
        config = make_config(server.url, answerer={"api_key_env": "PARROT_TEST_KEY"})
        line = fails(config, exit_code=1)
    assert "[api key]" in line
    for path in Path(config.out).iterdir():
        assert key.encode() not in path.read_bytes(), path


def test_a_full_disk_is_one_line_and_the_collection_goes_on(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    """A file size limit that is reached in the middle of the collection."""
    with ScriptedServer() as server:
        config = make_config(server.url, rows=40)
        path = tmp_path / "config.yaml"
        save_config(config, path)
        code = (
            "import resource, sys; from parrot_jax.cli import main\n"
            "resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))\n"
            f"sys.exit(main(['collect', {str(path)!r}]))"
        )
        # -B: otherwise Python would leave truncated bytecode files behind.
        done = subprocess.run([sys.executable, "-B", "-c", code], capture_output=True, text=True)
        assert done.returncode == 2, done.stderr
        (line,) = done.stderr.splitlines()
        assert "cannot write the journal" in line
        assert "the disk and its quota" in line
        assert 0 < len(server.bodies) < 180
        assert main(["collect", str(path)]) == 0
    assert len((tmp_path / "out" / "dialogues.jsonl").read_text().splitlines()) == 40


@pytest.mark.parametrize("act", [shutil.rmtree, lambda folder: folder.rename(f"{folder}-moved")])
def test_a_folder_that_is_taken_away_ends_the_collection(
    act: Callable[[Path], object], make_config: MakeConfig, fails: Fails
) -> None:
    """Further replies would be paid for and lost."""
    numbers = itertools.count()

    def script(body: dict[str, Any]) -> Scripted:
        if next(numbers) == 20:
            act(Path(config.out))
        return converse(body)

    with ScriptedServer(script) as server:
        config = make_config(server.url, rows=40, concurrency=4)
        line = fails(config)
    assert "was moved or removed while it was being written: nothing more is sent" in line
    assert len(server.bodies) <= 20 + 5
    assert not Path(config.out).exists()
    moved = Path(f"{config.out}-moved")
    if moved.exists():  # has the replies to requests in flight
        with contextlib.closing(JournalReader(journal_path(moved))) as reader:
            counts = reader.counts().speakers.values()
        assert sum(each.answered for each in counts) == len(server.bodies)


@pytest.mark.slow
def test_a_shell_that_allows_few_open_files(make_config: MakeConfig, tmp_path: Path) -> None:
    def collect_in_shell(soft: int, hard: int) -> subprocess.CompletedProcess[str]:
        code = (
            "import resource, sys; from parrot_jax.cli import main\n"
            f"resource.setrlimit(resource.RLIMIT_NOFILE, ({soft}, {hard}))\n"
            f"sys.exit(main(['collect', {str(path)!r}]))"
        )
        return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)

    path = tmp_path / "config.yaml"
    rows = [{"messages": [{"role": "user", "content": f"What is {n}?"}]} for n in range(150)]
    with ScriptedServer(delay_s=1.0) as server:
        save_config(make_config(server.url, rows=rows, concurrency=150, max_turns=1), path)
        refused = collect_in_shell(64, 300)
        assert refused.returncode == 2
        assert refused.stderr.splitlines() == [
            "parrot: concurrency 150 may need 400 open files and connections, and the system "
            "allows this process 300; lower the setting or raise the limit (ulimit -Hn)."
        ]
        assert not server.bodies
        done = collect_in_shell(64, 400)
    assert done.returncode == 0, done.stderr
    assert server.most_in_flight > 64
    assert "150 requests, of which 0 failed" in done.stdout


@pytest.mark.parametrize(
    "number",
    [signal.SIGINT, *(pytest.param(n, marks=pytest.mark.slow)
                      for n in (signal.SIGTERM, signal.SIGHUP))],
)  # fmt: skip
def test_ctrl_c_keeps_what_was_paid_for_and_the_same_command_continues(
    make_config: MakeConfig, tmp_path: Path, number: signal.Signals
) -> None:
    numbers = itertools.count(1)

    def slow(body: dict[str, Any]) -> Scripted:
        # Replies 11 to 20 are slow, so that they are in flight at Ctrl-C even on a busy machine.
        return replace(converse(body), delay_s=1.5 if 10 < next(numbers) <= 20 else 0.02)

    with ScriptedServer(slow) as server:
        config = make_config(server.url, rows=30, concurrency=10)
        path = tmp_path / "config.yaml"
        save_config(config, path)
        command = [sys.executable, "-m", "parrot_jax.cli", "collect", str(path)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        while len(server.bodies) < 20:
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(number)
        output, error = process.communicate(timeout=30)
        assert process.returncode == 130
        assert error == b"parrot: interrupted; run the same command again to continue.\n"
        assert b"stopping: waiting up to 30 s for 10 replies in flight" in output
        assert main(["collect", str(path)]) == 0
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert (summary["unfinished"], summary["repeated"]) == (0, 0)
    requests = sum(speaker["requests"] for speaker in summary["speakers"].values())
    assert requests == len(server.bodies) == 15 * 5 + 15 * 4


def test_the_papers_collection_is_the_papers() -> None:
    configs = Path(__file__).resolve().parents[2] / "configs" / "collect"
    config = load_config(CollectConfig, configs / "parrot_40k.yaml")
    assert config.max_turns == 10
    drawn = [(source.take, source.max_rounds, source.sample) for source in config.beginnings]
    assert drawn == [("dialogue", 2, 20_000), ("first_question", None, 20_000)]
    assert config.answerer is not None
    assert config.answerer.model == "gpt-3.5-turbo"
