"""Runs `parrot` commands, and servers for the duration of a block."""

import contextlib
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest

from parrot_jax.serve.background import open_port

PARROT = (sys.executable, "-m", "parrot_jax.cli")

# vLLM starts in half a minute, but may take minutes on a busy machine.
_START_TIMEOUT_S = 600.0
_STOP_TIMEOUT_S = 60.0

# Without the XLA_FLAGS of the tests; the other variables keep vLLM from using the network.
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"} | {
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB; by default vLLM takes much of the memory
}


def parrot(*arguments: object) -> None:
    """Runs `parrot` with these arguments; pytest shows its output if a test fails."""
    subprocess.run([*PARROT, *map(str, arguments)], check=True, env=ENVIRONMENT)


@contextlib.contextmanager
def served(*command: object, log: Path) -> Iterator[openai.OpenAI]:
    """Runs a server during the `with` block; yields the stock client for it.

    Args:
      command: Starts the server; `--port` with a free port is appended.
      log: File for its output.
    """
    with open_port() as listener:
        port = listener.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    with open(log, "wb") as output:
        process = subprocess.Popen(
            [*map(str, command), "--port", str(port)],
            stdout=output,
            stderr=subprocess.STDOUT,
            env=ENVIRONMENT,
            start_new_session=True,
        )
    try:
        _wait_until_healthy(process, url, log)
        with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
            yield client
    finally:
        _stop(process)


def _wait_until_healthy(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline = time.monotonic() + _START_TIMEOUT_S
    while process.poll() is None and time.monotonic() < deadline:
        with (
            contextlib.suppress(OSError),
            urllib.request.urlopen(f"{url}/health", timeout=5) as response,
        ):
            if response.status == 200:
                return
        time.sleep(0.5)
    end = "is not up in time" if process.poll() is None else f"ended with {process.returncode}"
    pytest.fail(f"{process.args} {end}; its log:\n{log.read_text()[-10_000:]}")


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_STOP_TIMEOUT_S)
    # Also ends vLLM's child processes if the server was killed.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
