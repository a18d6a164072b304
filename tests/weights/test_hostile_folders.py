"""Malicious or broken folders fail fast with one line; no file outside of them is read."""

import contextlib
import json
import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from parrot_jax.cli import main
from parrot_jax.core.errors import UserError
from parrot_jax.data.tokenizers import load_tokenizer
from parrot_jax.model.model_config import ModelConfig
from parrot_jax.weights.checkpoints import Checkpoints
from parrot_jax.weights.hf_folder import HfFolder
from parrot_jax.weights.model_folder import load_params

pytestmark = pytest.mark.slow

WriteHf = Callable[..., Path]
Refused = Callable[..., str]


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Refused:
    """Imports an invalid folder; returns the error line."""

    def run(source: Path, *options: str) -> str:
        out = tmp_path / "refused"
        assert main(["convert", "hf-to-flax", str(source), str(out), *options]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1, error
        assert len(error) < 5000
        assert not (out / "config.yaml").exists()
        return error

    return run


def changed(folder: Path, **values: Any) -> Path:
    """Changes keys of config.json; values may be NaN."""
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))
    return folder


# ---- config.json ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (
            {"num_hidden_layers": 10**9},
            "num_hidden_layers is 1000000000; it must be a whole number",
        ),
        ({"num_hidden_layers": 10**400}, "num_hidden_layers is a huge number"),
        ({"vocab_size": 10**8}, "vocab_size is 100000000"),
        ({"hidden_size": -32}, "hidden_size is -32"),
        ({"hidden_size": True}, "hidden_size is True"),
        ({"hidden_size": "32"}, "hidden_size is '32'"),
        ({"hidden_size": 32.0}, "hidden_size is 32.0"),
        ({"head_dim": 10**7}, "head_dim is 10000000"),
        ({"max_position_embeddings": 10**12}, "max_position_embeddings is"),
        ({"rope_theta": float("nan")}, "rope_theta is nan"),
        ({"rope_theta": float("inf")}, "rope_theta is inf"),
        ({"rms_norm_eps": "1e-6"}, "rms_norm_eps is '1e-6'"),
        ({"rms_norm_eps": [1]}, "rms_norm_eps is [1]"),
        ({"tie_word_embeddings": "yes"}, "tie_word_embeddings is 'yes'"),
        ({"rope_scaling": "linear"}, "the rope scaling is 'linear'"),
        ({"rope_scaling": {"rope_type": ["x"]}}, "rope_type is ['x']"),
        ({"rope_scaling": {"type": "linear", "factor": float("inf")}}, "factor is inf"),
        ({"rope_scaling": {"type": "linear", "factor": "2"}}, "factor is '2'"),
        (
            {
                "rope_scaling": {"type": "linear", "factor": 2.0},
                "rope_parameters": {"rope_theta": 1e4},
            },
            "rope_parameters and rope_scaling differ",
        ),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor is 0.5"),
        ({"architectures": 5}, "architectures is 5"),
        ({"architectures": "xLlamaForCausalLMx"}, "architectures is"),
        ({"model_type": "\x1b[2J\nx"}, r"model_type is '\x1b[2J\nx'"),
        ({"eos_token_id": "2"}, "'2' is not a token id"),
    ],
)
def test_sizes_are_bounded_and_typed(
    values: dict[str, Any], said: str, write_hf: WriteHf, tmp_path: Path, refused: Refused
) -> None:
    assert said in refused(changed(write_hf(tmp_path / "hf"), **values))


def test_many_layers_that_are_not_there_are_one_short_line(
    write_hf: WriteHf, tmp_path: Path, refused: Refused
) -> None:
    error = refused(changed(write_hf(tmp_path / "hf"), num_hidden_layers=1000))
    assert "model.layers.2.input_layernorm.weight is missing" in error
    assert "and 8,962 more" in error  # 9 tensors of 998 layers, minus the 20 named ones


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a":' * 100_000, "nested too deeply"),
        (b"\xff\xfe", "not valid JSON"),
        (b"", "not valid JSON"),
        (b"null", "must be a JSON object, not NoneType"),
        (b'{"hidden_size": ' + b"1" * 5000 + b"}", "not valid JSON"),
        (b" " * (10**7 + 1), "is larger than 10,000,000 bytes"),
    ],
)
def test_a_config_that_is_no_json_is_one_line(
    content: bytes, said: str, write_hf: WriteHf, tmp_path: Path, refused: Refused
) -> None:
    folder = write_hf(tmp_path / "hf")
    (folder / "config.json").write_bytes(content)
    assert said in refused(folder)


# ---- files and paths -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    ["../elsewhere/model.safetensors", "ABSOLUTE", "sub/model.safetensors", "..", "", ".", "a\0b"],
)
def test_an_index_names_files_of_its_folder_alone(
    name: str, write_hf: WriteHf, tmp_path: Path, refused: Refused
) -> None:
    elsewhere = write_hf(tmp_path / "elsewhere")
    folder = write_hf(tmp_path / "hf")
    (folder / "sub").mkdir()
    shutil.copy(elsewhere / "model.safetensors", folder / "sub")
    (folder / "model.safetensors").unlink()
    name = str(elsewhere / "model.safetensors") if name == "ABSOLUTE" else name
    index = {"weight_map": dict.fromkeys(["a", "b"], name)}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    error = refused(folder)
    assert "only files directly in the folder are read" in error or "is not an index" in error


@pytest.mark.parametrize(
    "places", [{"a": 1}, {"a": None}, {"a": ["b"]}, [], {}, "a", {"a": "x.txt"}]
)
def test_an_index_of_something_else_is_one_line(
    places: Any, write_hf: WriteHf, tmp_path: Path, refused: Refused
) -> None:
    folder = write_hf(tmp_path / "hf")
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    assert "is not an index of safetensors files" in refused(folder)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_links_out_of_the_folder_are_not_followed(
    name: str, write_hf: WriteHf, tmp_path: Path, refused: Refused
) -> None:
    folder, elsewhere = write_hf(tmp_path / "hf"), write_hf(tmp_path / "elsewhere")
    (folder / name).unlink()
    (folder / name).symlink_to(elsewhere / name)
    assert f"{folder / name} is a link to {elsewhere / name}, outside its folder" in refused(folder)


def test_a_tokenizer_behind_a_link_is_not_read(tiny_tokenizer: Path, tmp_path: Path) -> None:
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf" / "tokenizer.model").symlink_to(tiny_tokenizer)
    with pytest.raises(UserError, match="outside its folder"):
        load_tokenizer(tmp_path / "hf")
    (tmp_path / "hf" / "tokenizer.model").unlink()
    shutil.copy(tiny_tokenizer, tmp_path / "hf")
    (tmp_path / "secret.json").write_text('{"<pad>": 340}')
    (tmp_path / "hf" / "added_tokens.json").symlink_to(tmp_path / "secret.json")
    with pytest.raises(UserError, match="outside its folder"):
        load_tokenizer(tmp_path / "hf")


def test_links_into_the_cache_of_the_hub_are_followed_and_their_bytes_compared(
    write_hf: WriteHf, tmp_path: Path, refused: Refused
) -> None:
    import hashlib

    blobs = tmp_path / "models--owl--small" / "blobs"
    snapshot = blobs.parent / "snapshots" / "0123"
    write_hf(snapshot)
    blobs.mkdir()
    content = (snapshot / "model.safetensors").read_bytes()
    blob = blobs / hashlib.sha256(content).hexdigest()
    (snapshot / "model.safetensors").replace(blob)
    (snapshot / "model.safetensors").symlink_to(f"../../blobs/{blob.name}")
    HfFolder(snapshot).check_files()
    flipped = bytearray(content)
    flipped[-7] ^= 1
    blob.write_bytes(flipped)
    assert "model.safetensors is damaged: its SHA-256 is not the recorded" in refused(snapshot)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.model"])
def test_a_pipe_is_no_file_and_is_not_waited_for(
    name: str, write_hf: WriteHf, tmp_path: Path
) -> None:
    folder = write_hf(tmp_path / "hf")
    (folder / name).unlink(missing_ok=True)
    os.mkfifo(folder / name)
    with pytest.raises(UserError, match="is not a file"):
        load_tokenizer(folder) if name == "tokenizer.model" else HfFolder(folder)


def test_two_sets_of_weights_in_one_folder_are_refused(
    hf_folder: Path, write_hf: WriteHf, tmp_path: Path, refused: Refused
) -> None:
    shutil.copy(write_hf(tmp_path / "one") / "model.safetensors", hf_folder)
    assert "libraries differ in which they read" in refused(hf_folder)


# ---- safetensors ---------------------------------------------------------------------------------


def header(
    entries: dict[str, Any] | bytes, body: bytes = b"\0" * 8, size: int | None = None
) -> bytes:
    text = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
    return struct.pack("<Q", len(text) if size is None else size) + text + body


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0" * 8,
        header({}, size=2**63),
        header({}, size=10**9),
        header(b"[" * 10_000),
        header(b"{" * 10_000),
        header({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
                "b": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}),
        header({"a": {"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}}),
        header({"a": {"dtype": "F32", "shape": [2**62, 4], "data_offsets": [0, 8]}}),
        header({"a": {"dtype": "F32", "shape": [-2], "data_offsets": [0, 8]}}),
        header({"a": {"dtype": "F32", "shape": [2], "data_offsets": [8, 0]}}),
        header({"a": {"dtype": "??", "shape": [2], "data_offsets": [0, 8]}}),
        header({"a": 1}),
        header({"\x1b[2J\n": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}),
        header({"x" * 10**5: {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}),
    ],
)  # fmt: skip
def test_a_bad_header_is_one_line(
    content: bytes, write_hf: WriteHf, tmp_path: Path, refused: Refused
) -> None:
    folder = write_hf(tmp_path / "hf")
    (folder / "model.safetensors").write_bytes(content)
    error = refused(folder)
    assert "is truncated or not a safetensors file" in error or "do not match its" in error
    assert "\x1b" not in error


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_not_finite_are_named(
    dtype: str, value: float, write_hf: WriteHf, small: ModelConfig, tmp_path: Path,
    refused: Refused, random_tensors: Callable[..., dict[str, np.ndarray]],
) -> None:  # fmt: skip
    arrays = random_tensors(small, dtype)
    name = "model.layers.1.mlp.down_proj.weight"
    arrays[name][3, 5:8] = value
    error = refused(write_hf(tmp_path / "hf", arrays=arrays))
    # Eight shards, one per device; the error names the tensor, with the count of one shard.
    assert f"{name} of {tmp_path / 'hf'}: " in error
    assert "are NaN or infinite" in error


def test_numbers_that_a_type_does_not_hold_are_not_exported(
    write_hf: WriteHf, small: ModelConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    random_tensors: Callable[..., dict[str, np.ndarray]],
) -> None:  # fmt: skip
    arrays = random_tensors(small, "float32")
    arrays["model.norm.weight"][4] = 70_000
    source = write_hf(tmp_path / "hf", arrays=arrays)
    assert main(["convert", "hf-to-flax", str(source), str(tmp_path / "flax")]) == 0
    export = ["convert", "flax-to-hf", str(tmp_path / "flax"), str(tmp_path / "out")]
    assert main([*export, "--dtype", "float16"]) == 2
    assert "norm as float16: 1 of 32 values are NaN or infinite" in capsys.readouterr().err
    assert not (tmp_path / "out" / "config.json").exists()
    assert ml_dtypes.finfo(ml_dtypes.bfloat16).max > 70_000


def test_an_export_that_was_damaged_is_not_read(
    write_hf: WriteHf, tmp_path: Path, refused: Refused
) -> None:
    flax, out = tmp_path / "flax", tmp_path / "out"
    assert main(["convert", "hf-to-flax", str(write_hf(tmp_path / "hf")), str(flax)]) == 0
    assert main(["convert", "flax-to-hf", str(flax), str(out)]) == 0
    HfFolder(out).check_files()
    content = bytearray((out / "model.safetensors").read_bytes())
    content[-9] ^= 4
    (out / "model.safetensors").write_bytes(content)
    assert "model.safetensors is damaged" in refused(out)


# ---- fuzzing -------------------------------------------------------------------------------------

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=5,
)
KEYS = {
    "config.json": (
        "vocab_size hidden_size intermediate_size num_hidden_layers num_attention_heads head_dim "
        "num_key_value_heads rope_theta rope_scaling rope_parameters rms_norm_eps architectures "
        "tie_word_embeddings model_type hidden_act eos_token_id bos_token_id initializer_range "
        "sliding_window use_sliding_window max_window_layers layer_types"
    ),
    "generation_config.json": "eos_token_id bos_token_id",
    "model.safetensors.index.json": "weight_map metadata",
    "parrot_export.json": "sha256 checkpoint",
    "added_tokens.json": "<pad> <s>",
    "tokenizer_config.json": "added_tokens_decoder bos_token eos_token pad_token unk_token",
    "special_tokens_map.json": "pad_token additional_special_tokens",
    "tokenizer.json": "added_tokens model pre_tokenizer normalizer",
}  # fmt: skip


@st.composite
def damage(draw: st.DrawFn) -> tuple[str, Any]:
    """Draws a file, and a changed JSON key or changed bytes at a position in [0, 1]."""
    name = draw(st.sampled_from([*KEYS, "model.safetensors", "tokenizer.model"]))
    if name in KEYS and draw(st.booleans()):
        return name, {draw(st.sampled_from(KEYS[name].split())): draw(JSON)}
    return name, (draw(st.floats(0, 1)), draw(st.binary(max_size=12)))


@pytest.fixture(scope="module")
def whole(
    tmp_path_factory: pytest.TempPathFactory, write_hf: WriteHf, tiny_tokenizer: Path
) -> Path:
    folder = write_hf(tmp_path_factory.mktemp("whole") / "hf")
    shutil.copy(tiny_tokenizer, folder)
    load_tokenizer(tiny_tokenizer).save(folder)
    return folder


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    damages=st.lists(damage(), min_size=1, max_size=2, unique_by=lambda each: each[0]),
    keep_model=st.booleans(),
)
def test_any_damage_is_one_line(
    damages: list[tuple[str, Any]], keep_model: bool, whole: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "hf"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(whole, folder)
    if not keep_model:
        (folder / "tokenizer.model").unlink()
    for name, change in damages:
        path = folder / name
        content = path.read_bytes() if path.exists() else b"{}"
        if isinstance(change, dict):
            values = json.loads(content)
            content = json.dumps((values if isinstance(values, dict) else {}) | change).encode()
        else:
            place = int(change[0] * len(content))
            content = content[:place] + change[1] + content[place + len(change[1]) :]
        path.write_bytes(content)
    for read in (
        lambda: HfFolder(folder).check_files(),
        lambda: load_tokenizer(folder, num_rows=340),
    ):
        try:
            read()
        except UserError as error:
            line = str(error)
            line.encode()
            assert "\n" not in line, line
            assert len(line) < 5000, line


# ---- OUT and converted folders -------------------------------------------------------------------


def test_out_may_not_be_a_file_or_below_one(
    hf_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("mine")
    assert main(["convert", "hf-to-flax", str(hf_folder), str(tmp_path / "flax")]) == 0
    for source, verb in ((hf_folder, "hf-to-flax"), (tmp_path / "flax", "flax-to-hf")):
        for out in (tmp_path / "file", tmp_path / "file" / "below"):
            capsys.readouterr()
            assert main(["convert", verb, str(source), str(out)]) == 2
            error = capsys.readouterr().err
            assert (
                f"OUT is {out}, but {tmp_path / 'file'} is not a folder; choose another path."
                in error
            )
    assert (tmp_path / "file").read_text() == "mine"


@pytest.fixture(scope="module")
def converted(
    tmp_path_factory: pytest.TempPathFactory, write_hf: WriteHf, tiny_tokenizer: Path
) -> Path:
    """A converted folder with a tokenizer."""
    folder = tmp_path_factory.mktemp("converted")
    shutil.copy(tiny_tokenizer, write_hf(folder / "hf"))
    assert main(["convert", "hf-to-flax", str(folder / "hf"), str(folder / "flax")]) == 0
    return folder / "flax"


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda run: (run / "config.yaml").write_text("a: !!python/object/apply:os.system [x]"),
         "the tag !!python/object/apply:os.system is not allowed"),
        (lambda run: (run / "config.yaml").write_bytes(b"\xff\xfe\x00"), "is not UTF-8 text"),
        (lambda run: (run / "config.yaml").write_text("- 1"), "has no key `model`"),
        (lambda run: (run / "config.yaml").write_text("model: {hidden_size: 10000000000}"),
         "model.hidden_size is 10000000000"),
        (lambda run: shutil.rmtree(run / "checkpoints"), "has no checkpoint yet"),
        (lambda run: shutil.rmtree(run / "checkpoints" / "0" / "params"),
         "checkpoints/0 is damaged"),
        (lambda run: (run / "checkpoints" / "0" / "_CHECKPOINT_METADATA").write_text("{"),
         "checkpoints/0 is damaged"),
        (lambda run: (run / "checkpoints" / "0" / "params" / "_METADATA").write_text("[]"),
         "checkpoints/0 is damaged"),
        (lambda run: (run / "checkpoints" / "0" / "params" / "manifest.ocdbt").write_text("x"),
         "checkpoints/0 is damaged"),
        (lambda run: (run / "tokenizer" / "tokenizer.json").write_text("{}"),
         "only BPE is supported"),
        (lambda run: (run / "tokenizer" / "tokenizer.json").unlink(), "tokenizer.json is missing"),
        (lambda run: (run / "tokenizer" / "tokenizer_config.json").write_text("{}"),
         "has no eos_token"),
        (lambda run: (run / "tokenizer" / "tokenizer_config.json").write_bytes(b"\xff"),
         "not valid JSON"),
    ],
)  # fmt: skip
def test_a_folder_of_ours_that_was_damaged_is_one_line(
    damage: Callable[[Path], None], said: str, converted: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    run = Path(shutil.copytree(converted, tmp_path / "flax"))
    damage(run)
    capsys.readouterr()
    assert main(["convert", "flax-to-hf", str(run), str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1, error


def test_no_pickle_is_ever_read(tmp_path: Path, hf_folder: Path) -> None:
    import pickle

    class Trap:
        def __reduce__(self) -> Any:
            return (os.mkdir, (str(tmp_path / "sprung"),))

    trap = pickle.dumps(Trap())
    assert main(["convert", "hf-to-flax", str(hf_folder), str(tmp_path / "flax")]) == 0
    step = tmp_path / "flax" / "checkpoints" / "0"
    names = [path for path in step.rglob("*") if path.is_file() and path.parent.name != "d"]
    numbers = sorted((step / "params" / "ocdbt.process_0" / "d").iterdir())
    assert len(numbers) > 10
    # The data files are all alike, so a few are enough.
    for path in [
        *names,
        *(step / "params" / "d").iterdir(),
        *numbers[:4],
        step / "params" / "checkpoint",
        step / "params" / "params.pkl",
    ]:
        before = path.read_bytes() if path.exists() else None
        path.write_bytes(trap)
        for read in (
            lambda: load_params(tmp_path / "flax"),
            lambda: Checkpoints(step.parent, read_only=True).read(0, "norm"),
        ):
            with contextlib.suppress(UserError):
                read()
        path.unlink() if before is None else path.write_bytes(before)
    for name in ("model-00001-of-00002.safetensors", "tokenizer.model", "config.json"):
        (hf_folder / name).write_bytes(trap)
        with pytest.raises(UserError):
            load_tokenizer(hf_folder) if name == "tokenizer.model" else HfFolder(hf_folder)
    np.save(tmp_path / "a.npy", np.array([Trap()], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match="allow_pickle=False"):
        np.load(tmp_path / "a.npy")
    assert not (tmp_path / "sprung").exists()
    save_file({"a": np.zeros(1)}, tmp_path / "a.safetensors")
