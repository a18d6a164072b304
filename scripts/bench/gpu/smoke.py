"""Does the project work on this card at all? Kernels, training, a checkpoint, a server.

A model of 100M weights trains on the synthetic world for 20 steps, on the card and on the CPU
beside it. The losses must agree to 1e-2. Then the run is served from its checkpoint.
"""

import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path
from typing import Any

from measuring import TOY, record

from parrot_jax import small_example
from parrot_jax.core.config import save_config
from parrot_jax.core.xla_flags import guess_platform

ROOT = Path(__file__).resolve().parents[3]
PARROT = [sys.executable, "-m", "parrot_jax.cli"]


def write_configs(folder: Path) -> dict[str, Path]:
    """The config of the run on the card and on the CPU; they differ in their folders."""
    config = small_example(folder)
    steps = 4 if TOY else 20
    if not TOY:
        model = dataclasses.replace(
            config.model,
            hidden_size=768,
            intermediate_size=2048,
            num_hidden_layers=14,
            num_attention_heads=12,
            num_key_value_heads=12,
        )
        optim = dataclasses.replace(config.optim, lr=3e-4)
        config = dataclasses.replace(config, model=model, optim=optim, batch_rows=4)
    paths = {}
    for name in ("card", "cpu"):
        data = dataclasses.replace(config.data, cache_dir=str(folder / f"cache-{name}"))
        mine = dataclasses.replace(config, out=str(folder / name), data=data, max_steps=steps)
        paths[name] = folder / f"{name}.yaml"
        save_config(mine, paths[name])
    return paths


def losses(run: Path) -> list[float]:
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["loss"] for line in lines]


def ask(port_line: str) -> str:
    """The reply of the server that printed this line."""
    url = next(word for word in port_line.split() if word.startswith("http"))
    message = {"role": "user", "content": "What is the river of Velora?"}
    body = {"messages": [message], "max_tokens": 16, "temperature": 0}
    request = urllib.request.Request(
        f"{url.rstrip('/').removesuffix('/v1')}/v1/chat/completions",
        json.dumps(body | {"model": "card"}).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        reply: dict[str, Any] = json.load(answer)
    return reply["choices"][0]["message"]["content"]


def main() -> None:
    on_gpu = guess_platform() == "gpu"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        paths = write_configs(folder)
        cpu = subprocess.Popen(
            [*PARROT, "train", str(paths["cpu"])], env={**os.environ, "JAX_PLATFORMS": "cpu"}
        )
        try:
            if on_gpu:
                done = subprocess.run(
                    [
                        sys.executable,
                        "-m",
                        "pytest",
                        "-q",
                        "-m",
                        "gpu",
                        "-p",
                        "no:cacheprovider",
                        "tests/model/test_attention_kernels.py",
                    ],
                    cwd=ROOT,
                    stdout=subprocess.PIPE,
                    text=True,
                    check=False,
                )
                print(done.stdout, flush=True)
                last = (done.stdout.strip().splitlines() or ["no output"])[-1]
                record("tests of the kernels", last.strip("= "), code=done.returncode)
            else:
                done = None
                record("tests of the kernels", "not run: there is no GPU")
            subprocess.run([*PARROT, "train", str(paths["card"])], check=True)
            if cpu.wait():
                raise SystemExit(f"training on the CPU ended with exit status {cpu.returncode}")
        finally:
            cpu.kill()
        ours, theirs = losses(folder / "card"), losses(folder / "cpu")
        off = max(abs(one - two) for one, two in zip(ours, theirs, strict=True))
        record(
            f"losses of {len(ours)} steps",
            f"{off:.1e} apart from the CPU's at most, {ours[0]:.3f} to {ours[-1]:.3f}",
            predicted="1e-2 at most",
            card=ours,
            cpu=theirs,
        )
        server = subprocess.Popen(
            [*PARROT, "serve", str(folder / "card"), "--port", "0"],
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            assert server.stdout is not None
            line = next((line for line in server.stdout if "http" in line), "")
            if not line:
                raise SystemExit("the server ended before it was ready")
            record("reply of the served checkpoint", repr(ask(line))[:60])
        finally:
            server.terminate()
            server.wait()
        if off > 1e-2:
            raise SystemExit(f"the losses on the card are {off:.4f} from those on the CPU")
        if done is not None and done.returncode:
            raise SystemExit(f"the tests of the kernels ended with {done.returncode}")


if __name__ == "__main__":
    main()
