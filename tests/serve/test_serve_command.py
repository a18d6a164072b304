"""`parrot serve` as a process: first line, shutdown, a port in use."""

import http.client
import json
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

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


@pytest.mark.slow
def test_a_signal_lets_requests_in_flight_finish_and_is_no_failure(
    process: subprocess.Popen[str], send: Send
) -> None:
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line.startswith("serving polly at http://127.0.0.1:")
    assert line.endswith("/v1 (Ctrl-C stops)\n")
    url = line.split()[3]
    assert send(f"{url}/models", method="GET")[1]["data"][0]["id"] == "polly"
    body = json.dumps({"messages": [], "max_tokens": 200, "temperature": 0}).encode()
    status, first = send(f"{url}/chat/completions", body)  # compiles
    assert status == 200

    address = urlsplit(url)
    assert address.hostname is not None
    assert address.port is not None
    in_flight = http.client.HTTPConnection(address.hostname, address.port, timeout=60)
    in_flight.putrequest("POST", f"{address.path}/chat/completions")
    in_flight.putheader("content-type", "application/json")
    in_flight.putheader("content-length", str(len(body)))
    in_flight.endheaders(body[:10])
    send(f"{url}/models", method="GET")  # returns after the server has read the head
    process.send_signal(signal.SIGTERM)
    wait_until_refused(address.hostname, address.port)
    in_flight.send(body[10:])
    reply = in_flight.getresponse()
    assert reply.status == 200
    assert json.loads(reply.read())["choices"] == first["choices"]
    in_flight.close()
    assert process.communicate(timeout=60) == ("", "")
    assert process.returncode == 0


@pytest.mark.slow
def test_a_server_that_is_started_again_compiles_nothing(
    trained_run: Path, tmp_path: Path, send: Send, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Small programs compile faster than jax finds worth keeping.
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    run = tmp_path / "run"
    shutil.copytree(trained_run, run)
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["data"]["cache_dir"] = str(tmp_path / "cache")
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    body = json.dumps({"messages": [], "max_tokens": 20, "temperature": 0}).encode()
    command = [sys.executable, "-m", "parrot_jax.cli", "serve", str(run), "--port", "0"]
    kept, replies = [], []
    for _ in range(2):
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            url = process.stdout.readline().split()[3]
            replies.append(send(f"{url}/chat/completions", body)[1]["choices"])
            process.terminate()
            assert process.wait(timeout=60) == 0
        kept.append({path.name for path in (tmp_path / "cache" / "compiled").glob("*-cache")})
    assert kept[0]
    assert kept[1] == kept[0]
    assert replies[1] == replies[0]


def wait_until_refused(host: str, port: int) -> None:
    """Waits until the server rejects new connections."""
    while True:
        try:
            socket.create_connection((host, port), timeout=60).close()
        except ConnectionRefusedError:
            return
        time.sleep(0.01)


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
        assert "is not a run folder: it has no config.yaml" in capsys.readouterr().err
