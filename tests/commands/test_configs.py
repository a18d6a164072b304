"""Listing, copying and finding shipped configs; saved `--help` output is a config."""

import importlib
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from parrot_jax.cli import VERBS, Verb, main
from parrot_jax.commands.configs import KINDS, read_header
from parrot_jax.core.config import config_from_dict, load_config
from parrot_jax.core.errors import UserError
from parrot_jax.core.shipped import FOLDER, shipped_configs, shipped_file

Said = Callable[..., str]
TAKES_CONFIG = [verb for verb in VERBS if verb.argument == "CONFIG"]


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Said:
    """Runs `parrot`; returns its output, or its one-line error."""

    def run(*arguments: object, status: int = 0) -> str:
        capsys.readouterr()
        assert main([str(argument) for argument in arguments]) == status
        out, err = capsys.readouterr()
        if status:
            assert err.startswith("parrot: ")
            assert err.count("\n") == 1, err
            return err
        return out

    return run


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory outside of a checkout."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_list_has_each_config_with_its_purpose_and_hardware(said: Said) -> None:
    printed = said("configs")
    assert len(shipped_configs()) == len(list(FOLDER.glob("*/*.yaml"))) > 25
    for path in shipped_configs():
        assert f"\n  {path}\n" in printed
    assert "parrot stats --judge CONFIG" in printed
    assert "checks every text for `parrot collect export RUN --moderation`.\n" in printed
    # A part of the header may span lines.
    assert "1 GB of memory and about 10 GB of disk" in printed


@pytest.mark.parametrize("path", shipped_configs())
def test_every_header_says_purpose_hardware_and_a_command_with_its_path(path: str) -> None:
    header = read_header(path)
    assert {"Purpose", "Hardware", "Command"} <= header.keys()
    assert path in header["Command"]
    assert KINDS[path.split("/")[1]].command.split(" --")[0] in header["Command"]


@pytest.mark.parametrize(
    "name",
    ["configs/train/ask_wildchat_cpu.yaml", "train/ask_wildchat_cpu", "ask_wildchat_cpu"],
)
def test_a_copy_is_the_shipped_file(name: str, said: Said, elsewhere: Path) -> None:
    shipped = (FOLDER / "train" / "ask_wildchat_cpu.yaml").read_bytes()
    assert "parrot train ask_wildchat_cpu.yaml" in said("configs", "copy", name)
    assert Path("ask_wildchat_cpu.yaml").read_bytes() == shipped
    said("configs", "copy", name, "mine/")
    said("configs", "copy", name, "mine/b.yaml")
    assert {p.name: p.read_bytes() for p in Path("mine").iterdir()} == {
        "ask_wildchat_cpu.yaml": shipped,
        "b.yaml": shipped,
    }


def test_a_copy_replaces_nothing_and_names_the_near_one(said: Said, elsewhere: Path) -> None:
    mine = Path("a.yaml")
    mine.write_text("mine")
    assert "a.yaml already exists" in said("configs", "copy", "self_chat", "a.yaml", status=2)
    assert mine.read_text() == "mine"
    assert "did you mean configs/train/ask_wildchat_cpu.yaml?" in said(
        "configs", "copy", "ask_wildcaht_cpu", status=2
    )
    assert "no shipped config is named ../prices" in said("configs", "copy", "../prices", status=2)


def test_a_shipped_path_is_found_in_any_folder_and_yours_comes_first(
    elsewhere: Path, said: Said
) -> None:
    from parrot_jax.collect.collect_config import CollectConfig
    from parrot_jax.collect.prices import load_prices
    from parrot_jax.collect.prompts import load_prompts

    config = load_config(CollectConfig, "configs/collect/self_chat.yaml")
    assert config.writer is not None
    # Files that it names are found too.
    assert config.writer.model in load_prices(str(config.prices))
    assert load_prompts(config)["writer"].text
    Path("configs/collect").mkdir(parents=True)
    Path("configs/collect/self_chat.yaml").write_text("mine: 1\n")
    with pytest.raises(UserError, match="unknown key `mine`"):
        load_config(CollectConfig, "configs/collect/self_chat.yaml")
    for path in ("configs/../cli.py", "configs/train", "/configs/prices.yaml", "prices.yaml"):
        assert shipped_file(path) is None


SPEAKER = {"base_url": "http://127.0.0.1:1/v1", "model": "a"}
SOURCE = {"kind": "messages", "path": "a.jsonl"}
LEAST: dict[str, dict[str, Any]] = {
    "train": {
        "task": "ask", "out": "a", "model": {},
        "data": {"sources": [SOURCE], "tokenizer": "t", "mask": {"loss_roles": ["user"]}},
    },
    "collect": {"out": "a", "beginnings": [SOURCE], "asker": SPEAKER, "answerer": SPEAKER},
    "data": {"out": "a", "sources": [SOURCE]},
    # A copy, since a block that is required is filled in key by key.
    "answer": {"out": "a", "benchmark": "q.jsonl", "answerer": {**SPEAKER}},
    "judge": {"out": "a", "benchmark": "q.jsonl", "answers": ["b"], "judge": {**SPEAKER}},
    "askers": {**SPEAKER},
    "build": {
        "out": "a", "name": "b", "benchmark": "q.jsonl", "asker": {**SPEAKER},
        "answerer": {**SPEAKER},
    },
    "select": {"out": "a", "sources": [SOURCE]},
    "negatives": {"out": "a", "sources": [SOURCE], "generator": {**SPEAKER}},
}  # fmt: skip
"""Required keys of each kind of config."""


def leaves(values: Any) -> Iterator[tuple[str, Any]]:
    """Yields each leaf key of a minimal config with its value; a speaker is one value."""
    if isinstance(values, dict):
        for key, value in values.items():
            inner = [] if value is SPEAKER else list(leaves(value))
            yield from inner or [(key, value)]
    elif isinstance(values, list) and isinstance(values[0], dict):
        yield from leaves(values[0])


@pytest.mark.parametrize("verb", TAKES_CONFIG, ids=lambda verb: verb.words)
def test_a_help_that_was_saved_is_a_config_once_it_is_filled_in(
    verb: Verb, said: Said, tmp_path: Path
) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(said(*verb.words.split(), "--help"))
    # As saved, the error is one line that names all missing values and nothing else.
    line = said(*verb.words.split(), path, status=2)
    assert line.count("has no value") == line.count("; ") + 1

    config_type = importlib.import_module(f"parrot_jax.commands.{verb.module}").Config
    kinds = [name for name in LEAST if issubclass(config_type, KINDS[name].type())]
    # `data show` takes only the key `data` of a training config.
    least = LEAST[kinds[0]] if kinds else {"data": LEAST["train"]["data"]}
    text = path.read_text()
    for key, value in leaves(least):
        if value != {}:
            text = re.sub(rf"^([ -]*{key}:).*$", rf"\1 {json.dumps(value)}", text, flags=re.M)
    path.write_text(text)
    # It has only defaults, and works with every command that takes such a config.
    for of in (config_type, *(KINDS[kind].type() for kind in kinds)):
        assert load_config(of, path) == config_from_dict(of, least, where="least")


def test_a_config_for_another_verb_says_for_which(said: Said, tmp_path: Path) -> None:
    train, collect = "configs/train/ask_wildchat_cpu.yaml", "configs/collect/parrot_40k.yaml"
    assert "It is a config for `parrot train`." in said("collect", train, status=2)
    assert "It is a config for `parrot collect`." in said("train", collect, status=2)
    assert "for `parrot train`." in said("data", "clean", train, status=2)
    judge = said("train", "configs/stats/judge_gpt4.yaml", status=2)
    assert "for `parrot stats --judge`" in judge
    # A wrong value does not make it a config for another command.
    own = tmp_path / "c.yaml"
    own.write_text((FOLDER / "train" / "ask_wildchat_cpu.yaml").read_text() + "max_steps: x\n")
    assert "It is a config" not in said("train", own, status=2)


def test_what_is_no_config_says_what_to_give(said: Said, tmp_path: Path) -> None:
    assert f"Name a file, such as {tmp_path}/config.yaml." in said("train", tmp_path, status=2)
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"messages": []}\n{"messages": []}\n')
    assert "CONFIG is a YAML file; `parrot configs` lists examples." in said(
        "train", rows, status=2
    )
    assert "Did you mean configs/collect/parrot_40k.yaml?" in said(
        "collect", "parrot_40.yaml", status=2
    )
    assert "did you mean `parrot collect status`?" in said("collect", "statsu", tmp_path, status=2)
    assert "did you mean `parrot configs copy`?" in said("configs", "cpoy", "a", status=2)
