"""Small tokenizers in the layouts of published models, and the chat templates that these have.

Each is trained on a text and saved as a folder that transformers loads.
"""

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import tokenizers
from tokenizers import (
    AddedToken,
    Regex,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

# How Llama 3 and Qwen cut texts into words: the former takes up to three digits, the latter one.
WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{%s}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
VOCAB = 1500


class Kind(NamedTuple):
    """A published layout."""

    template: str
    """The name in `data.template`."""
    published: str
    """The Jinja template of its folder."""
    bos: str | None
    eos: str
    pad: str | None
    make: Callable[[Iterable[str]], tokenizers.Tokenizer]


def _byte_level(
    texts: Iterable[str], specials: list[str], digits: str, *, bos: str | None = None
) -> tokenizers.Tokenizer:
    made = tokenizers.Tokenizer(models.BPE(ignore_merges=digits == "1,3"))
    words = pre_tokenizers.Split(Regex(WORDS % digits), "isolated")
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    made.pre_tokenizer = pre_tokenizers.Sequence([words, level])  # type: ignore[assignment]
    made.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=VOCAB, initial_alphabet=alphabet, show_progress=False)
    )
    made.add_special_tokens([AddedToken(text, normalized=False) for text in specials])
    trim: Any = processors.ByteLevel(trim_offsets=True)
    if bos is not None:
        adds = processors.TemplateProcessing(
            single=f"{bos} $A",
            pair=f"{bos} $A {bos} $B",
            special_tokens=[(bos, made.token_to_id(bos))],
        )  # fmt: skip
        trim = processors.Sequence([trim, adds])
    made.post_processor = trim
    return made


def _llama3(texts: Iterable[str]) -> tokenizers.Tokenizer:
    names = ["begin_of_text", "end_of_text", "start_header_id", "end_header_id", "eot_id",
             *(f"reserved_special_token_{n}" for n in range(250))]  # fmt: skip
    return _byte_level(texts, [f"<|{n}|>" for n in names], "1,3", bos="<|begin_of_text|>")


def _qwen(texts: Iterable[str]) -> tokenizers.Tokenizer:
    made = _byte_level(texts, ["<|endoftext|>", "<|im_start|>", "<|im_end|>"], "1")
    made.normalizer = normalizers.NFC()  # type: ignore[assignment]
    # Qwen 3 has marks of thinking that are no special tokens.
    made.add_tokens([AddedToken(text, normalized=False) for text in ("<think>", "</think>")])
    return made


def _smollm(texts: Iterable[str]) -> tokenizers.Tokenizer:
    made = tokenizers.Tokenizer(models.BPE())
    digits = pre_tokenizers.Digits(individual_digits=True)
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    made.pre_tokenizer = pre_tokenizers.Sequence([digits, level])  # type: ignore[assignment]
    made.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    made.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=VOCAB,
            special_tokens=special,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    return made


def _metaspace(texts: Iterable[str], specials: list[str]) -> tokenizers.Tokenizer:
    """A BPE with `▁` and byte fallback, still without normalizer and pre-tokenizer."""
    trained = tokenizers.Tokenizer(models.BPE())
    lines = pre_tokenizers.Split("\n", "isolated")  # no token spans lines, as in published models
    words = pre_tokenizers.Metaspace("▁", prepend_scheme="never")
    trained.pre_tokenizer = pre_tokenizers.Sequence([lines, words])  # type: ignore[assignment]
    trained.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=VOCAB, limit_alphabet=300, show_progress=False)
    )
    model = json.loads(trained.to_str())["model"]
    tokens = ["<unk>", *specials, *(f"<0x{byte:02X}>" for byte in range(256))]
    tokens += [token for token in model["vocab"] if token not in tokens]
    vocab = {token: index for index, token in enumerate(tokens)}
    merges = [tuple(merge) for merge in model["merges"]]
    made = tokenizers.Tokenizer(
        models.BPE(vocab=vocab, merges=merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    made.add_special_tokens([AddedToken(text, normalized=False) for text in ("<unk>", *specials)])
    return made


def _decoder(*, strip: bool) -> Any:
    steps: list[Any] = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    return decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)] if strip else steps)


def _adds_bos(made: tokenizers.Tokenizer) -> None:
    made.post_processor = processors.TemplateProcessing(  # type: ignore[assignment]
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", made.token_to_id("<s>"))]
    )


def _tinyllama(texts: Iterable[str]) -> tokenizers.Tokenizer:
    """The older layout: `▁` is put before every part between special tokens."""
    made = _metaspace(texts, ["<s>", "</s>"])
    made.normalizer = normalizers.Sequence(  # type: ignore[assignment]
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    made.decoder = _decoder(strip=True)
    _adds_bos(made)
    return made


def _stripping(texts: Iterable[str]) -> tokenizers.Tokenizer:
    """A special token that takes the white space before it, so that turns cannot be separated."""
    made = _byte_level(texts, ["<|endoftext|>", "<|im_end|>"], "1")
    made.add_special_tokens([AddedToken("<|im_start|>", normalized=False, lstrip=True)])
    return made


def _mistral(texts: Iterable[str]) -> tokenizers.Tokenizer:
    made = _metaspace(texts, ["<s>", "</s>", "[INST]", "[/INST]"])
    made.pre_tokenizer = pre_tokenizers.Metaspace("▁", prepend_scheme="first", split=False)  # type: ignore[assignment]
    made.decoder = _decoder(strip=True)
    _adds_bos(made)
    return made


def _tekken(texts: Iterable[str]) -> tokenizers.Tokenizer:
    """Byte-level, with line breaks joined to the punctuation before them, as in Mistral Nemo."""
    return _byte_level([*texts, ".\n\n" * 50], ["<unk>", "<s>", "</s>", "[INST]", "[/INST]"], "1",
                       bos="<s>")  # fmt: skip


def _yi(texts: Iterable[str]) -> tokenizers.Tokenizer:
    """No `▁` at the beginning at all."""
    made = _metaspace(texts, ["<|startoftext|>", "<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    made.normalizer = normalizers.Replace(" ", "▁")  # type: ignore[assignment]
    made.decoder = _decoder(strip=False)
    return made


_TURNS = "{% for m in messages %}"
_CHATML = (
    _TURNS + "{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
_LLAMA3 = (
    "{{ bos_token }}" + _TURNS + "{{ '<|start_header_id|>' + m['role'] + '<|end_header_id|>\n\n'"
    " + m['content'] | trim + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
# What a first system message becomes: `said` is put before a question.
_SYSTEM = (
    "{% set said = '' %}{% if messages[0]['role'] == 'system' %}"
    "{% set said = messages[0]['content'] %}{% set messages = messages[1:] %}{% endif %}"
)
_MISTRAL = (
    _SYSTEM + "{{ bos_token }}" + _TURNS + "{% if m['role'] == 'user' %}"
    "{{ 'OPEN' + (said + '\n\n' if said and loop.first else '') + m['content'] + 'CLOSE' }}"
    "{% else %}{{ ' ' + m['content'] | trim + eos_token }}{% endif %}{% endfor %}"
)
_LLAMA2 = (
    _SYSTEM + _TURNS + "{% if m['role'] == 'user' %}{{ bos_token + '[INST] ' + "
    "('<<SYS>>\n' + said + '\n<</SYS>>\n\n' if said and loop.first else '')"
    " + m['content'] | trim + ' [/INST]' }}"
    "{% else %}{{ ' ' + m['content'] | trim + ' ' + eos_token }}{% endif %}{% endfor %}"
)
_VICUNA = (
    _SYSTEM + "{{ bos_token + (said + ' ' if said else '') }}" + _TURNS
    + "{% if m['role'] == 'user' %}{{ 'USER: ' + m['content'] }}"
    "{% else %}{{ ' ASSISTANT: ' + m['content'] + eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ ' ASSISTANT:' }}{% endif %}"
)  # fmt: skip

KINDS = {
    "llama3": Kind("llama3", _LLAMA3, "<|begin_of_text|>", "<|end_of_text|>", None, _llama3),
    "qwen": Kind("chatml", _CHATML, None, "<|im_end|>", "<|endoftext|>", _qwen),
    "stripping": Kind("chatml", _CHATML, None, "<|im_end|>", None, _stripping),
    "smollm": Kind("chatml", _CHATML, "<|im_start|>", "<|im_end|>", "<|im_end|>", _smollm),
    "yi": Kind("chatml", _CHATML, "<|startoftext|>", "<|endoftext|>", "<unk>", _yi),
    "mistral": Kind(
        "mistral",
        _MISTRAL.replace("OPEN", "[INST] ").replace("CLOSE", "[/INST]"),
        "<s>", "</s>", None, _mistral,
    ),
    "tekken": Kind(
        "mistral",
        _MISTRAL.replace("OPEN", "[INST] ").replace("CLOSE", "[/INST]"),
        "<s>", "</s>", None, _tekken,
    ),
    "mistral 0.1": Kind(
        "mistral_v1",
        _MISTRAL.replace("OPEN", " [INST] ").replace("CLOSE", " [/INST]"),
        "<s>", "</s>", None, _tinyllama,
    ),
    "tinyllama": Kind("llama2", _LLAMA2, "<s>", "</s>", "</s>", _tinyllama),
    "tinyllama as vicuna": Kind("vicuna", _VICUNA, "<s>", "</s>", "</s>", _tinyllama),
}  # fmt: skip


def write_folder(kind: str, texts: Iterable[str], folder: Path) -> Path:
    """Trains a tokenizer and writes its folder."""
    found = KINDS[kind]
    folder.mkdir(parents=True)
    (folder / "tokenizer.json").write_text(found.make(texts).to_str())
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": found.bos,
        "eos_token": found.eos,
        "pad_token": found.pad,
        "chat_template": found.published,
        "clean_up_tokenization_spaces": False,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder
