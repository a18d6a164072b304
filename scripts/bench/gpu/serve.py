"""Tokens per second of the server with a 7B model of random weights, at 1, 8 and 64 requests.

The server of `parrot serve` and its stock client share this process. A step of decoding reads all
weights, so the bound is bytes of the weights and of the cache over the card's bandwidth.
"""

import asyncio
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import openai
import tokenizers
from measuring import TOY, record

from parrot_jax.core.xla_flags import set_xla_flags
from parrot_jax.data.templates import make_template
from parrot_jax.data.tokenizers import load_tokenizer
from parrot_jax.model.decoder import init_params
from parrot_jax.model.model_config import ModelConfig
from parrot_jax.serve.app import make_app
from parrot_jax.serve.background import BackgroundServer
from parrot_jax.serve.jax_engine import JaxEngine

MODEL = (
    ModelConfig(
        vocab_size=1000,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=2048,
    )
    if TOY
    else ModelConfig()
)
REQUESTS = (1, 2, 4) if TOY else (1, 8, 64)
NEW_TOKENS = 16 if TOY else 128
BANDWIDTH = 4.8e12
"""Bytes per second of an H200, from the vendor."""


def write_tokenizer(folder: Path, size: int) -> None:
    """A byte-level tokenizer of exactly `size` tokens: bytes, pairs of bytes, and `</s>`."""
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    special = ["<unk>", "<s>", "</s>"]
    pairs = [(one, two) for one in alphabet for two in alphabet]
    pairs = pairs[: size - len(alphabet) - len(special)]
    names = [*special, *alphabet, *(one + two for one, two in pairs)]
    vocab = {name: number for number, name in enumerate(names)}
    made = tokenizers.Tokenizer(tokenizers.models.BPE(vocab, pairs))
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = tokenizers.decoders.ByteLevel()
    made.add_special_tokens([tokenizers.AddedToken(name, special=True) for name in special])
    made.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(
        '{"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}'
    )


async def ask(url: str, count: int, seed: int) -> int:
    """New tokens of `count` requests that run at the same time."""
    async with openai.AsyncOpenAI(base_url=url, api_key="none", timeout=600) as client:

        async def one(number: int) -> int:
            words = " ".join(f"word{number}" for _ in range(20 if TOY else 60))
            reply = await client.chat.completions.create(
                model="bench",
                messages=[{"role": "user", "content": words}],
                max_tokens=NEW_TOKENS,
                temperature=1.0,
                seed=seed * 1000 + number,
            )
            assert reply.usage is not None
            return reply.usage.completion_tokens

        return sum(await asyncio.gather(*map(one, range(count))))


def main() -> None:
    set_xla_flags()  # also the share of the card's memory
    params: Any = init_params(MODEL, 0, dtype="bfloat16")
    weights = sum(leaf.size for leaf in jax.tree.leaves(params)) * 2
    with tempfile.TemporaryDirectory() as name:
        write_tokenizer(Path(name), MODEL.vocab_size)
        template = make_template("parrot", load_tokenizer(name))
    for count in REQUESTS:
        engine = JaxEngine(
            "bench", "chat", MODEL, params, template, compute_dtype=jnp.bfloat16, batch_rows=count
        )
        with BackgroundServer(make_app(engine)) as server:
            started = time.perf_counter()
            asyncio.run(ask(server.url, count, 0))
            first = time.perf_counter() - started
            rates = []
            for seed in range(1, 4):
                started = time.perf_counter()
                tokens = asyncio.run(ask(server.url, count, seed))
                rates.append(tokens / (time.perf_counter() - started))
        bound = count / (weights / BANDWIDTH)
        record(
            f"{count} requests of {NEW_TOKENS} new tokens",
            f"{statistics.median(rates):,.0f} tokens/s ({min(rates):,.0f} to {max(rates):,.0f}), "
            f"first {first:.1f} s with compilation",
            predicted="" if TOY else f"at most {bound:,.0f} by reading the weights",
            rates=rates,
        )


if __name__ == "__main__":
    main()
