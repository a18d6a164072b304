"""Tokens per second of the train step, compared with a plain implementation.

The plain implementation uses `jax.nn.dot_product_attention` with a segment mask, and cross-entropy
over all logits. Ours is what `parrot train` runs: block-causal attention, and tiled logits of live
tokens only. Both do one AdamW update on the same packed rows, alternating in one process. Prints
medians, their ratio, and both losses as a check.

    python scripts/bench/train_step.py [--rows 8] [--tokens 512] [--live 0.13] [--repeats 7]
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array

from parrot_jax.losses.token_loss import default_tile
from parrot_jax.model import attention, decoder
from parrot_jax.model.attention import choose
from parrot_jax.model.families import num_parameters
from parrot_jax.model.model_config import ModelConfig
from parrot_jax.train.forward import Batch, Forward, next_tokens
from parrot_jax.train.objectives import RoleMaskedLoss
from parrot_jax.train.step import train_step
from parrot_jax.train.train_state import TrainState

CONFIG = ModelConfig(
    vocab_size=32000,
    hidden_size=256,
    intermediate_size=688,
    num_hidden_layers=4,
    num_attention_heads=8,
    num_key_value_heads=8,
    max_position_embeddings=4096,
    tie_word_embeddings=True,
)


def plain_attention(query: Array, key: Array, value: Array, segments: Array | None) -> Array:
    """One call with a segment mask of [B, 1, T, T]."""
    assert segments is not None
    same = segments[:, None, :, None] == segments[:, None, None, :]
    return jax.nn.dot_product_attention(query, key, value, mask=same, is_causal=True)


PLAIN = attention.Backend(name="plain", platforms=None, segments=True, function=plain_attention)


def plain_step(state: TrainState, batch: Batch, optimizer: optax.GradientTransformation) -> Any:
    """One update with all logits."""
    rows = {name: array[0] for name, array in batch.items()}

    def loss(params: Any) -> Array:
        hidden = decoder.hidden_states(
            CONFIG, params, rows["tokens"], rows["segment_ids"], rows["positions"],
            compute_dtype=jnp.float32, attention=PLAIN, remat="none",
        )  # fmt: skip
        logits = hidden @ decoder.unembedding(params)
        targets, weights = next_tokens(rows)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, targets)
        return (losses * weights).sum() / weights.sum()

    value, grads = jax.value_and_grad(loss)(state.params)
    grads, _ = optax.clip_by_global_norm(1.0).update(grads, optax.EmptyState())
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    return TrainState(optax.apply_updates(state.params, updates), opt_state, state.step + 1), value


def packed_batch(rows: int, tokens: int, live: float) -> Batch:
    """Random rows of three to six segments, with live tokens in runs of about 20."""
    rng = np.random.default_rng(0)
    cuts = [np.sort(rng.choice(tokens, rng.integers(2, 6), replace=False)) for _ in range(rows)]
    segments = np.stack([np.searchsorted(c, np.arange(tokens), side="right") + 1 for c in cuts])
    is_live = np.repeat(rng.random((rows, -(-tokens // 20))) < live, 20, axis=1)[:, :tokens]
    batch = {
        "tokens": rng.integers(3, CONFIG.vocab_size, (rows, tokens)),
        "loss_weights": is_live.astype(np.float32),
        "segment_ids": segments,
        "positions": np.tile(np.arange(tokens), (rows, 1)),
    }
    return {
        name: jnp.asarray(array[None], jnp.float32 if name == "loss_weights" else jnp.int32)
        for name, array in batch.items()
    }


def flops_per_step(rows: int, tokens: int, live: float) -> tuple[float, float]:
    """FLOPs of the matrix products of a step: (layers, head of live tokens only).

    6 per weight and token, of live tokens in the head, plus causal attention, 6 T D per token and
    layer.
    """
    c = CONFIG
    weights = c.num_hidden_layers * (4 * c.hidden_size**2 + 3 * c.hidden_size * c.intermediate_size)
    attend = 6 * c.num_hidden_layers * tokens * c.hidden_size
    count = rows * tokens
    return count * (6 * weights + attend), 6 * live * count * c.hidden_size * c.vocab_size


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--live", type=float, default=0.13, help="share of live tokens")
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    batch = packed_batch(options.rows, options.tokens, options.live)
    live = float((batch["loss_weights"] > 0).mean())
    capacity = int(np.ceil(1.3 * live * options.rows * options.tokens / 256) * 256)
    optimizer = optax.with_extra_args_support(optax.adamw(1e-3))
    forward = Forward(
        model=CONFIG, compute_dtype=jnp.dtype("float32"), attention=choose(), remat="none",
        loss_tile=default_tile("cpu"),
    )  # fmt: skip

    def ours(state: TrainState, batch: Batch) -> Any:
        state, metrics = train_step(
            state, batch, 1e-3, forward=forward, optimizer=optimizer, clip_norm=1.0,
            objective=RoleMaskedLoss(capacity),
        )  # fmt: skip
        return state, metrics.loss

    steps: dict[str, Callable[[TrainState, Batch], Any]] = {
        "ours": jax.jit(ours, donate_argnums=0),
        "plain": jax.jit(lambda s, b: plain_step(s, b, optimizer), donate_argnums=0),
    }
    states, losses = {}, {}
    for name, step in steps.items():
        params = decoder.init_params(CONFIG, 0)
        state = TrainState(params, optimizer.init(params), jnp.int32(0))
        states[name], losses[name] = step(state, batch)
        losses[name] = float(losses[name])
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(options.repeats):
        for name, step in steps.items():
            started = time.perf_counter()
            states[name], _ = jax.block_until_ready(step(states[name], batch))
            seconds[name].append(time.perf_counter() - started)
    count = options.rows * options.tokens
    print(f"{num_parameters(CONFIG):,} parameters, {count:,} tokens per step, {live:.1%} live")
    print(f"first loss: ours {losses['ours']:.5f}, plain {losses['plain']:.5f}")
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    for name, median in medians.items():
        spread = f"{min(seconds[name]) * 1e3:.0f} to {max(seconds[name]) * 1e3:.0f}"
        print(f"{name:6} {median * 1e3:6.0f} ms ({spread})  {count / median:8,.0f} tok/s")
    print(f"ours is {medians['plain'] / medians['ours']:.2f} times as fast")
    layers, head = flops_per_step(options.rows, options.tokens, live)
    print(
        f"lower bound: {layers / 1e9:.0f} GFLOP in the layers + {head / 1e9:.0f} in the head; "
        f"ours does {(layers + head) / medians['ours'] / 1e9:.0f} GFLOP/s"
    )


if __name__ == "__main__":
    main()
