"""The peer of `data_prepare.py`: packed rows with `datasets` and TRL, as users make them.

Prints as JSON the numbers of tokens, live tokens and rows.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from datasets import load_dataset  # pyright: ignore[reportMissingImports] - an extra
from made_dialogues import END, START
from transformers import PreTrainedTokenizerFast
from trl import pack_dataset  # pyright: ignore[reportMissingImports] - an extra

PROCESSES = 2


def main(folder: Path) -> None:
    row_tokens = json.loads((folder / "config.yaml").read_text())["data"]["row_tokens"]
    tokenizer = PreTrainedTokenizerFast.from_pretrained(str(folder / "tokenizer"))

    def tokenize(batch: dict[str, Any]) -> dict[str, Any]:
        texts, borders = [], []
        for messages in batch["messages"]:
            text, border = "", []
            for message in messages:
                text += f"{START}{message['role']}\n"
                begin = len(text)
                text += message["content"].strip() + END
                if message["role"] == "assistant":
                    border += [begin, len(text)]
                text += "\n"
            texts.append(text)
            borders.append(border)
        read = tokenizer(
            texts, add_special_tokens=False, return_offsets_mapping=True,
            return_attention_mask=False, verbose=False,
        )  # fmt: skip
        ids = [np.asarray(each, np.int32) for each in read["input_ids"]]
        labels = []
        for each, offsets, border in zip(ids, read["offset_mapping"], borders, strict=True):
            first = np.asarray(offsets)[:, 0]  # in an answer where an odd number of borders is past
            live = np.searchsorted(border, first, side="right") % 2 == 1
            labels.append(np.where(live, each, np.int32(-100)))
        return {"input_ids": ids, "labels": labels}

    data = load_dataset("json", data_files=str(folder / "dialogues.jsonl"), split="train")
    data = data.map(
        tokenize, batched=True, num_proc=PROCESSES, remove_columns=data.column_names
    )  # fmt: skip
    rows = pack_dataset(data, row_tokens, map_kwargs={"num_proc": PROCESSES})
    tokens = live = 0
    for batch in rows.with_format("arrow").iter(1000):
        labels = batch["labels"].combine_chunks().flatten().to_numpy()
        tokens, live = tokens + len(labels), live + int((labels != -100).sum())
    print(json.dumps([tokens, live, len(rows)]))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
