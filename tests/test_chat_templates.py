"""The chat formats of other models, rendered as vLLM renders them.

FastChat's `get_prompt` gives the same texts for three of them; it leaves the first `<s>` to the
tokenizer. Its default system messages are long: here are their hashes.
"""

import hashlib
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import transformers

from parrot_jax.cli import main
from parrot_jax.core.shipped import FOLDER, shipped_chat_templates

DIALOGUE = [
    {"role": "user", "content": "Q1"},
    {"role": "assistant", "content": " A1"},  # vLLM's replies may begin with a space
    {"role": "user", "content": "Q2"},
    {"role": "assistant", "content": "A2"},
    {"role": "user", "content": "Q3"},
]
SYSTEM = {"role": "system", "content": "Be brief."}

# Without and with a system message; {default} is the model's own.
GOLDEN = {
    "vicuna_v1.1": (
        "<s>{default} USER: Q1 ASSISTANT: A1</s>USER: Q2 ASSISTANT: A2</s>USER: Q3 ASSISTANT:",
        "<s>Be brief. USER: Q1 ASSISTANT: A1</s>USER: Q2 ASSISTANT: A2</s>USER: Q3 ASSISTANT:",
    ),
    "baize_v2": (
        "<s>{default}\n[|Human|]Hello!\n[|AI|]Hi!\n"
        "[|Human|]Q1\n[|AI|]A1\n[|Human|]Q2\n[|AI|]A2\n[|Human|]Q3\n[|AI|]",
        "<s>Be brief.\n[|Human|]Hello!\n[|AI|]Hi!\n"
        "[|Human|]Q1\n[|AI|]A1\n[|Human|]Q2\n[|AI|]A2\n[|Human|]Q3\n[|AI|]",
    ),
    "ultralm_13b": (
        "<s>User: Q1</s>\nAssistant: A1</s>\nUser: Q2</s>\nAssistant: A2</s>\nUser: Q3</s>\n"
        "Assistant: ",
        "<s>User: Be brief.</s>\n"
        "User: Q1</s>\nAssistant: A1</s>\nUser: Q2</s>\nAssistant: A2</s>\nUser: Q3</s>\n"
        "Assistant: ",
    ),
    "llama_2_chat": (
        "<s>[INST] Q1 [/INST] A1 </s><s>[INST] Q2 [/INST] A2 </s><s>[INST] Q3 [/INST]",
        "<s>[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\nQ1 [/INST] A1 </s>"
        "<s>[INST] Q2 [/INST] A2 </s><s>[INST] Q3 [/INST]",
    ),
}
# SHA-256 of the default system messages in FastChat 0.2.36, without spaces around them.
DEFAULTS = {
    "vicuna_v1.1": "1fa69e2371b762d1882b0bd98d284f312a36c27add732016e12e52586f98a9f5",
    "baize_v2": "9127056ffebe479e9840d05d7de3c75007773827df14a60760d607bacd1aef8b",
}


def render(name: str, messages: list[dict[str, str]], **options: Any) -> str:
    """As transformers and vLLM do: with the tokenizer's own sandbox."""
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizers.Tokenizer(tokenizers.models.WordLevel({"<s>": 0}, "<s>")),
        bos_token="<s>", eos_token="</s>",
    )  # fmt: skip
    return tokenizer.apply_chat_template(
        messages,
        chat_template=(FOLDER / "chat_templates" / f"{name}.jinja").read_text(),
        tokenize=False,
        **{"add_generation_prompt": True} | options,
    )


def test_every_shipped_template_is_tested() -> None:
    assert {Path(path).stem for path in shipped_chat_templates()} == GOLDEN.keys()


@pytest.mark.parametrize("name", GOLDEN)
def test_three_turns_without_and_with_a_system_message(name: str) -> None:
    without, with_system = GOLDEN[name]
    assert render(name, [SYSTEM, *DIALOGUE]) == with_system
    rendered = render(name, DIALOGUE)
    before, slot, after = without.partition("{default}")
    if slot:
        default = rendered.removeprefix(before).removesuffix(after)
        assert hashlib.sha256(default.encode()).hexdigest() == DEFAULTS[name]
    else:
        assert rendered == without
    # An empty system message is none at all, not the default one.
    empty = render(name, [{"role": "system", "content": ""}, *DIALOGUE])
    assert empty == with_system.replace(
        {"vicuna_v1.1": "Be brief. ", "baize_v2": "Be brief.\n",
         "ultralm_13b": "User: Be brief.</s>\n",
         "llama_2_chat": "<<SYS>>\nBe brief.\n<</SYS>>\n\n"}[name],
        "",
    )  # fmt: skip


@pytest.mark.parametrize("name", GOLDEN)
def test_the_prompt_goes_on_where_the_answer_did(name: str) -> None:
    """What the model wrote after turn 1 stands in the same place before turn 2."""
    whole = render(name, DIALOGUE[:3])
    assert whole.startswith(render(name, DIALOGUE[:1]).rstrip(" "))
    assert whole.startswith(render(name, DIALOGUE[:2], add_generation_prompt=False))


@pytest.mark.parametrize("name", GOLDEN)
def test_turns_must_alternate(name: str) -> None:
    for messages in (DIALOGUE[1:], [*DIALOGUE, DIALOGUE[0]], [DIALOGUE[0], SYSTEM]):
        with pytest.raises(Exception, match="must alternate, the user first"):
            render(name, messages)


def test_a_template_is_copied_for_vllm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["configs", "copy", "vicuna_v1.1"]) == 0
    assert "vllm serve MODEL --chat-template vicuna_v1.1.jinja" in capsys.readouterr().out
    shipped = FOLDER / "chat_templates" / "vicuna_v1.1.jinja"
    assert Path("vicuna_v1.1.jinja").read_bytes() == shipped.read_bytes()
    assert main(["configs"]) == 0
    assert "  configs/chat_templates/vicuna_v1.1.jinja\n" in capsys.readouterr().out
    assert main(["configs", "copy", "vicuna_v1.2"]) == 2
    assert "did you mean configs/chat_templates/vicuna_v1.1.jinja?" in capsys.readouterr().err
