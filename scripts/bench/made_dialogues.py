"""Made dialogues with a tokenizer and a config, for `data_prepare.py`."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

START, END = "<|im_start|>", "<|im_end|>"


class Texts:
    """Random texts: 20,000 words of one to four syllables, with Zipf's frequencies."""

    def __init__(self) -> None:
        self.rng = np.random.default_rng(0)
        parts = [a + b + c for a in "bdfgklmnprstvz" for b in "aeiou" for c in ("", "n", "r", "s")]
        made = ["".join(self.rng.choice(parts, self.rng.integers(1, 5))) for _ in range(20_000)]
        self.words = np.array(made)
        odds = 1 / np.arange(10, 20_010)
        self.upto = np.cumsum(odds / odds.sum())[:-1]

    def text(self, num_words: int) -> str:
        """A text of `num_words` words."""
        picked = np.searchsorted(self.upto, self.rng.random(num_words))
        return " ".join(self.words[picked]).capitalize() + "."

    def turns(self, words: int) -> list[str]:
        """Questions and answers in turn, 8 on average, of some `words` words each."""
        lengths = self.rng.lognormal(np.log(words) - 0.18, 0.6, 2 + 2 * self.rng.poisson(3))
        return [self.text(max(int(length), 1)) for length in lengths]


def write_dialogues(path: Path, dialogues: Iterable[list[str]]) -> None:
    roles = ("user", "assistant")
    with path.open("w") as file:
        for number, turns in enumerate(dialogues):
            said = [{"role": roles[n % 2], "content": text} for n, text in enumerate(turns)]
            file.write(json.dumps({"id": f"d{number}", "messages": said}) + "\n")


def write_tokenizer(folder: Path, texts: list[str]) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    made: Any = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<|endoftext|>", START, END]
    made.train_from_iterator(texts, trainers.BpeTrainer(
        vocab_size=8000, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    ))  # fmt: skip
    folder.mkdir()
    made.save(str(folder / "tokenizer.json"))
    known = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": END}
    (folder / "tokenizer_config.json").write_text(json.dumps(known))
    return made


def write_config(folder: Path, row_tokens: int) -> None:
    config = {
        "task": "chat", "out": str(folder / "run"),
        "data": {
            "sources": [{"kind": "messages", "path": str(folder / "dialogues.jsonl")}],
            "tokenizer": str(folder / "tokenizer"), "template": "chatml",
            "mask": {"loss_roles": ["assistant"]},
            "row_tokens": row_tokens, "cache_dir": str(folder / "cache"),
        },
        "model": {
            "vocab_size": 8000, "hidden_size": 64, "intermediate_size": 128,
            "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 4,
            "max_position_embeddings": row_tokens,
        },
    }  # fmt: skip
    (folder / "config.yaml").write_text(json.dumps(config))  # JSON is YAML
