"""Conversion round trips are bit-exact; damaged or unfinished output never loads."""

import json
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
import yaml
from safetensors.numpy import load_file

from parrot_jax.cli import main
from parrot_jax.core.errors import UserError
from parrot_jax.model.families import FAMILIES, num_parameters
from parrot_jax.model.frequencies import frequencies
from parrot_jax.model.model_config import ModelConfig
from parrot_jax.weights.exports import RECORD
from parrot_jax.weights.hf_folder import HfFolder
from parrot_jax.weights.model_folder import load_params

Arrays = dict[str, np.ndarray]
RandomTensors = Callable[..., Arrays]
WriteHf = Callable[..., Path]

DOWN = "model.layers.1.mlp.down_proj.weight"


def parrot(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


def all_tensors(folder: Path) -> Arrays:
    found: Arrays = {}
    for file in sorted(folder.glob("*.safetensors")):
        found |= load_file(file)
    return found


def assert_same_bits(found: Arrays, wanted: Arrays) -> None:
    assert found.keys() == wanted.keys()
    for name, array in wanted.items():
        assert found[name].dtype == array.dtype
        assert found[name].tobytes() == array.tobytes(), name


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Callable[[Path], str]:
    """Imports an invalid folder; returns the error line and checks that nothing loads."""

    def run(source: Path) -> str:
        assert parrot("convert", "hf-to-flax", source, tmp_path / "refused") == 2
        error = capsys.readouterr().err
        assert error.startswith("parrot: ")
        assert error.count("\n") == 1, error
        with pytest.raises(UserError, match="not a run folder"):
            load_params(tmp_path / "refused")
        return error

    return run


# ---- round trips --------------------------------------------------------------------------------


def test_there_and_back_is_the_same_to_the_bit(hf_folder: Path, tmp_path: Path) -> None:
    assert parrot("convert", "hf-to-flax", hf_folder, tmp_path / "flax") == 0
    assert parrot("convert", "flax-to-hf", tmp_path / "flax", tmp_path / "back") == 0
    assert_same_bits(all_tensors(tmp_path / "back"), all_tensors(hf_folder))
    written, read = (HfFolder(folder).config for folder in (tmp_path / "back", hf_folder))
    assert written == read
    assert parrot("convert", "verify", tmp_path / "back", tmp_path / "flax") == 0


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_goes_there_and_back_with_a_padded_vocabulary(
    family: str, tmp_path: Path, write_hf: WriteHf, small: ModelConfig,
    random_tensors: RandomTensors,
) -> None:  # fmt: skip
    for tied in (False, True):
        model = replace(
            small, family=family, tie_word_embeddings=tied, vocab_size=384, num_hidden_layers=1
        )
        arrays = random_tensors(model)
        assert ("lm_head.weight" in arrays) != tied
        assert arrays["model.embed_tokens.weight"].shape == (384, 32)  # the tokenizer has 340
        folder = tmp_path / str(tied)
        source = write_hf(folder / "hf", model, arrays=arrays)
        assert parrot("convert", "hf-to-flax", source, folder / "flax") == 0
        params = load_params(folder / "flax")
        assert params["embed"].shape == (384, 32)
        assert ("lm_head" in params) != tied
        assert parrot("convert", "flax-to-hf", folder / "flax", folder / "back") == 0
        assert_same_bits(all_tensors(folder / "back"), arrays)
        assert HfFolder(folder / "back").config == HfFolder(source).config


def test_float16_goes_through_float32_exactly(
    tmp_path: Path, write_hf: WriteHf, small: ModelConfig, random_tensors: RandomTensors
) -> None:
    source = write_hf(tmp_path / "hf", arrays=random_tensors(small, "float16"))
    assert parrot("convert", "hf-to-flax", source, tmp_path / "flax", "--dtype", "float32") == 0
    command = ("convert", "flax-to-hf", tmp_path / "flax", tmp_path / "back")
    assert parrot(*command, "--dtype", "float16") == 0
    assert_same_bits(all_tensors(tmp_path / "back"), all_tensors(source))


def test_weights_are_loaded_in_float32_whatever_they_are_stored_in(
    hf_folder: Path, tmp_path: Path
) -> None:
    parrot("convert", "hf-to-flax", hf_folder, tmp_path / "flax")
    down = load_params(tmp_path / "flax")["layers"]["mlp"]["down"]
    assert down.dtype == jnp.float32
    np.testing.assert_array_equal(down[1], all_tensors(hf_folder)[DOWN].astype(np.float32).T)


def test_weights_may_begin_at_any_byte(hf_folder: Path, tmp_path: Path) -> None:
    # Writers pad the header to 8 bytes, but the format does not require it.
    for file in hf_folder.glob("*.safetensors"):
        content = file.read_bytes()
        length = int.from_bytes(content[:8], "little")
        header, body = content[8 : 8 + length].rstrip(b" "), content[8 + length :]
        header += b" " * (1 - len(header) % 2)
        file.write_bytes(len(header).to_bytes(8, "little") + header + body)
        assert len(header) % 2 == 1
    assert parrot("convert", "hf-to-flax", hf_folder, tmp_path / "flax") == 0
    assert parrot("convert", "verify", hf_folder, tmp_path / "flax") == 0


def test_no_file_is_larger_than_asked(hf_folder: Path, tmp_path: Path) -> None:
    parrot("convert", "hf-to-flax", hf_folder, tmp_path / "flax")
    command = ("convert", "flax-to-hf", tmp_path / "flax", tmp_path / "back")
    assert parrot(*command, "--shard-gb", "24e-6") == 0
    files = sorted((tmp_path / "back").glob("*.safetensors"))
    sizes = [sum(array.nbytes for array in load_file(file).values()) for file in files]
    assert [file.name[:11] for file in files] == [
        f"model-{n:05d}" for n in range(1, len(files) + 1)
    ]
    assert len(sizes) > 2
    assert max(sizes) <= 24_000
    assert_same_bits(all_tensors(tmp_path / "back"), all_tensors(hf_folder))
    index = json.loads((tmp_path / "back" / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(sizes)
    assert HfFolder(tmp_path / "back").config.num_hidden_layers == 2


def test_verify_names_the_tensor_that_differs(
    hf_folder: Path, tmp_path: Path, write_hf: WriteHf, capsys: pytest.CaptureFixture[str]
) -> None:
    parrot("convert", "hf-to-flax", hf_folder, tmp_path / "flax")
    changed = all_tensors(hf_folder)
    changed[DOWN] = changed[DOWN].copy()
    changed[DOWN].reshape(-1)[-1] += 1
    other = write_hf(tmp_path / "other", arrays=changed)
    capsys.readouterr()
    assert parrot("convert", "verify", other, tmp_path / "flax") == 1
    output = capsys.readouterr()
    assert "20 of 21 tensors are identical" in output.out
    assert f"{DOWN} differs" in output.out
    assert output.err == f"parrot: 1 tensors of {tmp_path / 'flax'} differ.\n"


def test_rounding_is_told_from_difference(
    tmp_path: Path, write_hf: WriteHf, small: ModelConfig, random_tensors: RandomTensors,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    source = write_hf(tmp_path / "hf", arrays=random_tensors(small, "float32"))
    parrot("convert", "hf-to-flax", source, tmp_path / "flax")
    command = ("convert", "flax-to-hf", tmp_path / "flax", tmp_path / "rounded")
    parrot(*command, "--dtype", "bfloat16")
    capsys.readouterr()
    assert parrot("convert", "verify", tmp_path / "rounded", tmp_path / "flax") == 0
    found = capsys.readouterr().out
    assert "0 of 21 tensors are identical, 21 after rounding to the folder's dtype" in found


def test_training_starts_from_what_was_converted(
    tmp_path: Path, tiny_run: Path, write_hf: WriteHf, capsys: pytest.CaptureFixture[str]
) -> None:
    config = yaml.safe_load(tiny_run.read_text())
    model = ModelConfig(**config["model"])
    source = write_hf(tmp_path / "hf", model)
    shutil.copy(config["data"]["tokenizer"], source)
    parrot("convert", "hf-to-flax", source, tmp_path / "flax")
    base = ["--init-from", str(tmp_path / "flax"), "--max-steps", "0"]
    base += ["--data.eval-fraction", "0"]
    assert parrot("train", tiny_run, *base) == 0
    norm = load_params(config["out"])["norm"]
    np.testing.assert_array_equal(norm, all_tensors(source)["model.norm.weight"].astype(np.float32))
    # The card names what the run started from, without its path.
    assert parrot("convert", "flax-to-hf", config["out"], tmp_path / "export") == 0
    card = (tmp_path / "export" / "README.md").read_text()
    assert "started from: `hf`" in card
    assert str(tmp_path) not in card
    # Another epsilon is another model, although the shapes are the same.
    other = ["--out", str(tmp_path / "other"), "--model.rms-norm-eps", "1e-6"]
    assert parrot("train", tiny_run, *base, *other) == 2
    error = capsys.readouterr().err
    assert "model.rms_norm_eps is 1e-06, there 1e-05" in error
    assert "`model` block" in error


def test_converted_weights_are_no_run(
    hf_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parrot("convert", "hf-to-flax", hf_folder, tmp_path / "flax")
    assert parrot("serve", tmp_path / "flax", "--port", "0") == 2
    assert "has converted weights, not a run; train from them" in capsys.readouterr().err
    assert parrot("convert", "hf-to-flax", hf_folder, tmp_path / "flax") == 2
    assert "already has a model" in capsys.readouterr().err


def test_a_trained_run_is_exported_with_all_that_others_need(
    trained_run: Path, tmp_path: Path
) -> None:
    assert parrot("convert", "flax-to-hf", trained_run, tmp_path / "hf", "--license", "llama2") == 0
    names = {path.name for path in (tmp_path / "hf").iterdir()}
    assert names == {
        "README.md", "chat_template.jinja", "config.json", "generation_config.json",
        "model.safetensors", "parrot_export.json", "tokenizer.json", "tokenizer_config.json",
    }  # fmt: skip
    config = json.loads((tmp_path / "hf" / "config.json").read_text())
    assert config["torch_dtype"] == "float32"
    assert (config["bos_token_id"], config["eos_token_id"]) == (1, 2)
    card = (tmp_path / "hf" / "README.md").read_text()
    assert yaml.safe_load(card.split("---")[1])["license"] == "llama2"
    assert "writes the *user's* next turn" in card
    assert "`dialogues.jsonl`" in card
    assert str(trained_run.parent) not in card


# ---- damaged input ------------------------------------------------------------------------------


def test_tensors_that_are_missing_unknown_or_misshapen_are_all_named(
    tmp_path: Path, write_hf: WriteHf, small: ModelConfig, random_tensors: RandomTensors,
    refused: Callable[[Path], str],
) -> None:  # fmt: skip
    arrays = random_tensors(small)
    arrays["model.layers.0.mlp.renamed.weight"] = arrays.pop("model.layers.0.mlp.up_proj.weight")
    arrays["extra"] = np.zeros(3, np.float32)
    arrays["model.norm.weight"] = np.zeros(31, np.float32)
    arrays[DOWN] = np.zeros(arrays[DOWN].shape, np.int8)
    error = refused(write_hf(tmp_path / "hf", arrays=arrays, num_files=2))
    assert "model.layers.0.mlp.up_proj.weight is missing" in error
    assert "model.layers.0.mlp.renamed.weight is unknown" in error
    assert "extra is unknown" in error
    assert "model.norm.weight is [31], not [32]" in error
    assert f"{DOWN} has dtype I8, not one of F32, BF16, F16" in error


def test_float16_asks_what_to_store(
    tmp_path: Path, write_hf: WriteHf, small: ModelConfig, random_tensors: RandomTensors,
    refused: Callable[[Path], str],
) -> None:  # fmt: skip
    source = write_hf(tmp_path / "hf", arrays=random_tensors(small, "float16"))
    assert "is in float16, which training does not support: set --dtype float32" in refused(source)


def test_files_that_are_cut_off_or_absent(hf_folder: Path, refused: Callable[[Path], str]) -> None:
    first, second = sorted(hf_folder.glob("*.safetensors"))
    whole = first.read_bytes()
    first.write_bytes(whole[:-1])
    assert f"{first} is truncated or not a safetensors file" in refused(hf_folder)
    first.write_bytes(b"not weights")
    assert f"{first} is truncated or not a safetensors file" in refused(hf_folder)
    first.write_bytes(whole)
    second.unlink()
    assert f"names 1 files that do not exist: {second.name}" in refused(hf_folder)
    (hf_folder / "model.safetensors.index.json").write_text("[]")
    assert "is not an index of safetensors files" in refused(hf_folder)


def test_pickles_are_refused_with_the_way_out(
    tmp_path: Path, write_hf: WriteHf, refused: Callable[[Path], str]
) -> None:
    folder = write_hf(tmp_path / "hf")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    assert "can run any code" in refused(folder)
    (folder / "pytorch_model.bin").unlink()
    assert "has neither model.safetensors" in refused(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"attention_bias": True}, "attention_bias is True, not False"),
        ({"mlp_bias": True}, "mlp_bias is True, not False"),
        ({"model_type": "phi9"}, "model_type is 'phi9', not one of llama, mistral"),
        ({"model_type": "phi3"}, "model_type is 'phi3' (it joins the weights of queries"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu', not 'silu'"),
        ({"rope_scaling": {"rope_type": "dynamic", "factor": 2}}, "rope_type is 'dynamic' (its"),
        ({"hidden_size": None}, "hidden_size is missing"),
        ({"vocab_size": 339}, r"embed_tokens.weight is [340, 32], not [339, 32]"),
        ({"num_hidden_layers": 1}, "model.layers.1.input_layernorm.weight is unknown"),
    ],
)
def test_another_model_is_refused(
    changes: dict[str, object], message: str, tmp_path: Path, write_hf: WriteHf,
    refused: Callable[[Path], str],
) -> None:  # fmt: skip
    assert message in refused(write_hf(tmp_path / "hf", **changes))


def test_copies_that_old_folders_keep_must_say_the_same(
    tmp_path: Path, write_hf: WriteHf, small: ModelConfig, random_tensors: RandomTensors,
    refused: Callable[[Path], str],
) -> None:  # fmt: skip
    arrays = random_tensors(small)
    name = "model.layers.0.self_attn.rotary_emb.inv_freq"
    arrays[name] = frequencies(8, 10000.0)
    HfFolder(write_hf(tmp_path / "hf", arrays=arrays))
    arrays[name] = frequencies(8, 500000.0)
    assert f"{name} is unknown" in refused(write_hf(tmp_path / "other", arrays=arrays))


def test_a_head_beside_a_tied_embedding_must_be_its_copy(
    tmp_path: Path, write_hf: WriteHf, small: ModelConfig, random_tensors: RandomTensors,
    refused: Callable[[Path], str],
) -> None:  # fmt: skip
    arrays = random_tensors(small)
    arrays["lm_head.weight"] = arrays["model.embed_tokens.weight"]
    tied = write_hf(tmp_path / "tied", arrays=arrays, tie_word_embeddings=True)
    assert "lm_head" not in [tensor.ours for tensor in HfFolder(tied).tensors]
    arrays["lm_head.weight"] = arrays["lm_head.weight"] * 2
    untied = write_hf(tmp_path / "untied", arrays=arrays, tie_word_embeddings=True)
    assert "lm_head.weight is unknown" in refused(untied)


# ---- several hosts ------------------------------------------------------------------------------

ONE_OF_TWO = """
import sys
from parrot_jax.weights.exports import RECORD
from parrot_jax.weights.hf_folder import HfFolder
read = HfFolder.read
num_read = 0
def counting(self, tensor, index=None):
    global num_read
    part = read(self, tensor, index)
    num_read += part.size
    return part
HfFolder.read = counting
from parrot_jax.cli import main
status = main(sys.argv[1:])
print(num_read)
sys.exit(status)
"""


@pytest.mark.slow
def test_two_processes_read_about_a_half_each(hf_folder: Path, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    arguments = ["convert", "hf-to-flax", str(hf_folder), str(tmp_path / "flax"),
                 "--distributed.coordinator", address, "--distributed.num-processes", "2",
                 "--distributed.process-id"]  # fmt: skip
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", ONE_OF_TWO, *arguments, str(number)],
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(2)
    ]
    outputs = [process.communicate(timeout=120)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert parrot("convert", "verify", hf_folder, tmp_path / "flax") == 0
    total = num_parameters(HfFolder(hf_folder).config)
    for output in outputs:
        assert int(output.split()[-1]) < 0.6 * total


# ---- interruption -------------------------------------------------------------------------------

# Hangs at the named tensor, so that the kill happens there.
STOP_AT = """
import sys, time
from parrot_jax.cli import main
from parrot_jax.weights.names import Tensor
way, stop, arguments = sys.argv[1], sys.argv[2], sys.argv[3:]
move = getattr(Tensor, way)
def stopping(tensor, array):
    if tensor.theirs == stop:
        print("here", flush=True)
        time.sleep(600)
    return move(tensor, array)
setattr(Tensor, way, stopping)
main(arguments)
"""


def kill_at(
    way: str, tensor: str, *arguments: object, ready: Callable[[], bool] = lambda: True
) -> None:
    command = [sys.executable, "-c", STOP_AT, way, tensor, *map(str, arguments)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert "here\n" in iter(process.stdout.readline, "")
    while not ready():
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    process.stdout.close()


@pytest.mark.slow
def test_a_killed_import_leaves_nothing_that_loads_and_is_begun_anew(
    hf_folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "flax"
    kill_at("to_ours", DOWN, "convert", "hf-to-flax", hf_folder, out)
    with pytest.raises(UserError, match="not a run folder"):
        load_params(out)
    assert parrot("convert", "hf-to-flax", hf_folder, out) == 0
    assert parrot("convert", "verify", hf_folder, out) == 0
    assert [path.name for path in (out / "checkpoints").iterdir()] == ["0"]


def test_an_import_killed_before_its_last_file_is_begun_anew(
    hf_folder: Path, tmp_path: Path
) -> None:
    assert parrot("convert", "hf-to-flax", hf_folder, tmp_path / "flax") == 0
    (tmp_path / "flax" / "config.yaml").unlink()
    assert parrot("convert", "hf-to-flax", hf_folder, tmp_path / "flax") == 0
    assert parrot("convert", "verify", hf_folder, tmp_path / "flax") == 0


@pytest.mark.slow
def test_a_killed_export_goes_on_at_the_next_file(hf_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "back"
    parrot("convert", "hf-to-flax", hf_folder, tmp_path / "flax")
    command = ("convert", "flax-to-hf", tmp_path / "flax", out, "--shard-gb", "24e-6")

    def recorded() -> list[str]:
        return list(json.loads((out / RECORD).read_text()).get("sha256", {}))

    kill_at("to_theirs", DOWN, *command, ready=lambda: bool(recorded()))
    # A file that was written but not recorded yet is rewritten.
    before = {name: (out / name).stat().st_mtime_ns for name in recorded()}
    with pytest.raises(UserError, match="config.json"):
        HfFolder(out)
    assert parrot(*command) == 0
    after = {path.name: path.stat().st_mtime_ns for path in out.glob("*.safetensors")}
    assert before.items() < after.items()
    assert not list(out.glob("*.tmp-*"))
    assert_same_bits(all_tensors(out), all_tensors(hf_folder))


def test_a_folder_of_something_else_is_left_alone(
    hf_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parrot("convert", "hf-to-flax", hf_folder, tmp_path / "flax")
    assert parrot("convert", "flax-to-hf", tmp_path / "flax", hf_folder) == 2
    assert "is not empty and not an export" in capsys.readouterr().err
    parrot("convert", "flax-to-hf", tmp_path / "flax", tmp_path / "back")
    capsys.readouterr()
    command = ("convert", "flax-to-hf", tmp_path / "flax", tmp_path / "back")
    assert parrot(*command, "--dtype", "float32") == 2
    assert "has an export of another checkpoint, dtype or tokenizer" in capsys.readouterr().err
    assert parrot(*command, "--step", "7") == 2
    assert "there is no checkpoint" in capsys.readouterr().err


def test_a_full_disk_is_one_line(
    hf_folder: Path, tmp_path: Path, small_disk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (small_disk / "filler").write_bytes(b"0" * 250_000)
    assert parrot("convert", "hf-to-flax", hf_folder, small_disk / "flax") == 2
    assert "no room left on the disk" in capsys.readouterr().err
    parrot("convert", "hf-to-flax", hf_folder, tmp_path / "flax")
    assert parrot("convert", "flax-to-hf", tmp_path / "flax", small_disk / "back") == 2
    assert "no room left on the disk for the export" in capsys.readouterr().err
