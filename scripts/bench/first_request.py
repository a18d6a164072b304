"""Seconds of the first request of each shape, at a new server and at one that is started again.

    python scripts/bench/first_request.py RUN [--tokens 16 64 256 512] [--batch-rows 8]

Two servers, one after the other, with one folder of compiled programs, which is empty at first.
Each is sent the same prompts, one per length; the second time of a prompt is that without
compilation.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import yaml

NEW_TOKENS = 16


def seconds_of(url: str, prompt: list[int]) -> float:
    """Sends one request."""
    body = {"prompt": prompt, "max_tokens": NEW_TOKENS, "temperature": 0}
    request = urllib.request.Request(
        f"{url}/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    started = time.perf_counter()
    with urllib.request.urlopen(request, timeout=600) as reply:
        reply.read()
    return time.perf_counter() - started


def serve(run: Path, lengths: list[int], batch_rows: int) -> list[tuple[float, float]]:
    """The first and the second request of each length, at a server of its own."""
    command = [sys.executable, "-m", "parrot_jax.cli", "serve", str(run), "--port", "0"]
    command += ["--batch-rows", str(batch_rows)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        url = process.stdout.readline().split()[3]
        try:
            return [
                (seconds_of(url, [5] * length), seconds_of(url, [5] * length)) for length in lengths
            ]
        finally:
            process.terminate()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("run", type=Path, help="a run folder")
    parser.add_argument("--tokens", type=int, nargs="+", default=[16, 64, 256, 512])
    parser.add_argument("--batch-rows", type=int, default=8)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        shutil.copytree(options.run, run)
        config = yaml.safe_load((run / "config.yaml").read_text())
        config["data"]["cache_dir"] = str(Path(folder) / "cache")
        (run / "config.yaml").write_text(yaml.safe_dump(config))
        new, again = (serve(run, options.tokens, options.batch_rows) for _ in range(2))
    print("prompt tokens   new server   started again   compiled")
    for length, (first, compiled), (kept, _) in zip(options.tokens, new, again, strict=True):
        print(f"{length:13} {first:10.2f} s {kept:13.2f} s {compiled:8.2f} s")


if __name__ == "__main__":
    main()
