"""peft and we compute the same: logits and greedy tokens of adapters written by either."""

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from parrot_jax.cli import main
from parrot_jax.core.config import load_config
from parrot_jax.losses.token_loss import role_weighted_nll
from parrot_jax.model.decoder import unembedding
from parrot_jax.model.generate import generate
from parrot_jax.model.lora import init_adapters, scaled
from parrot_jax.model.lora_config import LoraConfig
from parrot_jax.train.train_config import TrainConfig
from parrot_jax.weights.model_folder import ModelFolder, load_params
from parrot_jax.weights.peft_folder import adapter_tensors

from ..model.test_transformers import SIZES
from ..torch_models import leaf, our_states, random_model

pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("default")]

IDS = [1, *range(7, 60, 3)]


def a_model(folder: Path, **values: Any) -> Any:
    sizes = {"model_type": "llama"} | SIZES | {"num_key_value_heads": 2}
    return random_model(folder, sizes | values)


def our_logits(folder: Path) -> np.ndarray:
    params = load_params(folder)
    hidden = our_states(ModelFolder(folder).load_model(), params, np.asarray([IDS]))
    return np.asarray(hidden[0] @ unembedding(params))


def their_logits(model: Any) -> np.ndarray:
    import torch

    with torch.inference_mode():
        return model(torch.tensor([IDS])).logits[0].numpy()


def with_random_adapters(model: Any, **settings: Any) -> Any:
    import torch
    from peft import LoraConfig, get_peft_model

    values = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear", "task_type": "CAUSAL_LM"}
    adapted = get_peft_model(model, LoraConfig(**values | settings)).eval()
    torch.manual_seed(1)
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_B" in name:  # zero at first
                weight.copy_(0.1 * torch.randn_like(weight))
    return adapted


@pytest.mark.parametrize(
    ("family", "settings"),
    [
        ("llama", {}),
        ("llama", {"use_rslora": True, "target_modules": ["q_proj", "down_proj"]}),
        pytest.param("mistral", {}, marks=pytest.mark.nightly),
        pytest.param("qwen2", {}, marks=pytest.mark.nightly),
        ("qwen3", {"target_modules": ["v_proj", "o_proj", "up_proj"]}),
        ("olmo2", {}),
    ],
)
def test_adapters_of_peft_have_its_logits(
    family: str, settings: dict[str, Any], tmp_path: Path
) -> None:
    changes = {"sliding_window": None} if family == "mistral" else {}
    model = a_model(tmp_path / "hf", model_type=family, **changes)
    before = their_logits(model)
    adapted = with_random_adapters(model, **settings)
    adapted.save_pretrained(tmp_path / "peft")
    assert main(["convert", "hf-to-flax", f"{tmp_path}/hf", f"{tmp_path}/flax"]) == 0
    arguments = ["convert", "hf-to-flax", f"{tmp_path}/peft", f"{tmp_path}/adapted"]
    assert main([*arguments, "--base", f"{tmp_path}/flax"]) == 0
    theirs = their_logits(adapted)
    np.testing.assert_allclose(our_logits(tmp_path / "adapted"), theirs, atol=1e-4)
    assert np.abs(theirs - before).max() > 0.1


def test_gradients_of_adapters_are_pefts(tmp_path: Path) -> None:
    import torch

    adapted = with_random_adapters(a_model(tmp_path / "hf"))
    adapted.save_pretrained(tmp_path / "peft")
    assert main(["convert", "hf-to-flax", f"{tmp_path}/hf", f"{tmp_path}/flax"]) == 0
    logits = adapted(torch.tensor([IDS[:-1]])).logits[0]
    torch.nn.functional.cross_entropy(logits, torch.tensor(IDS[1:]), reduction="sum").backward()
    theirs = {name.replace(".default", ""): weight
              for name, weight in adapted.named_parameters() if weight.requires_grad}  # fmt: skip

    lora, config = LoraConfig(rank=4, alpha=8), ModelFolder(tmp_path / "flax").load_model()
    params, named = load_params(tmp_path / "flax"), adapter_tensors(config, lora)
    adapters = {"lora": jax.tree.map(np.array, init_adapters(config, lora, seed=0))}
    for tensor in named:
        given = theirs[tensor.theirs].detach().numpy()
        leaf(adapters, tensor)[:] = tensor.to_ours(given)

    def loss(adapters: dict[str, Any]) -> Any:
        whole = scaled({**params, **adapters}, lora)
        states = our_states(config, whole, np.array([IDS[:-1]]))
        weights, targets = jnp.ones((1, len(IDS) - 1)), jnp.asarray([IDS[1:]])
        return role_weighted_nll(states, unembedding(params), targets, weights, tile=32)[0]

    grads = jax.tree.map(np.asarray, jax.grad(loss)(adapters))
    for tensor in named:
        ours, wanted = tensor.to_theirs(leaf(grads, tensor)), theirs[tensor.theirs].grad.numpy()
        assert np.abs(wanted).max() > 0
        assert np.abs(ours - wanted).max() < 1e-4 * max(1.0, np.abs(wanted).max()), tensor.theirs


def test_adapters_of_ours_have_the_same_tokens_in_peft_and_transformers(
    trained_run: Path, tiny_run: Path, tmp_path: Path
) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    assert main(["convert", "flax-to-hf", str(trained_run), f"{tmp_path}/hf"]) == 0
    assert main(["convert", "hf-to-flax", f"{tmp_path}/hf", f"{tmp_path}/flax"]) == 0
    values = tiny_run.read_text()
    tiny_run.write_text(f"{values}\nlora: {{rank: 4, alpha: 8, base_dtype: float32}}\n")
    arguments = ["--init-from", f"{tmp_path}/flax", "--max-steps", "3", "--optim.lr", "0.1",
                 "--data.tokenizer", f"{tmp_path}/flax/tokenizer"]  # fmt: skip
    assert main(["train", str(tiny_run), *arguments]) == 0
    run = load_config(TrainConfig, tiny_run).out
    assert main(["convert", "flax-to-hf", run, f"{tmp_path}/merged"]) == 0
    assert main(["convert", "flax-to-hf", run, f"{tmp_path}/peft", "--peft"]) == 0
    settings = json.loads((tmp_path / "peft" / "adapter_config.json").read_text())
    assert settings["base_model_name_or_path"] == f"{tmp_path}/hf"

    def load(folder: str) -> Any:
        return AutoModelForCausalLM.from_pretrained(f"{tmp_path}/{folder}", dtype=torch.float32)

    by_peft = PeftModel.from_pretrained(load("hf"), f"{tmp_path}/peft").eval()
    by_transformers = load("hf").eval()
    by_transformers.load_adapter(f"{tmp_path}/peft")
    merged = load("merged").eval()
    ours = our_logits(Path(run))
    for model in (by_peft, by_transformers, merged):
        np.testing.assert_allclose(their_logits(model), ours, atol=1e-4)
    assert np.abs(their_logits(load("hf").eval()) - ours).max() > 0.1
    config = ModelFolder(run).load_model()
    (reply,) = generate(
        config, load_params(run), [IDS], max_new_tokens=20, stop_ids=(), compute_dtype=jnp.float32
    )
    for model in (by_peft, by_transformers):
        found = model.generate(
            input_ids=torch.tensor([IDS]), max_new_tokens=20, do_sample=False, eos_token_id=None
        )
        assert found[0, len(IDS) :].tolist() == list(reply.ids)
