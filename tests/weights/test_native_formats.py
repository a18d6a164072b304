"""A model with its own tokenizer and format: in from transformers, trained, out again."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from parrot_jax import load_run
from parrot_jax.cli import main
from tests.data.test_template import all_real_dialogues
from tests.data.tokenizer_kinds import KINDS, write_folder

pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("default")]

SIZES = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 32,
    "max_position_embeddings": 512,
    "initializer_range": 0.1,
}


def write_model(kind: str, family: str, folder: Path, texts: list[str]) -> None:
    """A random model of transformers beside a small tokenizer; its embedding is padded."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    write_folder(kind, texts, folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    torch.manual_seed(0)
    rows = -(-len(tokenizer) // 64) * 64
    more = {"sliding_window": None} if family == "mistral" else {}
    config = AutoConfig.for_model(
        family, vocab_size=rows, bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id, tie_word_embeddings=family == "qwen2", **SIZES, **more,
    )  # fmt: skip
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)


@pytest.mark.parametrize(
    ("kind", "family", "task"),
    [
        ("llama3", "llama", "ask"),
        ("qwen", "qwen2", "chat"),
        pytest.param("yi", "llama", "ask", marks=pytest.mark.nightly),
        pytest.param("mistral", "mistral", "chat", marks=pytest.mark.nightly),
    ],
)
def test_a_model_with_its_own_format_answers_in_transformers_as_here(
    kind: str,
    family: str,
    task: str,
    tmp_path: Path,
    shared_data: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    said = [t.text for d in all_real_dialogues(shared_data)[:60] for t in d.turns][:400]
    write_model(kind, family, tmp_path / "hf", said)
    assert main(["convert", "hf-to-flax", str(tmp_path / "hf"), str(tmp_path / "base")]) == 0
    assert f"--data.template {KINDS[kind].template}" in capsys.readouterr().out
    made: Any = yaml.safe_load((tmp_path / "base/config.yaml").read_text())
    config = {
        "out": str(tmp_path / "run"),
        "task": task,
        "model": made["model"],
        "init_from": str(tmp_path / "base"),
        "data": {
            "sources": [
                {"kind": "messages", "path": str(shared_data / "dialogues/wildchat.jsonl")}
            ],
            "tokenizer": str(tmp_path / "base/tokenizer"),
            "template": KINDS[kind].template,
            "mask": {"loss_roles": ["user" if task == "ask" else "assistant"]},
            "row_tokens": 256,
            "eval_fraction": 0.05,
            "cache_dir": str(tmp_path / "cache"),
        },
        "batch_rows": 8,
        "max_steps": 3,
        "compute_dtype": "float32",
    }
    (tmp_path / "config.yaml").write_text(json.dumps(config))
    assert main(["train", str(tmp_path / "config.yaml")]) == 0
    assert main(["convert", "flax-to-hf", str(tmp_path / "run"), str(tmp_path / "out")]) == 0

    turns = [("user", "Who wrote <|im_end|> it?"), ("assistant", " 12 🙂"), ("user", "And then?")]
    turns = turns[:2] if task == "ask" else turns
    messages = [{"role": role, "content": text} for role, text in turns]
    run = load_run(tmp_path / "run")
    prompt = run.template.prompt("", turns)  # type: ignore[arg-type]
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    theirs = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    assert theirs == prompt
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32).eval()
    stops = list(run.template.stop_ids)
    assert model.generation_config.eos_token_id in (stops, stops[0])
    reply = model.generate(torch.tensor([prompt]), max_new_tokens=20, do_sample=False)
    (ours,) = run.generate([messages], max_tokens=20)
    ids = reply[0, len(prompt) :].tolist()
    assert tokenizer.decode(ids, skip_special_tokens=True).strip() == ours.text
    assert (ids[-1] in stops) == (ours.finish_reason == "stop")
