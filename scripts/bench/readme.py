"""Runs the README's section "Your own data" from a wheel, in an empty folder, with your files.

Builds the wheel, installs it into an environment without this checkout, and runs the section's
commands as printed, with your dialogues and your tokenizer. Servers run until the end. Prints the
time of each command. Uploads to the Hugging Face Hub only if HF_TOKEN is set.

    python scripts/bench/readme.py --data wildchat.jsonl --tokenizer tokenizer.model
"""

import contextlib
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import tyro

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, kw_only=True)
class ReadmeConfig:
    """Your files."""

    data: str
    """A `messages` file of dialogues."""

    tokenizer: str
    """A LLaMA tokenizer.model."""


def main(config: ReadmeConfig) -> None:
    """Runs the commands; stops at the first failure."""
    with tempfile.TemporaryDirectory(prefix="newcomer-") as name, contextlib.ExitStack() as servers:
        place = Path(name)
        bin_folder = install_wheel(place)
        work = place / "work"
        work.mkdir()
        shutil.copy(config.data, work / "dialogues.jsonl")
        shutil.copy(config.tokenizer, work / "tokenizer.model")
        # Without this checkout and its settings.
        ours = ("PYTHONPATH", "XLA_FLAGS")
        environment = {key: value for key, value in os.environ.items() if key not in ours}
        environment["PATH"] = f"{bin_folder}:{os.environ['PATH']}"
        started = time.monotonic()
        for command in commands("Your own data"):
            if command.startswith("parrot push") and "HF_TOKEN" not in os.environ:
                print(f" skipped  {command}")
                continue
            before = time.monotonic()
            if re.match(r"parrot (view|(world )?serve) ", command):
                servers.enter_context(served(command, work, environment))
            else:
                run(command, work, environment)
            print(f"{time.monotonic() - before:8.1f} s  {command}", flush=True)
        print(f"{time.monotonic() - started:8.1f} s  in total")


def install_wheel(place: Path) -> Path:
    """Creates an environment with the wheel's parrot_jax; returns its `bin` folder.

    The libraries are those of the current environment; only setuptools is downloaded.
    """
    source = place / "source"
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.splitlines()
    for path in listed:
        (source / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / path, source / path, follow_symlinks=False)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    build = ["wheel", "--no-deps", "--wheel-dir", str(place)]
    subprocess.run([*pip, *build, str(source)], check=True)
    shutil.rmtree(source)
    environment = place / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    python = environment / "bin" / "python"
    (site,) = environment.glob("lib/python*/site-packages")
    # A path file adds the libraries, but not the checkout: nested path files are ignored.
    (site / "libraries.pth").write_text(sysconfig.get_path("purelib"))
    (wheel,) = place.glob("*.whl")
    install = ["install", "--no-deps", "--force-reinstall", str(wheel)]
    subprocess.run([*pip, "--python", str(python), *install], check=True)
    found = subprocess.run(
        [python, "-I", "-c", "import parrot_jax; print(parrot_jax.__file__)"],
        cwd=place, check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    assert found.startswith(str(site)), found
    return python.parent


def commands(title: str | None = None) -> list[str]:
    """The commands of the README's `bash` blocks without comments, in one section or in all."""
    text = (ROOT / "README.md").read_text()
    if title is not None:
        text = text.partition(f"\n## {title}")[2].partition("\n## ")[0]
    found = []
    for block in re.findall(r"^```bash\n(.*?)^```", text, re.M | re.S):
        # A command ends with its line, except after a backslash and inside quotes.
        for command in re.findall(r"(?:[^\n'\\]|'[^']*'|\\\n)+", block):
            without = re.sub(r"(^|\s)#\s.*", "", command.replace("\\\n", " ")).strip()
            if without:
                found.append(without)
    return found


def run(command: str, folder: Path, environment: Mapping[str, str]) -> None:
    """Runs a command line.

    Raises:
      SystemExit: It failed; the text has its output.
    """
    done = subprocess.run(
        ["bash", "-c", command], cwd=folder, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    if done.returncode or "Traceback" in done.stdout:
        raise SystemExit(f"{command}\n{done.stdout}\nexit code {done.returncode}")


@contextlib.contextmanager
def served(command: str, folder: Path, environment: Mapping[str, str]) -> Iterator[None]:
    """Starts a server, waits until it is ready, and ends it after the block."""
    process = subprocess.Popen(
        shlex.split(command), cwd=folder, env=environment, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        said = ""
        while not re.search(r"^serving |: open http", said, re.M):
            if not (line := process.stdout.readline()):
                raise SystemExit(f"{command}\n{said}exit code {process.wait()}")
            said += line
        yield
    finally:
        process.terminate()
        process.wait()


if __name__ == "__main__":
    main(tyro.cli(ReadmeConfig, description=__doc__))
