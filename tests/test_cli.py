"""The command line: fast help; bad input gives one line and exit code 2."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from parrot_jax.cli import VERBS, main

Run = Callable[..., str]


@pytest.fixture
def fails(capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs `parrot`; checks for exit code 2; returns the only line on stderr."""

    def run(*arguments: object) -> str:
        capsys.readouterr()
        assert main([str(argument) for argument in arguments]) == 2
        error = capsys.readouterr().err
        assert error.startswith("parrot: ")
        assert error.count("\n") == 1, error
        return error

    return run


def test_help_loads_nothing_slow() -> None:
    check = (
        "import sys; from parrot_jax.cli import main; main({args!r}) ; "
        "slow = [m for m in ('jax', 'numpy', 'tokenizers', 'transformers') if m in sys.modules]; "
        "sys.exit(bool(slow))"
    )
    code = check.format(args=["--help"])
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb.words)
def test_the_help_of_a_verb_explains_its_keys_without_jax(verb: Any) -> None:
    code = (
        "import sys; from parrot_jax.cli import main\n"
        f"try: main({[*verb.words.split(), '--help']!r})\n"
        "except SystemExit as end: assert end.code == 0\n"
        "sys.exit('jax' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert f"parrot {verb.words}" in done.stdout


def test_unknown_verbs_name_the_near_miss(fails: Run) -> None:
    assert "did you mean `parrot train`?" in fails("trian")
    assert "did you mean `parrot data show`?" in fails("data", "shwo")


def test_a_missing_config_and_an_unknown_key(fails: Run, tiny_run: Path) -> None:
    assert "cannot read none.yaml: No such file" in fails("train", "none.yaml")
    assert "needs a config file" in fails("train")
    values = yaml.safe_load(tiny_run.read_text())
    values["optim"]["lrr"] = 1
    tiny_run.write_text(yaml.safe_dump(values))
    assert "unknown key `optim.lrr`; did you mean `optim.lr`?" in fails("train", tiny_run)


def test_data_that_cannot_train(fails: Run, tiny_run: Path, tmp_path: Path) -> None:
    missing = fails("train", tiny_run, "--data.sources.0.path", tmp_path / "none.jsonl")
    assert "none.jsonl" in missing
    broken = tmp_path / "broken.jsonl"
    broken.write_text('{"messages": "no list"}\nnot json\n')
    unusable = fails("train", tiny_run, "--data.sources.0.path", broken)
    assert "no usable dialogue in 2 rows" in unusable
    assert "broken.jsonl:1" in unusable
    single = tmp_path / "single.jsonl"
    messages = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]
    single.write_text(json.dumps({"messages": messages}) + "\n")
    dead = fails("train", tiny_run, "--data.sources.0.path", single, "--data.eval-fraction", "0")
    assert "no live tokens" in dead


def test_a_tokenizer_larger_than_the_models_vocabulary(fails: Run, tiny_run: Path) -> None:
    error = fails("train", tiny_run, "--model.vocab-size", "100")
    assert "has 340 ids, more than the 100 rows of the model (model.vocab_" in error


def test_a_run_folder_or_a_checkpoint_of_another_shape(
    fails: Run, tiny_run: Path, tmp_path: Path
) -> None:
    start = [str(tiny_run), "--max-steps", "0", "--data.eval-fraction", "0"]
    assert main(["train", *start]) == 0
    other = ("--data.eval-fraction", "0", "--model.intermediate-size", "96")
    assert "model.intermediate_size: 64 -> 96" in fails("train", tiny_run, *other)
    run = yaml.safe_load(tiny_run.read_text())["out"]
    error = fails("train", tiny_run, *other, "--out", tmp_path / "b", "--init-from", run)
    assert "are of another model: model.intermediate_size is 96, there 64" in error
    error = fails("train", tiny_run, "--out", tmp_path / "c", "--init-from", tmp_path / "none")
    assert "is not a run folder" in error


def test_an_output_that_cannot_be_made(
    fails: Run, write_dialogues: Any, trained_run: Path, tmp_path: Path
) -> None:
    """System errors that no command expects, here a file in place of a folder."""
    (tmp_path / "file").touch()
    out, dialogues = tmp_path / "file" / "out", write_dialogues(tmp_path / "d.jsonl", 3)
    for arguments in (
        ("configs", "copy", "chat_cpu", out),
        ("stats", dialogues, "--out", out),
        ("world", "write", "--out", out),
        ("convert", "flax-to-hf", trained_run, out),
    ):
        assert str(tmp_path / "file") in fails(*arguments)


@pytest.mark.slow
def test_a_full_disk(fails: Run, tiny_run: Path, small_disk: Path) -> None:
    start = ["train", str(tiny_run), "--max-steps", "4", "--data.eval-fraction", "0"]
    error = fails(*start, "--out", small_disk / "run")
    assert f"no room left on the disk for a checkpoint in {small_disk}" in error
    assert "it needs 484,236 bytes and" in error
    # With more room, the same command resumes.
    moved = Path(shutil.copytree(small_disk / "run", small_disk.parent / "moved"))
    assert main([*start, "--out", str(moved)]) == 0
    lines = (moved / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == list(range(1, 5))


@pytest.mark.slow
@pytest.mark.parametrize("limit", [1_000, 60_000])
def test_a_file_that_may_not_grow(limit: int, tiny_run: Path) -> None:
    """A quota that is exceeded while writing: in the first file, or in a checkpoint's thread."""
    code = (
        "import resource, sys; from parrot_jax.cli import main\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))\n"
        f"sys.exit(main(['train', {str(tiny_run)!r}]))"
    )
    # -B: otherwise Python would leave truncated bytecode files behind.
    done = subprocess.run([sys.executable, "-B", "-c", code], capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    (line,) = [text for text in done.stderr.splitlines() if text.startswith("parrot:")]
    assert "no room left on the disk for" in line


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not valid JSON"),
        ('{"messages": 1}', "expected a list of messages"),
        ('[{"role": "user"}]', "message 1 has no text"),
        ('[{"role": "assistant", "content": "x"}]', "message 1 has role 'assistant'"),
        ('[{"role": "user", "content": [{"type": "image_url"}]}]', "a part that is not text"),
        ('{"messages": [], "system": "be brief"}', '`system` is "be brief", which is not'),
        ('[{"role": "user", "content": "x"}]', "end the messages with an assistant message"),
    ],
)
def test_histories_that_cannot_be_continued(
    text: str, message: str, fails: Run, trained_run: Path, tmp_path: Path
) -> None:
    path = tmp_path / "history.json"
    path.write_text(text)
    assert message in fails("generate", trained_run, "--messages", path)


def test_generate_gives_the_next_question(
    trained_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    history = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "bye"}]
    one, many = tmp_path / "one.json", tmp_path / "many.jsonl"
    one.write_text(json.dumps(history))
    many.write_text(f"{json.dumps({'messages': history})}\n\n{json.dumps([])}\n")
    options = ["--max-tokens", "8"]
    capsys.readouterr()
    assert main(["generate", str(trained_run), "--messages", str(one), *options]) == 0
    question = capsys.readouterr().out.strip()
    assert main(["generate", str(trained_run), "--messages", str(many), *options]) == 0
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert first["text"] == question
    assert first["finish_reason"] in ("stop", "length")
    assert second["num_tokens"] <= 8


def test_show_and_prepare_print_what_they_found(
    tiny_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["data", "show", str(tiny_run), "--index", "1"]) == 0
    shown = capsys.readouterr().out
    assert "window 1 of 1" in shown
    assert "<s>USER:" in shown
    assert main(["data", "prepare", str(tiny_run)]) == 0
    printed = capsys.readouterr().out
    for name in ("sessions", "windows", "live tokens", "share of padding", "sessions per step of"):
        assert name in printed
