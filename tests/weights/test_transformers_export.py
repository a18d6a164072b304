"""transformers loads our exports: same prompt, same logits, same reply."""

from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from parrot_jax.cli import main
from parrot_jax.data.templates import make_template
from parrot_jax.data.tokenizers import load_tokenizer
from parrot_jax.model.generate import generate
from parrot_jax.train.run_folder import RunFolder
from parrot_jax.weights.model_folder import load_params

pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("default")]

HISTORY = [("user", "what about the river of Velora?"), ("assistant", " hello </s> word")]


@pytest.fixture(scope="module")
def exported(trained_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export") / "hf"
    assert main(["convert", "flax-to-hf", str(trained_run), str(folder)]) == 0
    return folder


def transformers_model(folder: Path) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def test_prompt_and_reply_are_ours(exported: Path, trained_run: Path) -> None:
    import torch
    from transformers import AutoTokenizer

    tokenizer = load_tokenizer(RunFolder(trained_run).tokenizer)
    prompt = make_template("parrot", tokenizer).prompt("", HISTORY)
    theirs = AutoTokenizer.from_pretrained(exported)
    messages = [{"role": role, "content": text} for role, text in HISTORY]
    rendered = theirs.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    assert rendered == prompt

    config = RunFolder(trained_run).load_config().model
    (ours,) = generate(
        config, load_params(trained_run), [prompt], max_new_tokens=40,
        stop_ids=(tokenizer.eos_id,), compute_dtype=jnp.float32,
    )  # fmt: skip
    reply = transformers_model(exported).generate(
        torch.tensor([prompt]), max_new_tokens=40, do_sample=False
    )
    ids = reply[0, len(prompt) :].tolist()
    assert ids[: len(ours.ids)] == list(ours.ids)
    assert ids[len(ours.ids) :] == ([tokenizer.eos_id] if ours.finish_reason == "stop" else [])


def test_verify_holds_the_logits_against_transformers(
    exported: Path, trained_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["convert", "verify", str(exported), str(trained_run)]
    assert main([*command, "--text", "question 3 1 word word answer"]) == 0
    output = capsys.readouterr().out
    assert "21 of 21 tensors are identical" in output
    assert "the most likely next token is the same at 100.0% of the positions" in output


def test_a_bfloat16_export_is_loaded_as_bfloat16(trained_run: Path, tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    command = ["convert", "flax-to-hf", str(trained_run), str(tmp_path / "hf")]
    assert main([*command, "--dtype", "bfloat16"]) == 0
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "hf", dtype="auto")
    assert model.dtype == torch.bfloat16
    embed = np.asarray(load_params(trained_run)["embed"].astype(jnp.bfloat16).astype(jnp.float32))
    np.testing.assert_array_equal(model.get_input_embeddings().weight.float().detach(), embed)
