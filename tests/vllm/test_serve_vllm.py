"""`parrot serve --backend vllm` with the real vLLM: a collection, and no processes left behind."""

import contextlib
import dataclasses
import json
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import openai
import psutil
import pytest

from parrot_jax.collect.dialogue_state import StopReason
from parrot_jax.core.config import save_config
from parrot_jax.world.facts import make_world
from parrot_jax.world.recipes import ASKER, ask_config, collect_config
from parrot_jax.world.world_engine import MODEL as ANSWERER
from parrot_jax.world.world_files import Sizes, write_world

from .servers import ENVIRONMENT, PARROT, parrot, served

pytestmark = pytest.mark.vllm

VLLM_PYTHON = Path(f"{sys.prefix}-vllm", "bin", "python")
NUM_DIALOGUES = 50
MAX_TURNS = 6
END_TIMEOUT_S = 90.0


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of a synthetic world."""
    folder = tmp_path_factory.mktemp("serve_vllm") / "world"
    sizes = Sizes(people=500, held_out=10, beginnings=2 * NUM_DIALOGUES, exam=10)
    write_world(folder, make_world("easy", 0), sizes)
    return folder


@pytest.fixture(scope="module")
def run(world: Path) -> Path:
    """The run folder of an asker, trained for a minute."""
    if not VLLM_PYTHON.exists():
        pytest.fail(f"{VLLM_PYTHON} is absent; `make test-vllm` installs it and runs these tests.")
    folder = world.parent / ASKER
    config = ask_config(world, folder, seed=0, epochs=2.5)
    data = dataclasses.replace(config.data, cache_dir=str(world.parent / "cache"))
    save_config(dataclasses.replace(config, data=data), world.parent / "ask.yaml")
    parrot("train", world.parent / "ask.yaml")
    return folder


class Asker(NamedTuple):
    """A served asker."""

    process: subprocess.Popen[str]
    url: str
    descendants: list[psutil.Process]
    """All processes: the supervisor, vLLM, its engine and its workers."""
    start_s: float


Serve = Callable[..., contextlib.AbstractContextManager[Asker]]


@pytest.fixture
def serve(run: Path) -> Serve:
    """Starts `parrot serve RUN --backend vllm`."""

    @contextlib.contextmanager
    def serve(*options: str) -> Iterator[Asker]:
        command = [*PARROT, "serve", str(run), "--backend", "vllm", "--port", "0"]
        started = time.monotonic()
        with open(run.parent / "serve.txt", "w") as errors:
            process = subprocess.Popen(
                [*command, "--vllm.python", str(VLLM_PYTHON), *options],
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env=ENVIRONMENT,
            )
        assert process.stdout is not None
        try:
            line = process.stdout.readline()
            assert line.startswith("serving "), (run.parent / "serve.txt").read_text()
            descendants = psutil.Process(process.pid).children(recursive=True)
            yield Asker(process, line.split()[3], descendants, time.monotonic() - started)
        finally:
            process.terminate()
            process.communicate()

    return serve


def names(processes: list[psutil.Process]) -> str:
    return " ".join(" ".join(process.cmdline()) for process in processes)


def are_gone(processes: list[psutil.Process]) -> bool:
    return not psutil.wait_procs(processes, END_TIMEOUT_S)[1]


def check_that_it_streams_and_knows_its_callers(url: str) -> None:
    # vLLM rejects empty lists of messages; our own server replies with a first question.
    history = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]
    asked: Any = {"model": ASKER, "messages": history, "temperature": 0, "max_tokens": 20}
    with openai.OpenAI(base_url=url, api_key="none", max_retries=0) as client:
        whole = client.chat.completions.create(**asked).choices[0].message.content
        chunks = client.chat.completions.create(**asked, stream=True)
        assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == whole
        for header in ({"Host": "attacker.example"}, {"Origin": "https://attacker.example"}):
            with pytest.raises(openai.PermissionDeniedError):
                client.chat.completions.create(**asked, extra_headers=header)


def test_it_collects_dialogues_and_stops_cleanly(
    serve: Serve, run: Path, world: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--vllm.max-model-len", "480"]
    answering = served(*PARROT, "world", "serve", world, log=world.parent / "answerer.log")
    with serve(*options) as asker, answering as answerer:
        with urllib.request.urlopen(f"{asker.url}/models", timeout=60) as response:
            (model,) = json.load(response)["data"]
        assert (model["id"], model["max_model_len"]) == (ASKER, 480)
        check_that_it_streams_and_knows_its_callers(asker.url)

        out = world.parent / "collect"
        config = collect_config(
            world, out, asker_url=asker.url, answerer_url=str(answerer.base_url),
            seed=0, max_turns=MAX_TURNS,
        )  # fmt: skip
        # Only first questions, so that each dialogue has a collected turn; a session might end with
        # its first new question.
        (first_questions,) = (each for each in config.beginnings if each.take == "first_question")
        config = dataclasses.replace(config, beginnings=(first_questions,))
        save_config(config, world.parent / "collect.yaml")
        started = time.monotonic()
        parrot("collect", world.parent / "collect.yaml")
        collect_s = time.monotonic() - started

        assert "VLLM::EngineCore" in names(asker.descendants)
        asker.process.send_signal(signal.SIGTERM)
        rest, _ = asker.process.communicate(timeout=END_TIMEOUT_S)
        assert (rest, asker.process.returncode) == ("", 0)
        assert are_gone(asker.descendants)
    assert not list(run.glob("vllm/server-*.json"))

    summary = json.loads((out / "summary.json").read_text())
    assert (summary["dialogues"], summary["unfinished"]) == (NUM_DIALOGUES, 0)
    lines = (out / "dialogues.jsonl").read_text(encoding="utf-8").splitlines()
    rows: list[dict[str, Any]] = [json.loads(line) for line in lines]
    assert len(rows) == summary["exported"] == NUM_DIALOGUES
    about = [row["collection"] for row in rows]
    assert len({each["number"] for each in about}) == NUM_DIALOGUES
    assert {each["stop"] for each in about} <= set(StopReason) - {StopReason.ERROR}
    for row, each in zip(rows, about, strict=True):
        num_rounds = len(row["messages"]) // 2
        assert (each["stop"] == StopReason.MAX_TURNS) == (num_rounds == MAX_TURNS)
    assert summary["models"] == {"asker": [ASKER], "answerer": [ANSWERER]}
    (log,) = run.glob("vllm/server-*.log")
    with capsys.disabled():
        print(
            f"\nvLLM was ready after {asker.start_s:.0f} s, the export included; "
            f"{NUM_DIALOGUES} dialogues of {sum(each['collected_turns'] for each in about)} "
            f"collected turns in {collect_s:.0f} s; ends: {summary['stops']}; log {log.name}"
        )


def test_a_killed_command_leaves_no_vllm_behind(serve: Serve) -> None:
    with serve() as asker:
        assert "VLLM::EngineCore" in names(asker.descendants)
        asker.process.kill()
        assert are_gone(asker.descendants)


def test_an_engine_that_dies_ends_the_command(serve: Serve, run: Path) -> None:
    with serve("--vllm.no-enable-prefix-caching") as asker:
        (engine,) = [each for each in asker.descendants if "EngineCore" in names([each])]
        engine.kill()
        assert asker.process.wait(END_TIMEOUT_S) == 1
        assert are_gone(asker.descendants)
    said = (run.parent / "serve.txt").read_text()
    assert "parrot: vLLM ended by itself with exit code" in said
    assert "convert flax-to-hf" not in said  # exported by the first test
