"""The shipped chat templates in the real vLLM: the prompt has the ids that transformers gives."""

import dataclasses
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
import transformers

import parrot_jax
from parrot_jax.core.shipped import FOLDER, shipped_chat_templates

from .servers import parrot, served

pytestmark = pytest.mark.vllm

VLLM_PYTHON = Path(f"{sys.prefix}-vllm", "bin", "python")
BOS = 1
SERVED = "vicuna_v1.1"
MESSAGES = [
    {"role": "user", "content": "Name a bird."},
    {"role": "assistant", "content": "A parrot."},
    {"role": "user", "content": "Can it talk?"},
]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, llama_tokenizer_model: Path) -> Path:
    """A Hugging Face folder: a tiny LLaMA with random weights and the real tokenizer."""
    folder = tmp_path_factory.mktemp("templates")
    config = parrot_jax.small_example(folder)
    config = dataclasses.replace(
        config,
        # vLLM's attention on a CPU needs heads of at least 32.
        model=dataclasses.replace(config.model, vocab_size=32000, head_dim=32),
        data=dataclasses.replace(
            config.data, tokenizer=str(llama_tokenizer_model), eval_sources=()
        ),
        max_steps=0,
    )
    parrot_jax.train_model(config)
    parrot("convert", "flax-to-hf", config.out, folder / "hf", "--dtype", "float32")
    return folder / "hf"


@pytest.fixture(scope="module")
def client(model: Path) -> Iterator[openai.OpenAI]:
    """vLLM with one template; a request may bring another."""
    if not VLLM_PYTHON.exists():
        pytest.fail(f"{VLLM_PYTHON} is absent; `make test-vllm` installs it and runs these tests.")
    command = [
        VLLM_PYTHON, "-m", "vllm.entrypoints.openai.api_server", "--model", model,
        "--served-model-name", "m", "--dtype", "float32", "--enforce-eager", "--host", "127.0.0.1",
        "--chat-template", template_file(SERVED), "--trust-request-chat-template",
    ]  # fmt: skip
    with served(*command, log=model.parent / "vllm.log") as client:
        yield client


def template_file(name: str) -> Path:
    return FOLDER / "chat_templates" / f"{name}.jinja"


@pytest.mark.parametrize("name", [Path(path).stem for path in shipped_chat_templates()])
def test_vllm_renders_the_template_as_transformers_does(
    client: openai.OpenAI, model: Path, name: str
) -> None:
    text = template_file(name).read_text()
    extra: dict[str, Any] = {"return_token_ids": True}
    if name != SERVED:
        extra["chat_template"] = text
    reply: Any = client.chat.completions.create(
        model="m", messages=MESSAGES, temperature=0, max_tokens=2, extra_body=extra
    )
    tokenizer = transformers.AutoTokenizer.from_pretrained(model)
    rendered = tokenizer.apply_chat_template(
        MESSAGES, chat_template=text, add_generation_prompt=True, return_dict=False
    )
    assert reply.prompt_token_ids == rendered
    # LLaMA-2-chat starts each round with its own <s>, the others only the dialogue.
    assert rendered.count(BOS) == (2 if name == "llama_2_chat" else 1)
