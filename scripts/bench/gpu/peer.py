"""The same steps by transformers and torch: the same sizes, rows, dtypes; fused AdamW, compiled.

    python scripts/bench/gpu/peer.py sft7b --attention sdpa

Segments are marked by position ids alone, from which transformers makes its block-diagonal mask.
With `--one-segment` a row is one text: that is less than the task, but lets sdpa take its fastest
kernel, so it bounds what the peer can reach. Weights and moments are bfloat16 and rounded to
nearest, which takes no more time than our stochastic rounding.
"""

import argparse
import os
import statistics
import time
from typing import Any

import torch  # pyright: ignore[reportMissingImports] - an extra
from measuring import GIB, HERE, TOY, packed_rows, record, spread, toy_config
from transformers import LlamaConfig, LlamaForCausalLM

from parrot_jax.core.config import load_config
from parrot_jax.train.train_config import TrainConfig


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("name", help="a config of scripts/bench/gpu/configs")
    parser.add_argument("--attention", default="sdpa")
    parser.add_argument("--one-segment", action="store_true")
    parser.add_argument("--eager", action="store_true", help="without torch.compile")
    parser.add_argument("--steps", type=int, default=4 if TOY else 12)
    options = parser.parse_args()
    config = toy_config(load_config(TrainConfig, HERE / "configs" / f"{options.name}.yaml"))
    what = options.attention + ", one segment" * options.one_segment + ", eager" * options.eager
    if TOY and options.attention == "flex_attention":
        record(f"transformers {what}", "not run: flex_attention has no backward pass on a CPU")
        return
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu" and not TOY:
        raise SystemExit("torch cannot use a GPU here")
    torch.manual_seed(0)
    sizes = config.model
    make: Any = LlamaConfig  # its types lack the attention's name
    shape = make(
        vocab_size=sizes.vocab_size,
        hidden_size=sizes.hidden_size,
        intermediate_size=sizes.intermediate_size,
        num_hidden_layers=sizes.num_hidden_layers,
        num_attention_heads=sizes.num_attention_heads,
        num_key_value_heads=sizes.num_key_value_heads,
        max_position_embeddings=sizes.max_position_embeddings,
        use_cache=False,
        attn_implementation=options.attention,
    )
    torch.set_default_dtype(torch.bfloat16)
    with torch.device(device):
        model: Any = LlamaForCausalLM(shape)
    torch.set_default_dtype(torch.float32)
    model.train()
    model.gradient_checkpointing_enable({"use_reentrant": False})
    if not (TOY or options.eager):
        model.compile()
    optimizer = torch.optim.AdamW(
        model.parameters(),
        lr=config.optim.lr,
        betas=(0.9, 0.95),
        weight_decay=0.0,
        fused=device == "cuda",
    )
    tokens = config.batch_rows * config.data.row_tokens
    seconds, losses = [], []
    for step in range(options.steps):
        rows = packed_rows(
            step, rows=config.batch_rows, tokens=config.data.row_tokens, vocab=sizes.vocab_size
        )
        ids = torch.tensor(rows["tokens"], device=device, dtype=torch.long)
        positions = torch.tensor(rows["positions"], device=device, dtype=torch.long)
        labels = ids.masked_fill(positions == 0, -100)  # not the next segment's first token
        if options.one_segment:
            positions, labels = None, ids
        _wait(device)
        started = time.perf_counter()
        loss = model(input_ids=ids, position_ids=positions, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
        _wait(device)
        seconds.append(time.perf_counter() - started)
    timed = seconds[2:]
    middle = statistics.median(timed)
    peak = torch.cuda.max_memory_allocated() if device == "cuda" else 0
    record(
        f"transformers {what}",
        f"{tokens / middle:,.0f} tokens/s, {spread(timed)}, "
        f"peak {peak / GIB:.1f} GiB, loss {losses[0]:.3f} to {losses[-1]:.3f}",
        seconds=seconds,
        losses=losses,
        peak=peak,
        tokens=tokens,
    )


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    main()
