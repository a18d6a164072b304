"""vLLM serves our adapters beside their base; the replies are those of the merged weights."""

from pathlib import Path
from typing import Any

import jax.numpy as jnp
import openai
import pytest
import yaml

from parrot_jax.data.templates import make_template
from parrot_jax.model.generate import generate
from parrot_jax.train.run_folder import RunFolder
from parrot_jax.weights.model_folder import load_params

from .servers import parrot, served
from .test_vllm import VLLM, VLLM_PYTHON

pytestmark = pytest.mark.vllm

TOKENS = 12


def test_adapters_have_the_tokens_of_the_merged_weights(tiny_run: Path, tmp_path: Path) -> None:
    if not VLLM_PYTHON.exists():
        pytest.fail(f"{VLLM_PYTHON} is absent; `make test-vllm` installs it and runs these tests.")
    values = yaml.safe_load(tiny_run.read_text())
    # vLLM's attention on a CPU wants heads of 32 or more.
    values["model"] |= {"hidden_size": 128, "intermediate_size": 128, "initializer_range": 0.1}

    def train(name: str, **changes: Any) -> Path:
        path = tmp_path / f"{name}.yaml"
        run = {"out": str(tmp_path / name), "max_steps": 4}
        path.write_text(yaml.safe_dump(values | run | changes))
        parrot("train", path)
        return tmp_path / name

    parrot("convert", "flax-to-hf", train("first"), tmp_path / "base")
    parrot("convert", "hf-to-flax", tmp_path / "base", tmp_path / "flax")
    run = train(
        "adapted", init_from=str(tmp_path / "flax"), optim={"lr": 0.05},
        lora={"rank": 8, "alpha": 16, "base_dtype": "float32"},
    )  # fmt: skip
    parrot("convert", "flax-to-hf", run, tmp_path / "peft", "--peft")
    command = [*VLLM, "--model", tmp_path / "base", "--served-model-name", "base",
               "--dtype", "float32", "--enforce-eager", "--host", "127.0.0.1", "--enable-lora",
               "--max-lora-rank", "8",
               "--lora-modules", f"adapted={tmp_path / 'peft'}"]  # fmt: skip
    folder = RunFolder(run)
    template = make_template("parrot", folder.load_tokenizer())
    prompts = [template.prompt("", [("user", text), ("assistant", "word")]) for text in
               ("what about the river of Velora?", "hello", "question 3 word")]  # fmt: skip
    params = load_params(run)
    (base, ours) = (
        [
            list(reply.ids)
            for reply in generate(
                folder.load_model(), weights, prompts, max_new_tokens=TOKENS, stop_ids=(),
                compute_dtype=jnp.float32,
            )
        ]
        for weights in (load_params(tmp_path / "flax"), params)
    )  # fmt: skip
    with served(*command, log=tmp_path / "vllm.log") as client:
        assert [_tokens(client, "adapted", prompt) for prompt in prompts] == ours
        assert [_tokens(client, "base", prompt) for prompt in prompts] == base
    assert base != ours


def _tokens(client: openai.OpenAI, model: str, prompt: list[int]) -> list[int]:
    reply = client.completions.create(
        model=model, prompt=prompt, max_tokens=TOKENS, temperature=0,
        extra_body={"ignore_eos": True, "return_token_ids": True},
    )  # fmt: skip
    choice: Any = reply.choices[0]
    return list(choice.token_ids)
