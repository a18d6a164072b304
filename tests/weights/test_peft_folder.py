"""Adapters in peft's format: written, read again, merged; what is not supported is refused."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from parrot_jax.cli import main
from parrot_jax.core.config import load_config
from parrot_jax.model.lora_config import LoraConfig
from parrot_jax.train.train_config import TrainConfig
from parrot_jax.weights.model_folder import ModelFolder, load_params
from parrot_jax.weights.peft_folder import CONFIG, WEIGHTS


@pytest.fixture(scope="module")
def base(trained_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A converted model, `flax`, and the folder it was made of, `hf`."""
    folder = tmp_path_factory.mktemp("base")
    assert main(["convert", "flax-to-hf", str(trained_run), f"{folder}/hf"]) == 0
    assert main(["convert", "hf-to-flax", f"{folder}/hf", f"{folder}/flax"]) == 0
    return folder


@pytest.fixture(scope="module")
def peft_folder(base: Path, trained_run: Path) -> Path:
    """Random adapters of rank 3 of all modules, in peft's format."""
    model = load_config(TrainConfig, trained_run / "config.yaml").model
    rng = np.random.default_rng(0)
    sizes = {"q_proj": (32, 32), "k_proj": (32, 16), "v_proj": (32, 16), "o_proj": (32, 32),
             "gate_proj": (32, 64), "up_proj": (32, 64), "down_proj": (64, 32)}  # fmt: skip
    tensors = {}
    for layer in range(model.num_hidden_layers):
        for name, (width, out) in sizes.items():
            part = "self_attn" if name in ("q_proj", "k_proj", "v_proj", "o_proj") else "mlp"
            module = f"base_model.model.model.layers.{layer}.{part}.{name}"
            a, b = rng.normal(0, 0.2, (3, width)), rng.normal(0, 0.2, (out, 3))
            tensors[f"{module}.lora_A.weight"] = a.astype(np.float32)
            tensors[f"{module}.lora_B.weight"] = b.astype(np.float32)
    return write_peft(base / "adapters", tensors)


def write_peft(folder: Path, tensors: dict[str, np.ndarray], **settings: Any) -> Path:
    folder.mkdir()
    values = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 3, "lora_alpha": 6,
              "target_modules": "all-linear", "lora_dropout": 0.1, "bias": "none"}  # fmt: skip
    (folder / CONFIG).write_text(json.dumps(values | settings))
    save_file(tensors, folder / WEIGHTS)
    return folder


def convert(source: Path, base: Path, out: Path) -> int:
    return main(["convert", "hf-to-flax", str(source), str(out), "--base", str(base / "flax")])


@pytest.fixture(scope="module")
def converted(base: Path, peft_folder: Path) -> Path:
    """The adapters, converted."""
    assert convert(peft_folder, base, base / "adapted") == 0
    return base / "adapted"


def test_adapters_are_merged_where_they_are_used(
    base: Path, peft_folder: Path, converted: Path
) -> None:
    params, before = load_params(converted), load_params(base / "flax")
    tensors = load_file(peft_folder / WEIGHTS)
    module = "base_model.model.model.layers.1.self_attn.o_proj.lora_"
    product = tensors[f"{module}B.weight"] @ tensors[f"{module}A.weight"]  # [D, NH]
    np.testing.assert_allclose(
        np.asarray(params["layers"]["attention"]["o"][1]).reshape(32, 32),
        np.asarray(before["layers"]["attention"]["o"][1]).reshape(32, 32) + 6 / 3 * product.T,
        atol=1e-6,
    )
    np.testing.assert_array_equal(params["embed"], before["embed"])
    assert ModelFolder(converted).is_converted()


def test_an_export_of_adapters_has_the_same_tensors(
    converted: Path, peft_folder: Path, base: Path, tmp_path: Path
) -> None:
    arguments = ["convert", "flax-to-hf", str(converted), f"{tmp_path}/peft", "--peft"]
    assert main(arguments) == 0
    theirs, ours = load_file(peft_folder / WEIGHTS), load_file(tmp_path / "peft" / WEIGHTS)
    assert ours.keys() == theirs.keys()
    for name, array in theirs.items():
        np.testing.assert_array_equal(ours[name], array)
    values = json.loads((tmp_path / "peft" / CONFIG).read_text())
    assert values | {"target_modules": []} == {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 3, "lora_alpha": 6, "bias": "none",
        "lora_dropout": 0.1, "base_model_name_or_path": str(base / "hf"), "target_modules": [],
        "fan_in_fan_out": False, "inference_mode": True, "init_lora_weights": True,
        "modules_to_save": None, "use_dora": False, "use_rslora": False,
    }  # fmt: skip
    assert set(values["target_modules"]) == {
        "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"
    }  # fmt: skip
    assert (tmp_path / "peft" / "tokenizer.json").exists()
    assert "LoRA adapters in float32 of" in (tmp_path / "peft" / "README.md").read_text()


def test_the_base_of_an_export_is_found_whatever_its_name_and_the_working_folder(
    base: Path, peft_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(base / "flax", tmp_path / "base")  # the name of a base inside a run
    monkeypatch.chdir(tmp_path)
    arguments = ["hf-to-flax", str(peft_folder), "adapted", "--base", "base"]
    assert main(["convert", *arguments]) == 0
    monkeypatch.chdir("/")
    arguments = ["flax-to-hf", f"{tmp_path}/adapted", f"{tmp_path}/peft", "--peft"]
    assert main(["convert", *arguments]) == 0
    values = json.loads((tmp_path / "peft" / CONFIG).read_text())
    assert values["base_model_name_or_path"] == str(base / "hf")


def test_a_base_converted_from_a_relative_folder_is_found_from_any_other(
    base: Path, peft_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "owl").mkdir()
    (tmp_path / "owl" / "base").symlink_to(base / "hf")
    monkeypatch.chdir(tmp_path)
    assert main(["convert", "hf-to-flax", "owl/base", "flax"]) == 0
    assert main(["convert", "hf-to-flax", str(peft_folder), "adapted", "--base", "flax"]) == 0
    monkeypatch.chdir("/")

    def named(out: str, *arguments: str) -> str:
        arguments = ("flax-to-hf", f"{tmp_path}/adapted", f"{tmp_path}/{out}", "--peft", *arguments)
        assert main(["convert", *arguments]) == 0
        values = json.loads((tmp_path / out / CONFIG).read_text())
        return values["base_model_name_or_path"]

    # `owl/base` would be a repository of the hub there.
    assert named("peft") == f"{tmp_path}/owl/base"
    monkeypatch.chdir(tmp_path)
    assert named("given", "--base", "owl/base") == f"{tmp_path}/owl/base"
    assert named("repository", "--base", "owl/other") == "owl/other"


def test_a_merged_export_equals_the_merged_weights(converted: Path, tmp_path: Path) -> None:
    assert main(["convert", "flax-to-hf", str(converted), f"{tmp_path}/hf"]) == 0
    assert main(["convert", "verify", f"{tmp_path}/hf", str(converted)]) == 0
    assert main(["convert", "hf-to-flax", f"{tmp_path}/hf", f"{tmp_path}/flax"]) == 0
    jax.tree.map(
        lambda one, two: np.testing.assert_allclose(one, two, atol=1e-6),
        load_params(tmp_path / "flax"),
        load_params(converted),
    )


def test_rank_stabilised_adapters_are_scaled_by_the_root_of_the_rank(
    base: Path, peft_folder: Path, converted: Path, tmp_path: Path
) -> None:
    tensors = load_file(peft_folder / WEIGHTS)
    folder = write_peft(tmp_path / "adapters", tensors, use_rslora=True)
    assert convert(folder, base, tmp_path / "out") == 0
    params, plain, before = map(load_params, (tmp_path / "out", converted, base / "flax"))
    one, two, none = (tree["layers"]["mlp"]["up"] for tree in (params, plain, before))
    # 6 / sqrt(3) instead of 6 / 3.
    np.testing.assert_allclose(one - none, np.sqrt(3) * (two - none), atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "fault"),
    [
        ({"use_dora": True}, "use_dora is True, which is not supported; merge the adapters with"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save is ['lm_head'], which is not supp"),
        ({"rank_pattern": {"q_proj": 8}}, "rank_pattern is {'q_proj': 8}, which is not"),
        ({"layers_to_transform": [0]}, "layers_to_transform is [0], which is not supported"),
        ({"something_new": {"a": 1}}, "something_new is {'a': 1}, which is not supported"),
        ({"bias": "all"}, "bias is 'all'; supported is \"none\", null."),
        ({"init_lora_weights": "pissa"}, "init_lora_weights is 'pissa'; supported is true"),
        ({"peft_type": "IA3"}, "peft_type is 'IA3'; supported is \"LORA\"."),
        ({"r": 4}, "layers.0.self_attn.q_proj.lora_A.weight is [3, 32], not [4, 32]"),
        ({"lora_alpha": "6"}, "lora_alpha is '6'; it must be a number."),
        ({"lora_alpha": 10**400}, "adapter_config.json: lora.alpha is 1000"),
        ({"lora_dropout": "x"}, "lora_dropout is 'x'; it must be a number."),
        ({"lora_dropout": [0.1]}, "lora_dropout is [0.1]; it must be a number."),
        ({"r": -3, "use_rslora": True}, "adapter_config.json: lora.rank is -3; it must be"),
    ],
)
def test_settings_that_are_not_supported(
    settings: dict[str, Any], fault: str, base: Path, peft_folder: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    folder = write_peft(tmp_path / "adapters", load_file(peft_folder / WEIGHTS), **settings)
    assert convert(folder, base, tmp_path / "out") == 2
    assert fault in capsys.readouterr().err


def without_one(tensors: dict[str, np.ndarray]) -> None:
    del tensors["base_model.model.model.layers.1.mlp.up_proj.lora_B.weight"]


def with_embedding(tensors: dict[str, np.ndarray]) -> None:
    tensors["base_model.model.model.embed_tokens.lora_embedding_A"] = np.zeros((3, 340), np.float32)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (without_one, "layers.1.mlp.up_proj.lora_B.weight is missing"),
        (with_embedding, "base_model.model.model.embed_tokens.lora_embedding_A is unknown"),
        (dict.clear, "layers.0.self_attn.q_proj.lora_A.weight is missing"),
    ],
)
def test_tensors_that_do_not_fit(
    change: Callable[[dict[str, np.ndarray]], None], fault: str, base: Path, peft_folder: Path,
    tmp_path: Path, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    tensors = load_file(peft_folder / WEIGHTS)
    change(tensors)
    assert convert(write_peft(tmp_path / "adapters", tensors), base, tmp_path / "out") == 2
    assert fault in capsys.readouterr().err


def test_a_folder_that_cannot_be_converted(
    base: Path, peft_folder: Path, converted: Path, trained_run: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    def fails(fault: str, *arguments: str) -> None:
        assert main(["convert", *arguments]) == 2
        assert fault in capsys.readouterr().err

    fails("convert that first, then add", "hf-to-flax", str(peft_folder), f"{tmp_path}/a")
    fails("has no adapter_config.json", "hf-to-flax", f"{base}/hf", f"{tmp_path}/a", "--base",
          f"{base}/flax")  # fmt: skip
    fails("has adapters itself", "hf-to-flax", str(peft_folder), f"{tmp_path}/a", "--base",
          str(converted))  # fmt: skip
    pickled = tmp_path / "pickled"
    shutil.copytree(peft_folder, pickled)
    (pickled / WEIGHTS).rename(pickled / "adapter_model.bin")
    fails("has adapters as a pickle", "hf-to-flax", str(pickled), f"{tmp_path}/a", "--base",
          f"{base}/flax")  # fmt: skip
    fails("has whole weights, not adapters", "flax-to-hf", str(trained_run), f"{tmp_path}/b",
          "--peft")  # fmt: skip


def test_adapters_start_another_run(converted: Path, tiny_run: Path, base: Path) -> None:
    arguments = ["train", str(tiny_run), "--init-from", str(converted), "--max-steps", "0",
                 "--data.tokenizer", str(base / "flax" / "tokenizer")]  # fmt: skip
    assert main(arguments) == 0
    run = load_config(TrainConfig, tiny_run).out
    jax.tree.map(np.testing.assert_array_equal, load_params(run), load_params(converted))


def test_both_orders_of_dims_are_inverse() -> None:
    from parrot_jax.model.model_config import ModelConfig
    from parrot_jax.weights.peft_folder import adapter_tensors

    model = ModelConfig(num_hidden_layers=1, hidden_size=12, num_attention_heads=3, head_dim=2)
    for tensor in adapter_tensors(model, LoraConfig(rank=5)):
        array = np.arange(np.prod(tensor.our_shape), dtype=np.float32).reshape(tensor.our_shape)
        theirs = tensor.to_theirs(array)
        assert theirs.shape == tensor.their_shape
        np.testing.assert_array_equal(tensor.to_ours(theirs), array)
        rank_first = tensor.theirs.endswith("lora_A.weight")
        flat = array.reshape(-1, 5).T if rank_first else array.reshape(5, -1).T
        np.testing.assert_array_equal(theirs, jnp.asarray(flat))


def test_a_pinned_revision_of_the_base_has_a_key_of_its_own() -> None:
    from parrot_jax.model.model_config import ModelConfig
    from parrot_jax.weights.peft_folder import config_text

    values = json.loads(config_text(ModelConfig(), LoraConfig(), "owl/base@v2"))
    assert (values["base_model_name_or_path"], values["revision"]) == ("owl/base", "v2")
    assert "revision" not in json.loads(config_text(ModelConfig(), LoraConfig(), "/my/base@v2"))
