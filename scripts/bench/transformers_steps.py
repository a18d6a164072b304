"""The peers of `real_dialogues.py`: steps of transformers on padded or packed dialogues."""

import argparse
import os
from collections.abc import Callable
from typing import Any

import numpy as np

LR = 1e-3
Counts = list[int]
"""Live tokens, tokens, positions with padding."""
Step = Callable[[int], tuple[Any, Counts]]
"""Trains on a batch of the epoch; returns its loss, and counts."""


def config_of(options: argparse.Namespace) -> Any:
    """The config of ours; the peers read the same dialogues with it."""
    from parrot_jax.core.config import config_from_dict
    from parrot_jax.train.train_config import TrainConfig

    width = options.width
    model = {
        "vocab_size": 32000, "hidden_size": width, "intermediate_size": width * 43 // 16,
        "num_hidden_layers": options.layers, "num_attention_heads": 8, "num_key_value_heads": 8,
        "max_position_embeddings": 4096, "tie_word_embeddings": True,
    }  # fmt: skip
    data = {
        "sources": [{"kind": "messages", "path": options.data, "limit": options.limit}],
        "tokenizer": options.tokenizer, "mask": {"loss_roles": ["user"], "skip_first_turn": True},
        "row_tokens": options.tokens, "cache_dir": f"{options.folder}/cache",
    }  # fmt: skip
    optim = {"lr": LR, "warmup_epochs": 0, "final_lr_fraction": 1.0}
    config = {
        "task": "ask", "out": f"{options.folder}/run", "data": data, "model": model, "optim": optim,
        "epochs": 1000, "batch_rows": options.rows, "compute_dtype": "float32",
    }  # fmt: skip
    return config_from_dict(TrainConfig, config, where="the benchmark")


def read_dialogues(options: argparse.Namespace) -> list[tuple[np.ndarray, np.ndarray]]:
    """Ids and labels of each dialogue, in the order of the file; those without labels are left out.

    They are the ids of ours, before windows are cut.
    """
    from parrot_jax.data.masks import mask_turns
    from parrot_jax.data.prepare import read_split
    from parrot_jax.data.templates import make_template
    from parrot_jax.data.tokenizers import load_tokenizer

    data = config_of(options).data
    template = make_template(data.template, load_tokenizer(data.tokenizer))
    found = []
    for dialogue in read_split(data, "train"):
        turns = mask_turns(dialogue, data.mask)
        said: Any = [(turn.role, turn.text, turn.context) for turn in turns]
        (rendered,) = template.render([(dialogue.system, said)])
        live = [False] * len(rendered.prefix.ids)
        for turn, made in zip(turns, rendered.turns, strict=True):
            content = len(made.ids) - made.num_dead - made.num_tail
            live += [False] * made.num_dead + [turn.weight > 0] * content + [False] * made.num_tail
        ids = np.array(rendered.ids())[: options.tokens]
        labels = np.where(live[: options.tokens], ids, -100)
        if (labels >= 0).any():
            end = np.flatnonzero(labels >= 0)[-1] + 1 if options.trim else len(ids)
            found.append((ids[:end], labels[:end]))
    return found


def torch_steps(options: argparse.Namespace, kind: str) -> tuple[int, Step]:
    """The number of steps of an epoch, and a step of transformers."""
    import torch  # pyright: ignore[reportMissingImports] - an extra
    from transformers import LlamaConfig, LlamaForCausalLM

    from parrot_jax.data.packing import plan_rows

    torch.set_num_threads(os.cpu_count() or 1)
    torch.manual_seed(0)
    config = config_of(options).model
    names = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers",
             "num_attention_heads", "num_key_value_heads", "max_position_embeddings",
             "tie_word_embeddings")  # fmt: skip
    sizes = {name: getattr(config, name) for name in names}
    model: Any = LlamaForCausalLM(LlamaConfig(**sizes, use_cache=False)).train()
    weights = list(model.parameters())
    optimizer = torch.optim.AdamW(weights, lr=LR, betas=(0.9, 0.95), weight_decay=0.0, fused=True)
    if kind == "compiled":
        model = torch.compile(model, dynamic=True)
    dialogues = read_dialogues(options)
    lengths = [len(ids) for ids, _ in dialogues]
    is_packed = kind == "packed"
    plan = plan_rows(lengths, options.tokens, packing=is_packed)
    if is_packed:  # best fit begins with the longest
        np.random.default_rng(0).shuffle(plan)
    batches = [plan[n : n + options.rows] for n in range(0, len(plan), options.rows)]

    def step(number: int) -> tuple[Any, Counts]:
        rows = [[dialogues[member] for member in row] for row in batches[number % len(batches)]]
        longest = max(sum(len(ids) for ids, _ in row) for row in rows)
        width = options.tokens if is_packed else longest
        tokens, labels, positions, mask = np.zeros((4, len(rows), width), np.int64)
        labels[:] = -100
        for place, row in enumerate(rows):
            start = 0
            for ids, each in row:
                part = (place, slice(start, start + len(ids)))
                tokens[part], labels[part], mask[part] = ids, each, 1
                positions[part] = np.arange(len(ids))
                start += len(ids)
            positions[place, start:] = np.arange(width - start)
        extra = {"position_ids": positions} if is_packed else {"attention_mask": mask}
        inputs = {"input_ids": tokens, "labels": labels} | extra
        loss = model(**{name: torch.from_numpy(value) for name, value in inputs.items()}).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return loss.detach(), [int((labels >= 0).sum()), int(mask.sum()), tokens.size]

    return len(batches), step
