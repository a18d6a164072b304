"""Perplexity on held-out dialogues, by speaker and by turn.

Every run is measured on the same tokens, independent of its loss mask: content and terminator of
all turns of both speakers.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from numpy.typing import NDArray

from parrot_jax.data.prepare import Prepared
from parrot_jax.losses.token_loss import token_nll
from parrot_jax.train.forward import Batch, Forward, next_tokens
from parrot_jax.train.program import KEPT_PROGRAMS, put_rows

TURN_NLL_DTYPE = np.dtype(
    [
        ("dialogue", np.int32),
        ("turn", np.int32),
        ("is_user", np.bool_),
        ("tokens", np.int32),
        ("nll", np.float64),
    ]
)
"""A held-out turn: its number of tokens and their summed loss in nats."""


@functools.lru_cache(maxsize=KEPT_PROGRAMS)
def compile_token_nll(
    forward: Forward, batch_sharding: NamedSharding
) -> Callable[[Any, Batch], jax.Array]:
    """A jitted function (params, batch [rows, T]) -> loss of each token in nats, [rows, T].

    Column t holds the loss of token t itself; column 0 is 0. Equal arguments return the same
    function, so a process compiles it once.
    """

    def nll(params: Any, batch: Batch) -> jax.Array:
        targets, _ = next_tokens(batch)
        losses = token_nll(
            forward.hidden(params, batch),
            forward.unembedding(params),
            targets,
            tile=forward.loss_tile,
            shards=forward.row_shards,
        )
        return jax.numpy.roll(losses, 1, axis=1).at[:, 0].set(0.0)

    everywhere = NamedSharding(batch_sharding.mesh, PartitionSpec())
    return jax.jit(nll, in_shardings=(None, batch_sharding), out_shardings=everywhere)


def evaluate(
    token_nlls: Callable[[Any, Batch], jax.Array],
    params: Any,
    prepared: Prepared,
    *,
    batch_rows: int,
    sharding: NamedSharding,
    advance: Callable[[int], None] = lambda rows: None,
) -> NDArray[Any]:
    """Measures each held-out turn.

    Args:
      token_nlls: From `compile_token_nll`.
      params: The weights.
      prepared: The eval split.
      batch_rows: Rows of a batch; the last batch is filled with copies of its last row.
      sharding: Of a batch [rows, T]. Each process reads the rows of its devices and gets the
        losses of all.
      advance: Called after each batch with its number of rows.

    Returns:
      One record of `TURN_NLL_DTYPE` per live turn.
    """
    rows, spans = prepared.rows(), prepared.spans()
    row_tokens = len(rows[0]["tokens"])
    # sums[r, t] = summed loss of the tokens before t in row r; a span's loss is a difference.
    sums = []
    for first in range(0, len(rows), batch_rows):

        def read(places: Sequence[int], first: int = first) -> dict[str, NDArray[Any]]:
            picked = [rows[min(first + place, len(rows) - 1)] for place in places]
            return {name: np.stack([row[name] for row in picked]) for name in picked[0]}

        batch = put_rows(read, (batch_rows, row_tokens), sharding)
        losses = np.asarray(token_nlls(params, batch), np.float64)
        losses = losses[: len(rows) - first]
        sums.append(np.concatenate([np.zeros((len(losses), 1)), losses.cumsum(axis=1)], axis=1))
        advance(min(first + batch_rows, len(rows)))
    cumulative = np.concatenate(sums)
    turns = np.zeros(len(spans), TURN_NLL_DTYPE)
    for name in ("dialogue", "turn", "is_user"):
        turns[name] = spans[name]
    turns["tokens"] = spans["stop"] - spans["start"]
    turns["nll"] = (
        cumulative[spans["row"], spans["stop"]] - cumulative[spans["row"], spans["start"]]
    )
    return turns


def summarise(turns: NDArray[Any]) -> dict[str, Any]:
    """Perplexities of measured turns.

    Args:
      turns: Records of `TURN_NLL_DTYPE`.

    Returns:
      `user_ppl` over user turns 2..T, `assistant_ppl` over all assistant turns, the token count of
      each, and for both speakers `*_ppl_by_turn`: entry k is for question (or answer) k + 1 of a
      dialogue. A perplexity of no tokens is None.
    """
    later_user = turns[turns["is_user"] & (turns["turn"] > 0)]
    assistant = turns[~turns["is_user"]]
    return {
        "user_ppl": _perplexity(later_user),
        "user_tokens": int(later_user["tokens"].sum()),
        "assistant_ppl": _perplexity(assistant),
        "assistant_tokens": int(assistant["tokens"].sum()),
        "user_ppl_by_turn": _by_round(turns[turns["is_user"]]),
        "assistant_ppl_by_turn": _by_round(assistant),
    }


def _by_round(turns: NDArray[Any]) -> list[float | None]:
    rounds = turns["turn"] // 2
    return [_perplexity(turns[rounds == k]) for k in range(int(rounds.max(initial=-1)) + 1)]


def _perplexity(turns: NDArray[Any]) -> float | None:
    tokens = int(turns["tokens"].sum())
    if not tokens:
        return None
    # exp() overflows above about 709; no model is that bad.
    return math.exp(min(float(turns["nll"].sum()) / tokens, 700.0))
