"""Programs as users start them: `parrot` to its end, a server while it is needed."""

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

# vLLM alone is up in half a minute; on a machine that does other work it may take some.
_START_TIMEOUT_S = 600.0
_STOP_TIMEOUT_S = 60.0

# XLA_FLAGS are for the tests' own process; the rest is for vLLM, which would ask the network.
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"} | {
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB; by default it takes much of the memory
}


def parrot(*arguments: object) -> None:
    """Runs `parrot` with these arguments; what it prints, pytest shows where a test fails."""
    subprocess.run([*PARROT, *map(str, arguments)], check=True, env=ENVIRONMENT)


@contextlib.contextmanager
def served(*command: object, log: Path) -> Iterator[openai.OpenAI]:
    """The stock client of a server that runs while the `with` block does.

    Args:
      command: Starts the server, given also `--port` with one that is free.
      log: File for what it prints.
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
    # vLLM has children, which a server that could not end by itself would leave behind.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
