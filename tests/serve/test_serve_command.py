"""`parrot serve` as typed: its first line, its end, a port in use."""

import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from parrot_jax.cli import main
from parrot_jax.serve.background import open_port

Send = Callable[..., tuple[int, Any]]


@pytest.fixture
def process(trained_run: Path) -> Iterator[subprocess.Popen[str]]:
    """A real server process on a free port."""
    command = [sys.executable, "-m", "parrot_jax.cli", "serve", str(trained_run)]
    process = subprocess.Popen(
        [*command, "--port", "0", "--model-name", "polly"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    yield process
    process.kill()
    process.communicate()


def test_a_signal_lets_requests_in_flight_finish_and_is_no_failure(
    process: subprocess.Popen[str], send: Send
) -> None:
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line.startswith("serving polly at http://127.0.0.1:")
    assert line.endswith("/v1 (Ctrl-C stops)\n")
    url = line.split()[3]
    assert send(f"{url}/models", method="GET")[1]["data"][0]["id"] == "polly"
    answers: queue.Queue[tuple[int, Any]] = queue.Queue()
    body = {"messages": [], "max_tokens": 200, "temperature": 0}
    asking = threading.Thread(target=lambda: answers.put(send(f"{url}/chat/completions", body)))
    asking.start()
    time.sleep(0.5)  # its program takes longer to compile
    assert answers.empty()
    process.send_signal(signal.SIGTERM)
    asking.join()
    status, reply = answers.get()
    assert (status, reply["usage"]["completion_tokens"]) == (200, 200)
    assert process.communicate(timeout=30) == ("", "")
    assert process.returncode == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--port", "{taken}"], "port {taken} on 127.0.0.1 is in use; choose another with --port"),
        (["--port", "70000"], "--port is 70000; it must be from 0 to 65535."),
        (["--batch-rows", "0"], "--batch-rows is 0; it must be at least 1."),
    ],
)
def test_what_cannot_be_served_is_one_line(
    options: list[str],
    message: str,
    trained_run: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with open_port() as listener:
        taken = listener.getsockname()[1]
        options = [option.format(taken=taken) for option in options]
        capsys.readouterr()
        assert main(["serve", str(trained_run), *options]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"parrot: {message.format(taken=taken)}")
    assert error.count("\n") == 1


def test_a_folder_that_is_no_run_frees_the_port_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with open_port() as listener:
        port = listener.getsockname()[1]
    for _ in range(2):
        assert main(["serve", str(tmp_path), "--port", str(port)]) == 2
        assert "is no run folder: it has no config.yaml" in capsys.readouterr().err
