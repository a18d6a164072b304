"""The README's commands: each can be parsed, and all are run on small files."""

import importlib.util
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from parrot_jax.cli import parse
from parrot_jax.serve.background import BackgroundServer

from .weights.hub_server import TOKEN, Hub

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = ROOT / "scripts" / "bench" / "readme.py"


def load_script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("readme", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["readme"] = module  # dataclasses look up their module there
    spec.loader.exec_module(module)
    return module


COMMANDS: list[str] = load_script().commands()
PARROT = [command for command in COMMANDS if re.search(r"(^|\s)parrot [a-z]", command)]


def test_the_commands_are_found_with_their_continued_lines() -> None:
    assert "make quickstart" in COMMANDS
    assert "parrot collect status runs/small" in COMMANDS
    (ask,) = [command for command in COMMANDS if "--out runs/ask " in command]
    assert shlex.split(ask)[-4:] == [
        "--data.sources.0.path", "dialogues.jsonl", "--data.tokenizer", "tokenizer.model"
    ]  # fmt: skip
    (history,) = [command for command in COMMANDS if "galactic" in command]
    assert history.endswith("> history.json")
    assert len(PARROT) > 20


@pytest.mark.parametrize("command", PARROT)
def test_every_command_can_be_parsed_in_an_empty_folder(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    row = '{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}'
    Path("dialogues.jsonl").write_text(row + "\n")
    words = shlex.split(command)
    module, config = parse(words[words.index("parrot") + 1 :])
    # A verb may accept other arguments too, as in `data show FILE`.
    assert isinstance(config, module.Config) or type(config).__module__ == module.__name__


def test_the_targets_scripts_and_pages_that_it_names_exist() -> None:
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.M)
    named = {word for c in COMMANDS for word in re.findall(r"\bmake ([\w-]+)", c)}
    assert named <= {*targets}
    readme = (ROOT / "README.md").read_text()
    for path in re.findall(r"\b(?:scripts|configs|docs)/[\w/.]+\.\w+", readme):
        assert (ROOT / path).is_file(), path


@pytest.mark.nightly
def test_the_whole_way_from_a_wheel_with_files_of_ones_own(
    shared_data: Path, llama_tokenizer_model: Path, tmp_path: Path
) -> None:
    rows = (shared_data / "dialogues" / "wildchat.jsonl").read_text().splitlines()[:120]
    (tmp_path / "mine.jsonl").write_text("\n".join(rows))
    hub = Hub()
    with BackgroundServer(hub.app) as server:
        environment = os.environ | {
            "HF_ENDPOINT": server.url.removesuffix("/v1"),
            "HF_TOKEN": TOKEN,
            "HF_HOME": str(tmp_path / "home"),
            "HF_HUB_DISABLE_XET": "1",
        }
        arguments = ["--data", str(tmp_path / "mine.jsonl")]
        done = subprocess.run(
            [sys.executable, SCRIPT, *arguments, "--tokenizer", str(llama_tokenizer_model)],
            env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
    assert done.returncode == 0, done.stdout
    assert {*hub.repositories} == {"yourname/parrot-chat", "datasets/yourname/parrot-talks"}
