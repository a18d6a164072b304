"""`parrot serve --backend vllm` with a fake vLLM: command, start, and all ways to end."""

import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from parrot_jax.cli import main
from parrot_jax.core.errors import UserError
from parrot_jax.serve.background import open_port
from parrot_jax.serve.vllm import Environment, Served, VllmConfig, vllm_command, vllm_variables
from parrot_jax.serve.vllm_server import check_nobody_serves

pytestmark = pytest.mark.slow

GIB = 2**30
STANDIN = Path(__file__).with_name("vllm_standin.py")

Serve = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def python(tmp_path: Path) -> Path:
    """The fake vLLM, as a Python interpreter."""
    path = tmp_path / "python"
    path.write_text(f'#!/bin/sh\nexec {sys.executable} {STANDIN} "$@"\n')
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


@pytest.fixture
def export(tmp_path: Path) -> Path:
    """A fake export, of which only the sizes are read."""
    folder = tmp_path / "asker"
    folder.mkdir()
    sizes = {"max_position_embeddings": 256, "num_attention_heads": 8, "torch_dtype": "bfloat16"}
    (folder / "config.json").write_text(json.dumps(sizes))
    (folder / "model.safetensors").write_bytes(bytes(1000))
    return folder


@pytest.fixture
def serve(tmp_path: Path, python: Path) -> Iterator[Serve]:
    """Starts `parrot serve RUN --backend vllm` on a free port; kills leftover processes."""
    started: list[subprocess.Popen[str]] = []
    processes = tmp_path / "processes.json"

    def serve(run: Path, *options: str, wrong: str = "") -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "parrot_jax.cli", "serve", str(run), "--backend", "vllm"]
        started.append(
            subprocess.Popen(
                [*command, "--port", "0", "--vllm.python", str(python), *options],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                env={**os.environ, "STANDIN": wrong, "PROCESSES": str(processes)},
            )
        )
        return started[-1]

    yield serve
    for process in started:
        process.kill()
        process.communicate()
    for pid in json.loads(processes.read_text()) if processes.exists() else []:
        if psutil.pid_exists(pid):
            os.kill(pid, signal.SIGKILL)


def url_of(process: subprocess.Popen[str]) -> str:
    """Returns the URL from its first line."""
    assert process.stdout is not None
    return process.stdout.readline().split()[3].removesuffix("/v1")


def processes_of(folder: Path) -> list[psutil.Process]:
    """Returns the supervisor, the server and the server's child."""
    (record,) = folder.glob("*vllm/server-*.json")
    pids = [json.loads(record.read_text())["supervisor"][0]]
    pids += json.loads((folder.parent / "processes.json").read_text())
    return [psutil.Process(pid) for pid in pids]


def are_gone(processes: list[psutil.Process], timeout_s: float = 30) -> bool:
    return not psutil.wait_procs(processes, timeout_s)[1]


# ---- command ------------------------------------------------------------------------------------


def test_the_command_on_a_cpu(export: Path) -> None:
    served = Served(export, "ask", "127.0.0.1", 8000)
    environment = Environment("env/bin/python", (), has_program=False)
    assert " ".join(vllm_command(served, environment, VllmConfig())) == (
        f"env/bin/python -m vllm.entrypoints.openai.api_server --model {export} "
        "--served-model-name ask --host 127.0.0.1 --port 8000 --dtype bfloat16 --max-model-len 256 "
        "--generation-config vllm --enable-prefix-caching --tensor-parallel-size 1 "
        "--data-parallel-size 1 --middleware known_callers.KnownCallersOfVllm "
        "--disable-uvicorn-access-log --enforce-eager "
        "--no-enable-chunked-prefill"
    )


def test_the_command_on_eight_gpus(export: Path) -> None:
    served = Served(export, "ask", "0.0.0.0", 80)
    environment = Environment("python", (80 * GIB,) * 8, has_program=True)
    config = VllmConfig(enable_prefix_caching=False, max_model_len=100, data_parallel_size=3)
    assert " ".join(vllm_command(served, environment, config)) == (
        f"python -m vllm.entrypoints.cli.main serve {export} "
        "--served-model-name ask --host 0.0.0.0 --port 80 --dtype bfloat16 --max-model-len 100 "
        "--generation-config vllm --no-enable-prefix-caching --tensor-parallel-size 1 "
        "--data-parallel-size 3 --middleware known_callers.KnownCallersOfVllm "
        "--disable-uvicorn-access-log"
    )


LOADS_MIDDLEWARE = """
import asyncio, importlib, inspect, json, sys
module, name = sys.argv[1].rsplit(".", 1)
middleware = getattr(importlib.import_module(module), name)
assert inspect.isclass(middleware)
assert "parrot_jax" not in sys.modules
said = []
async def app(scope, receive, send):
    said.append(200)
async def send(message):
    if message["type"] == "http.response.start":
        said.append(message["status"])
    elif message["type"] == "websocket.close":
        said.append("closed")
for kind, host, origin in (
    ("http", "127.0.0.1:8000", ""), ("http", "asker", ""), ("http", "attacker.example", ""),
    ("http", "asker", "https://attacker.example"), ("websocket", "asker", ""),
    ("websocket", "asker", "https://attacker.example"),
):
    headers = [(b"host", host.encode()), *([(b"origin", origin.encode())] if origin else [])]
    scope = {"type": kind, "headers": headers} | ({"method": "GET"} if kind == "http" else {})
    asyncio.run(middleware(app=app)(scope, None, send))
print(json.dumps(said))
"""


def test_another_python_without_this_package_refuses_web_pages(export: Path) -> None:
    """Loads the middleware like vLLM, without installed packages (`-S`)."""
    served = Served(export, "ask", "0.0.0.0", 8000, ("asker",))
    environment = Environment("python", (), has_program=False)
    command = vllm_command(served, environment, VllmConfig())
    variables = vllm_variables(served, environment, command)
    middleware = command[command.index("--middleware") + 1]
    done = subprocess.run(
        [sys.executable, "-S", "-c", LOADS_MIDDLEWARE, middleware],
        env=variables, cwd=export, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert json.loads(done.stdout) == [200, 200, 403, 403, 200, "closed"]


@pytest.mark.parametrize(
    ("num_gpus", "gpu_bytes", "tensor", "data", "sizes"),
    [
        (1, 2000, None, None, (1, 1)),
        (8, 2000, None, None, (1, 8)),
        (8, 1999, None, None, (2, 4)),  # one GPU cannot hold the weights twice
        (8, 600, None, None, (4, 2)),
        (8, 1, None, None, (8, 1)),  # they do not fit at all; vLLM reports it
        (6, 600, None, None, (4, 1)),
        (8, 600, None, 4, (2, 4)),
        (8, 2000, 2, None, (2, 4)),
        (8, 2000, 2, 1, (2, 1)),
        (0, 0, None, 2, (1, 2)),
    ],
)
def test_copies_share_the_gpus(
    num_gpus: int,
    gpu_bytes: int,
    tensor: int | None,
    data: int | None,
    sizes: tuple[int, int],
    export: Path,
) -> None:
    environment = Environment("python", (gpu_bytes,) * num_gpus, has_program=True)
    config = VllmConfig(tensor_parallel_size=tensor, data_parallel_size=data)
    command = vllm_command(Served(export, "ask", "127.0.0.1", 80), environment, config)
    at = command.index("--tensor-parallel-size")
    assert command[at + 1 : at + 4 : 2] == [str(size) for size in sizes]


def test_what_the_machine_or_the_model_has_not(export: Path) -> None:
    served = Served(export, "ask", "127.0.0.1", 80)
    environment = Environment("python", (80 * GIB,) * 2, has_program=True)
    with pytest.raises(UserError, match="size 2 times .*size 2 is 4, but there are 2 GPUs"):
        vllm_command(served, environment, VllmConfig(tensor_parallel_size=2, data_parallel_size=2))
    with pytest.raises(UserError, match="max-model-len is 257, but the model has 256 positions"):
        vllm_command(served, environment, VllmConfig(max_model_len=257))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--vllm.data-parallel-size", "0"], "--vllm.data-parallel-size is 0; it must be at lea"),
        (["--vllm.start-timeout-s", "0"], "--vllm.start-timeout-s is 0.0; it must be finite and"),
        (["--batch-rows", "8"], "--batch-rows applies to --backend jax only"),
        (["--backend", "jax", "--vllm.max-model-len", "9"], "--vllm.* applies to vLLM only; add"),
        (["--port", "{taken}"], "port {taken} on 127.0.0.1 is in use; choose another with --port"),
        (["--vllm.python", "/none"], "cannot run the vLLM interpreter /none: [Errno 2] No such"),
    ],
)
def test_what_cannot_be_served_is_one_line(
    options: list[str],
    message: str,
    export: Path,
    python: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with open_port() as listener:
        taken = listener.getsockname()[1]
        options = [option.format(taken=taken) for option in options]
        first = ["serve", str(export), "--backend", "vllm", "--vllm.python", str(python)]
        assert main([*first, *options]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"parrot: {message.format(taken=taken)}")
    assert error.count("\n") == 1


def test_folders_that_hold_no_model(
    tmp_path: Path, python: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["--backend", "vllm", "--port", "0", "--vllm.python", str(python)]
    assert main(["serve", str(tmp_path), *command]) == 2
    assert "is neither a run folder (no config.yaml)" in capsys.readouterr().err
    (tmp_path / "adapter_config.json").write_text("{}")
    assert main(["serve", str(tmp_path), *command]) == 2
    assert "has adapters only; serve the run, or export it without" in capsys.readouterr().err
    (tmp_path / "config.yaml").write_text("converted_from: x\nmodel: {}\n")
    assert main(["serve", str(tmp_path), *command]) == 2
    assert "has converted weights, not a run" in capsys.readouterr().err


def test_without_vllm_one_is_told_how_to_install_it(serve: Serve, export: Path) -> None:
    out, error = serve(export, wrong="absent").communicate(timeout=60)
    assert out == ""
    assert "has no vLLM; install it in a separate environment" in error


# ---- start --------------------------------------------------------------------------------------


def test_the_first_line_says_where_and_the_log_says_how(serve: Serve, export: Path) -> None:
    process = serve(export, "--model-name", "polly")
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line.startswith("serving polly at http://127.0.0.1:")
    assert line.endswith("/v1 (Ctrl-C stops)\n")
    port = line.split()[3].removesuffix("/v1").rpartition(":")[2]
    log = export / ".vllm" / f"server-{port}.log"
    process.send_signal(signal.SIGINT)
    out, error = process.communicate(timeout=60)
    assert (out, process.returncode) == ("", 0)
    command = next(line for line in log.read_text().splitlines() if line.startswith("$ "))
    assert f"--served-model-name polly --host 127.0.0.1 --port {port} " in command
    assert "VLLM_CPU_KVCACHE_SPACE=" in command
    assert error == f"{command}\nits log: {log}\n"


def test_a_server_that_dies_early_shows_the_end_of_its_log(serve: Serve, export: Path) -> None:
    out, error = (process := serve(export, wrong="dies")).communicate(timeout=60)
    assert (out, process.returncode) == ("", 1)
    assert "parrot: vLLM did not start: it ended by itself with exit code 3; its log" in error
    assert error.endswith("ends with:\n  a line\n  ValueError: no room for the cache\n")
    assert not list(export.glob(".vllm/*.json"))


def test_a_server_that_is_never_ready_is_ended(serve: Serve, export: Path) -> None:
    process = serve(export, "--vllm.start-timeout-s", "1", wrong="never ready")
    _, error = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "parrot: vLLM is not ready after 1 s; raise --vllm.start-timeout-s" in error
    assert not list(export.glob(".vllm/*.json"))


@pytest.mark.slow
def test_a_run_is_exported_once_and_half_an_export_is_finished(
    serve: Serve, trained_run: Path, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(trained_run, tmp_path / "run"))

    def start() -> tuple[str, dict[str, int]]:
        process = serve(run)
        url_of(process)
        process.send_signal(signal.SIGTERM)
        _, error = process.communicate(timeout=60)
        assert process.returncode == 0, error
        (out,) = run.glob("vllm/step-*")
        assert f"--model {out} " in error
        assert "--dtype float32 " in error
        return error, {file.name: file.stat().st_mtime_ns for file in out.iterdir()}

    said, first = start()
    assert "convert flax-to-hf" in said
    assert {"config.json", "chat_template.jinja", "model.safetensors"} <= first.keys()
    said, again = start()
    assert "convert flax-to-hf" not in said
    assert again == first

    (out,) = run.glob("vllm/step-*")
    (out / "config.json").unlink()
    (out / "model.safetensors").unlink()
    (out / "model.safetensors.tmp-1").write_bytes(b"half")
    said, third = start()
    assert "convert flax-to-hf" in said
    assert third.keys() == first.keys()

    # Another tokenizer in the run is not ignored, although the export exists.
    file = run / "tokenizer" / "tokenizer.json"
    content = json.loads(file.read_text())
    vocab = content["model"]["vocab"]
    vocab["a"], vocab["b"] = vocab["b"], vocab["a"]
    file.write_text(json.dumps(content))
    process = serve(run)
    printed, error = process.communicate(timeout=60)
    assert (printed, process.returncode) == ("", 2)
    assert "tokenizer" in error


# ---- end ----------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=lambda n: n.name)
@pytest.mark.parametrize("wrong", ["", pytest.param("deaf", marks=pytest.mark.nightly)])
def test_nothing_is_left_behind(
    number: signal.Signals, wrong: str, serve: Serve, export: Path
) -> None:
    process = serve(export, wrong=wrong)
    url_of(process)
    processes = processes_of(export)
    process.send_signal(number)
    assert are_gone(processes)
    process.communicate(timeout=60)
    assert process.returncode == (0 if number == signal.SIGTERM else -number)
    assert not list(export.glob(".vllm/*.json"))


def test_a_signal_while_it_starts_leaves_nothing_behind(serve: Serve, export: Path) -> None:
    process = serve(export, wrong="never ready")
    while not (list(export.glob(".vllm/*.json")) and (export.parent / "processes.json").exists()):
        assert process.poll() is None
        time.sleep(0.05)
    processes = processes_of(export)
    process.send_signal(signal.SIGTERM)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "interrupted" in error
    assert are_gone(processes, 0)


def test_a_crash_ends_the_command_and_names_the_log(serve: Serve, export: Path) -> None:
    process = serve(export)
    url = url_of(process)
    processes = processes_of(export)
    with pytest.raises(OSError):  # noqa: PT011 - any kind of lost connection
        urllib.request.urlopen(f"{url}/crash", timeout=60)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "parrot: vLLM ended by itself with exit code 1; its log" in error
    assert error.endswith("ends with:\n  EngineDeadError: the engine is dead\n")
    assert are_gone(processes, 0)


def test_a_supervisor_that_is_killed_takes_the_server_with_it(serve: Serve, export: Path) -> None:
    process = serve(export)
    url_of(process)
    processes = processes_of(export)
    processes[0].kill()
    _, error = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "vLLM was stopped because signal 9 killed its supervisor" in error
    assert are_gone(processes)


@pytest.mark.slow
def test_what_a_crash_left_behind_is_named_at_the_next_start(serve: Serve, export: Path) -> None:
    process = serve(export, wrong="deaf")
    url_of(process)
    supervisor, server, deaf = processes_of(export)
    os.kill(process.pid, signal.SIGSTOP)  # so that it does not clean up
    supervisor.kill()
    process.kill()
    assert are_gone([server])
    assert deaf.is_running()
    _, error = (second := serve(export)).communicate(timeout=60)
    assert second.returncode == 2
    assert f"left vLLM processes on port {port_in(error)}: {deaf.pid};" in error
    deaf.kill()
    assert are_gone([deaf])
    third = serve(export)
    url_of(third)


def port_in(error: str) -> str:
    return error.partition("on port ")[2].partition(":")[0]


@pytest.mark.slow
def test_two_servers_of_a_run_do_not_share_a_port(serve: Serve, export: Path) -> None:
    first = serve(export)
    port = url_of(first).rpartition(":")[2]
    _, error = (second := serve(export, "--port", port)).communicate(timeout=60)
    assert second.returncode == 2
    assert f"is serving or stopping this run on port {port}" in error
    third: Any = serve(export)
    assert url_of(third).rpartition(":")[2] != port


@pytest.mark.parametrize("content", ["{", "[]", '{"host": "here"}'])
def test_a_damaged_record_of_a_server_is_one_line(content: str, tmp_path: Path) -> None:
    (tmp_path / "server-8000.json").write_text(content)
    with pytest.raises(UserError, match=r"server-8000.json is damaged \(.*\), so vLLM processes"):
        check_nobody_serves(tmp_path)
