"""The Python API: lazy imports, `dir`, and the code of docs/python.md, which is run."""

import dataclasses
import re
import subprocess
import sys
from pathlib import Path

import pytest

import parrot_jax
from parrot_jax.core.errors import UserError
from parrot_jax.core.paths import as_path
from parrot_jax.loaded_run import Run

PAGE = Path(__file__).parents[1] / "docs" / "python.md"


def test_dir_shows_what_a_notebook_needs_and_every_name_loads() -> None:
    assert {"read_dialogues", "prepare", "train_model", "load_run", "collect_dialogues",
            "export_dataset", "compute_statistics"} <= set(dir(parrot_jax))  # fmt: skip
    for name in parrot_jax.__all__:
        assert getattr(parrot_jax, name).__doc__, name
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        parrot_jax.trian  # noqa: B018


def test_the_package_alone_loads_nothing_heavy() -> None:
    heavy = "{'jax', 'numpy', 'pydantic'} & set(sys.modules)"
    code = f"import sys, parrot_jax; dir(parrot_jax); print({heavy})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_arguments_that_mean_nothing_are_refused_with_what_is_allowed(tmp_path: Path) -> None:
    config = parrot_jax.small_example(tmp_path)
    with pytest.raises(UserError, match="the split is 'test'; it must be train or eval"):
        parrot_jax.prepare.__wrapped__(config.data, "test")
    with pytest.raises(UserError, match="the config is 'run.yaml'; it must be a TrainConfig: make"):
        parrot_jax.train_model.__wrapped__("run.yaml")
    with pytest.raises(UserError, match="the config is None; it must be a DataConfig"):
        parrot_jax.prepare.__wrapped__(None, "train")
    with pytest.raises(UserError, match="a path is None; give a text or a pathlib.Path"):
        as_path.__wrapped__(None)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match="has no config.yaml. It looks like a Hugging Face folder"):
        parrot_jax.load_run(tmp_path)
    with pytest.raises(UserError, match="no path was given; pass at least one file"):
        parrot_jax.compute_statistics([])
    (file,) = parrot_jax.compute_statistics(tmp_path / "exam.jsonl").files
    assert file.sessions == 4


@pytest.mark.slow
def test_the_page_of_the_docs_runs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text("utf-8"), re.M | re.S)
    assert len(blocks) >= 8
    names: dict[str, object] = {}
    for number, block in enumerate(blocks, 1):
        exec(compile(block, f"{PAGE.name}, block {number}", "exec"), names)
    shown = capsys.readouterr().out
    assert "20 3.0 {'max_turns': 20}" in shown
    assert "20 {}" in shown


def test_a_run_names_the_argument_that_is_out_of_range(tmp_path: Path) -> None:
    config = dataclasses.replace(parrot_jax.small_example(tmp_path), max_steps=0)
    parrot_jax.train_model(config)
    run = parrot_jax.load_run(config.out)
    history = [{"role": "user", "content": "Where is Oria?"}]
    with pytest.raises(UserError, match="max_tokens is 0; it must be a whole number, 1 or more"):
        run.generate([history], max_tokens=0)
    with pytest.raises(UserError, match="seed is -1; it must be a whole number, 0 or more"):
        run.generate([history], seed=-1)
    with pytest.raises(UserError, match="`messages` must be a list of messages, found null"):
        getattr(Run.prompt, "__wrapped__", Run.prompt)(run, None)
