"""The README's commands: each can be parsed, and its whole way is gone with files of one's own."""

import contextlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from parrot_jax.cli import parse
from parrot_jax.serve.background import BackgroundServer

from .weights.hub_server import TOKEN, Hub

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()


def commands(text: str) -> list[str]:
    """The commands of the `bash` blocks, without comments, continued lines joined."""
    found: list[str] = []
    for block in re.findall(r"^```bash\n(.*?)^```", text, re.M | re.S):
        # A quoted text may go over lines, a command over lines that end with a backslash.
        for command in re.findall(r"(?:[^\n'\\]|'[^']*'|\\\n)+", block):
            words = shlex.split(command, comments=True)
            if words:
                found.append(re.sub(r"\s+#\s.*", "", command.replace("\\\n", " ")).strip())
    return found


def section(title: str) -> str:
    return README.partition(f"## {title}")[2].partition("\n## ")[0]


COMMANDS = commands(README)
PARROT = [c for c in COMMANDS if re.search(r"(^|\s)parrot ", c)]


def test_the_readme_has_the_whole_way() -> None:
    verbs = {" ".join(c.split()[1:3]) for c in PARROT if c.startswith("parrot ")}
    assert {"collect plan", "collect status", "collect export", "convert hf-to-flax"} <= verbs
    assert len(PARROT) > 20


@pytest.mark.parametrize("command", PARROT)
def test_every_command_of_the_readme_can_be_parsed(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # no checkout
    words = shlex.split(command)
    module, config = parse(words[words.index("parrot") + 1 :])
    assert isinstance(config, module.Config)


def test_the_targets_scripts_and_pages_that_it_names_exist() -> None:
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.M)
    named = {word for c in COMMANDS for word in re.findall(r"\bmake ([\w-]+)", c)}
    assert named <= {*targets}
    for path in re.findall(r"\b(?:scripts|configs|docs)/[\w/.]+\.\w+", README):
        assert (ROOT / path).is_file(), path


@pytest.fixture
def wheel_environment(tmp_path: Path) -> Path:
    """An environment in which the package is what its wheel holds, away from the checkout."""
    copy = tmp_path / "source"
    names = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.split("\n")
    for name in filter(None, names):
        if (ROOT / name).exists():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, copy / name, follow_symlinks=False)
    pip = [sys.executable, "-m", "pip"]
    build = [*pip, "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", str(tmp_path)]
    subprocess.run([*build, str(copy)], check=True)
    shutil.rmtree(copy)
    (wheel,) = tmp_path.glob("*.whl")
    environment = tmp_path / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    site = environment / f"lib/python{sys.version_info[0]}.{sys.version_info[1]}/site-packages"
    # The libraries are those of this environment; it links to the checkout, which a path does not.
    (site / "libraries.pth").write_text(sysconfig.get_path("purelib"))
    install = [*pip, "--python", str(environment / "bin/python"), "install", "--quiet", "--no-deps"]
    subprocess.run([*install, "--force-reinstall", str(wheel)], check=True)
    return environment


@pytest.fixture
def shell(wheel_environment: Path, tmp_path: Path) -> Iterator[Callable[[str], str]]:
    """Runs a command line in a folder of its own; a server until the end of the test."""
    folder = tmp_path / "work"
    folder.mkdir()
    hub = Hub()
    with BackgroundServer(hub.app) as server, contextlib.ExitStack() as servers:
        environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "XLA_FLAGS")}
        environment |= {
            "PATH": f"{wheel_environment / 'bin'}:{os.environ['PATH']}",
            "HF_ENDPOINT": server.url.removesuffix("/v1"),
            "HF_TOKEN": TOKEN,
            "HF_HOME": str(tmp_path / "home"),
            "HF_HUB_DISABLE_XET": "1",
        }

        def run(command: str) -> str:
            kwargs = {"cwd": folder, "env": environment, "text": True}
            if re.match(r"parrot (world )?serve", command):
                process = subprocess.Popen(shlex.split(command), stdout=subprocess.PIPE, **kwargs)
                servers.callback(process.wait)
                servers.callback(process.terminate)
                assert process.stdout is not None
                line = process.stdout.readline()
                assert line.startswith("serving "), line
                return line
            done = subprocess.run(
                ["bash", "-c", command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **kwargs
            )
            assert done.returncode == 0, f"$ {command}\n{done.stdout}"
            return done.stdout

        yield run
    assert {*hub.repositories} == {"yourname/parrot-chat", "datasets/yourname/parrot-talks"}


@pytest.mark.nightly
def test_the_way_of_the_readme_from_a_wheel_with_files_of_ones_own(
    shell: Callable[[str], str], shared_data: Path, llama_tokenizer_model: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "work"
    shutil.copy(llama_tokenizer_model, folder / "tokenizer.model")
    rows = (shared_data / "dialogues" / "wildchat.jsonl").read_text().splitlines()[:60]
    (folder / "dialogues.jsonl").write_text("\n".join(rows))
    assert str(tmp_path) in shell("python -c 'import parrot_jax; print(parrot_jax.__file__)'")
    way = commands(section("Your own data"))
    assert len(way) > 15
    for command in way:
        # The whole is minutes longer, and nothing else.
        short = command + " --max-steps 8" if command.startswith("parrot train") else command
        said = shell(short)
        assert "Traceback" not in said
    (summary,) = folder.glob("runs/small/summary.json")
    assert json.loads(summary.read_text())["exported"] > 0
