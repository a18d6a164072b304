"""Weights, tokenizer and config must match; the error for a mismatch names both."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
import yaml

from parrot_jax.cli import main
from parrot_jax.data.tokenizers import check_rows, load_tokenizer
from parrot_jax.model.model_config import ModelConfig
from parrot_jax.weights.exports import RECORD

pytestmark = pytest.mark.slow

WriteHf = Callable[..., Path]
Run = Callable[..., str]

# No evaluation and no steps: the tests only check whether a run starts.
NO_EVAL = ("--data.eval-fraction", "0", "--max-steps", "0")


@pytest.fixture
def parrot(capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command, checks its exit code and returns its output."""

    def run(*arguments: object, code: int = 0) -> str:
        capsys.readouterr()
        assert main([str(argument) for argument in arguments]) == code
        out, err = capsys.readouterr()
        assert err.count("\n") <= 1, err
        return err if code else out

    return run


@pytest.fixture(scope="module")
def other_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """340 pieces, as many as in `tiny_tokenizer`, but different ones."""
    folder = tmp_path_factory.mktemp("other")
    (folder / "corpus.txt").write_text("lorem ipsum dolor sit amet consectetur elit sed do\n" * 40)
    sentencepiece.SentencePieceTrainer.Train(
        input=str(folder / "corpus.txt"), model_prefix=str(folder / "tokenizer"), vocab_size=340,
        model_type="bpe", byte_fallback=True, normalization_rule_name="identity",
        remove_extra_whitespaces=False, minloglevel=2, hard_vocab_limit=False,
    )  # fmt: skip
    return folder / "tokenizer.model"


@pytest.fixture
def model(tiny_run: Path) -> ModelConfig:
    return ModelConfig(**yaml.safe_load(tiny_run.read_text())["model"])


@pytest.fixture
def imported(write_hf: WriteHf, model: ModelConfig, tiny_tokenizer: Path, parrot: Run,
             tmp_path: Path) -> Path:  # fmt: skip
    source = write_hf(tmp_path / "hf", model)
    shutil.copy(tiny_tokenizer, source)
    parrot("convert", "hf-to-flax", source, tmp_path / "flax")
    return tmp_path / "flax"


def test_an_import_says_which_tokenizer_belongs_to_it(imported: Path, tiny_tokenizer: Path) -> None:
    fingerprint = load_tokenizer(tiny_tokenizer).fingerprint
    assert yaml.safe_load((imported / "config.yaml").read_text())["tokenizer"] == fingerprint
    assert load_tokenizer(imported / "tokenizer").fingerprint == fingerprint
    made = json.loads((imported / "checkpoints" / "0" / "_CHECKPOINT_METADATA").read_text())
    assert made["custom_metadata"]["tokenizer"] == fingerprint
    assert made["custom_metadata"]["model"]["hidden_size"] == 32


def test_training_with_another_tokenizer_is_refused_unless_it_is_meant(
    imported: Path, other_tokenizer: Path, tiny_tokenizer: Path, tiny_run: Path, parrot: Run
) -> None:
    other = ["--init-from", imported, *NO_EVAL, "--data.tokenizer", other_tokenizer]
    error = parrot("train", tiny_run, *other, code=2)
    ids = [load_tokenizer(path).fingerprint[:12] for path in (tiny_tokenizer, other_tokenizer)]
    assert f"the weights in {imported} were made with another tokenizer ({ids[0]})" in error
    assert f"data.tokenizer {other_tokenizer} ({ids[1]}, " in error
    assert (
        f"set data.tokenizer: {imported}/tokenizer, or, if the change is intended, set new_tok"
        in error
    )
    assert not list((tiny_run.parent / "run").iterdir())
    assert "another tokenizer" in parrot("train", tiny_run, *other, "--new-tokenizer")
    shutil.rmtree(tiny_run.parent / "run")
    parrot("train", tiny_run, "--init-from", imported, *NO_EVAL)


def test_weights_whose_tokenizer_cannot_be_read_ask_whether_it_is_theirs(
    write_hf: WriteHf, model: ModelConfig, tiny_run: Path, parrot: Run, tmp_path: Path
) -> None:
    source = write_hf(tmp_path / "hf", model)
    (source / "tokenizer.json").write_text('{"model": {"type": "BPE"}}')
    (source / "tokenizer_config.json").write_text("{}")
    assert "no tokenizer converted: " in parrot("convert", "hf-to-flax", source, tmp_path / "flax")
    start = ["train", tiny_run, "--init-from", tmp_path / "flax", *NO_EVAL]
    error = parrot(*start, code=2)
    assert "does not record the tokenizer of its weights" in error
    parrot(*start, "--new-tokenizer")


def test_many_more_rows_than_ids_are_of_another_model_and_some_are_padding(
    write_hf: WriteHf, model: ModelConfig, tiny_tokenizer: Path, parrot: Run, tmp_path: Path,
    tiny_run: Path,
) -> None:  # fmt: skip
    for rows, said in (
        (404, "64 of the 404 rows of the embedding are padding, beyond the 340 ids"),
        (5400, "no tokenizer converted: the tokenizer"),
    ):
        source = write_hf(tmp_path / f"hf{rows}", replace(model, vocab_size=rows))
        shutil.copy(tiny_tokenizer, source)
        assert said in parrot("convert", "hf-to-flax", source, tmp_path / f"flax{rows}")
    assert not (tmp_path / "flax5400" / "tokenizer").exists()
    assert (tmp_path / "flax404" / "tokenizer").exists()
    few = ["train", tiny_run, "--model.vocab-size", "5400", *NO_EVAL]
    error = parrot(*few, code=2)
    assert "has 340 ids, but the model 5,400 rows" in error
    parrot(*few, "--new-tokenizer")
    # LLaMA 2, a padded vocabulary, and LLaMA 3.
    llama = load_tokenizer(tiny_tokenizer)
    llama.vocab_size = 32_000
    assert check_rows(llama, 32_000, "t") is None
    assert check_rows(llama, 32_064, "t") == (
        "64 of the 32,064 rows of the embedding are padding, beyond the 32,000 ids of the tokenizer"
    )
    with pytest.raises(Exception, match="32,000 ids, but the model 128,256 rows"):
        check_rows(llama, 128_256, "t")


def test_a_run_goes_on_with_its_own_tokenizer_alone(
    tiny_run: Path, tiny_tokenizer: Path, other_tokenizer: Path, parrot: Run, tmp_path: Path
) -> None:
    values = yaml.safe_load(tiny_run.read_text())
    values["data"]["tokenizer"] = str(shutil.copy(tiny_tokenizer, tmp_path / "tokenizer.model"))
    tiny_run.write_text(yaml.safe_dump(values))
    parrot("train", tiny_run, *NO_EVAL)
    shutil.copy(other_tokenizer, tmp_path / "tokenizer.model")
    error = parrot("train", tiny_run, *NO_EVAL[:2], "--max-steps", "1", code=2)
    assert "were made with tokenizer" in error
    # A replaced tokenizer in the run folder is rejected too.
    folder = tmp_path / "run" / "tokenizer"
    load_tokenizer(other_tokenizer).save(folder)
    (tmp_path / "m.json").write_text('[{"role": "user", "content": "a"}]')
    for command in (
        ["generate", tmp_path / "run", "--messages", tmp_path / "m.json"],
        ["serve", tmp_path / "run", "--port", "0"],
        ["convert", "flax-to-hf", tmp_path / "run", tmp_path / "out"],
    ):
        assert "were made with tokenizer" in parrot(*command, code=2)
    assert not (tmp_path / "out").exists()


def test_a_config_that_is_not_of_the_weights_is_refused(
    imported: Path, parrot: Run, tmp_path: Path
) -> None:
    path = imported / "config.yaml"
    values = yaml.safe_load(path.read_text())
    values["model"]["rope_theta"] = 500000.0
    path.write_text(yaml.safe_dump(values))
    place = f"{imported}/checkpoints/0"
    said = f"{path} does not match the weights in {place}: model.rope_theta is 500000.0"
    assert said in parrot("convert", "flax-to-hf", imported, tmp_path / "out", code=2)
    assert "rope_theta" in parrot("convert", "verify", tmp_path / "hf", imported, code=2)


def test_verify_compares_the_tokenizers(
    imported: Path, other_tokenizer: Path, parrot: Run, tmp_path: Path
) -> None:
    assert "the tokenizers are the same" in parrot("convert", "verify", tmp_path / "hf", imported)
    parrot("convert", "flax-to-hf", imported, tmp_path / "out")
    assert "the tokenizers are the same" in parrot("convert", "verify", tmp_path / "out", imported)
    shutil.copy(other_tokenizer, tmp_path / "hf" / "tokenizer.model")
    error = parrot("convert", "verify", tmp_path / "hf", imported, code=1)
    assert "the tokenizers of" in error


def test_an_added_token_and_the_ids_that_end_a_text_come_back(
    write_hf: WriteHf, model: ModelConfig, tiny_tokenizer: Path, parrot: Run, tmp_path: Path
) -> None:
    ids: dict[str, Any] = {"bos_token_id": 1, "eos_token_id": [2, 340]}
    source = write_hf(tmp_path / "hf", replace(model, vocab_size=341), **ids)
    shutil.copy(tiny_tokenizer, source)
    (source / "added_tokens.json").write_text('{"<|im_end|>": 340, "<late>": 341}')
    said = parrot("convert", "hf-to-flax", source, tmp_path / "flax")
    assert "not converted: '<late>' has the id 341, but the model has 341 rows" in said
    parrot("convert", "flax-to-hf", tmp_path / "flax", tmp_path / "out")
    library = json.loads((tmp_path / "out" / "tokenizer.json").read_text())
    assert [t["id"] for t in library["added_tokens"] if t["content"] == "<|im_end|>"] == [340]
    for name in ("config.json", "generation_config.json"):
        values = json.loads((tmp_path / "out" / name).read_text())
        assert {key: values[key] for key in ids} == ids


def test_ids_that_the_tokenizer_does_not_have_are_said(
    write_hf: WriteHf, model: ModelConfig, tiny_tokenizer: Path, parrot: Run, tmp_path: Path
) -> None:
    source = write_hf(tmp_path / "hf", model, bos_token_id=0, eos_token_id=1)
    shutil.copy(tiny_tokenizer, source)
    said = parrot("convert", "hf-to-flax", source, tmp_path / "flax")
    assert "config.json has eos_token_id 1, the tokenizer has 2 (</s>)" in said
    assert "config.json has bos_token_id 0, the tokenizer has 1 (<s>)" in said


def takers(out: Path) -> list[tuple[object, ...]]:
    """Returns the commands that take an export."""
    return [
        ("push", out, "owl/asker"),
        ("serve", out, "--backend", "vllm", "--port", "0"),
        ("convert", "hf-to-flax", out, out.parent / "flax"),
    ]


def change_json(path: Path, change: Callable[[Any], Any]) -> None:
    path.write_text(json.dumps(change(json.loads(path.read_text())), indent=2))


def without_new_hashes(record: dict[str, Any]) -> dict[str, Any]:
    """Returns the record as in earlier versions, with the hashes of the shards only."""
    return record | {"sha256": {name: record["sha256"][name] for name in record["shards"]}}


def swap_two_ids(tokenizer: dict[str, Any]) -> dict[str, Any]:
    vocab = tokenizer["model"]["vocab"]
    one, two = list(vocab)[300:302]
    vocab[one], vocab[two] = vocab[two], vocab[one]
    return tokenizer


def test_an_export_with_another_tokenizer_is_taken_by_nobody(
    trained_run: Path, other_tokenizer: Path, parrot: Run, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    parrot("convert", "flax-to-hf", trained_run, out)
    written = (out / "tokenizer.json").read_text()
    for older in (False, True):
        if older:
            change_json(out / RECORD, without_new_hashes)
        said = f"the weights in {out} were exported with" if older else f"{out}/tokenizer"
        load_tokenizer(other_tokenizer).save(out)
        for command in takers(out):
            error = parrot(*command, code=2)
            assert said in error or f"the weights in {out} were exported with" in error
        parrot("convert", "flax-to-hf", trained_run, out)  # restores the right files
        assert (out / "tokenizer.json").read_text() == written
        if older:
            change_json(out / RECORD, without_new_hashes)
        change_json(out / "tokenizer.json", swap_two_ids)
        for command in takers(out):
            error = parrot(*command, code=2)
            assert said in error or f"the weights in {out} were exported with" in error
        (out / "tokenizer.json").write_text(written)
    assert not (tmp_path / "flax").exists()


def test_an_export_whose_tokenizer_cannot_be_read_is_not_imported_without_it(
    trained_run: Path, parrot: Run, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    parrot("convert", "flax-to-hf", trained_run, out)
    change_json(out / RECORD, without_new_hashes)
    (out / "tokenizer.json").write_text('{"model": {"type": "BPE"}}')
    error = parrot("convert", "hf-to-flax", out, tmp_path / "flax", code=2)
    assert f"{out} was exported with the tokenizer" in error
    assert "which cannot be read" in error
    assert not (tmp_path / "flax").exists()


def test_an_export_with_another_theta_is_taken_by_nobody(
    trained_run: Path, parrot: Run, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    parrot("convert", "flax-to-hf", trained_run, out)
    change_json(out / "config.json", lambda config: config | {"rope_theta": 500000.0})
    for command in takers(out):
        assert f"{out}/config.json is damaged" in parrot(*command, code=2)
    # Exports of earlier versions have no hash of config.json.
    change_json(out / RECORD, without_new_hashes)
    parrot("convert", "hf-to-flax", out, tmp_path / "flax")


@pytest.mark.parametrize("record", [{}, [], None, {"shards": 5}])
def test_an_export_with_a_damaged_record_is_taken_by_nobody(
    record: Any, trained_run: Path, parrot: Run, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    parrot("convert", "flax-to-hf", trained_run, out)
    (out / RECORD).write_text(json.dumps(record))
    for command in takers(out):
        error = parrot(*command, code=2)
        assert f"{out}/{RECORD}, the record of the export, is damaged" in error
    assert not (tmp_path / "flax").exists()
