"""A server that is stopped during long work ends without waiting for the work."""

import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import openai
import pytest

pytestmark = pytest.mark.slow


def test_a_long_batch_does_not_keep_the_process(trained_run: Path) -> None:
    # 200 steps of this many rows take minutes; requests in flight get only 20 seconds.
    command = [sys.executable, "-m", "parrot_jax.cli", "serve", str(trained_run), "--port", "0"]
    options = ["--batch-rows", "10000"]
    process = subprocess.Popen([*command, *options], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    errors: list[openai.InternalServerError] = []

    def ask(url: str) -> None:
        with openai.OpenAI(base_url=url, api_key="none", max_retries=0) as client:
            try:
                client.chat.completions.create(
                    model="run", messages=[], max_tokens=200, temperature=0
                )
            except openai.InternalServerError as error:
                errors.append(error)

    try:
        asking = threading.Thread(target=ask, args=(process.stdout.readline().split()[3],))
        asking.start()
        time.sleep(2)
        stopped = time.monotonic()
        process.send_signal(signal.SIGINT)
        process.wait(timeout=120)
        assert 19 < time.monotonic() - stopped < 60
        asking.join()
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == 0
    assert [(error.status_code, error.code) for error in errors] == [(503, "stopping")]
