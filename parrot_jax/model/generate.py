"""Batched generation with a key/value cache, the loop on the device.

Rows are independent: each has its own prompt length, position, token limit, temperature, top-p,
seed and stopping point, so a server can batch arbitrary requests. Prompts are padded on the right:
a row's token at position p is in slot p of the cache, independent of the other rows. Shapes are
rounded up to powers of two, so that few programs are compiled.
"""

import functools
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from parrot_jax.core.errors import UserError
from parrot_jax.distributed import on_host
from parrot_jax.model import attention as attention_backends
from parrot_jax.model.attention import Backend
from parrot_jax.model.cache import Cache
from parrot_jax.model.decode import decode, prefill
from parrot_jax.model.decoder import Params, with_whole_embedding
from parrot_jax.model.layered import is_layered, layered
from parrot_jax.model.lora import LORA
from parrot_jax.model.model_config import ModelConfig
from parrot_jax.model.quantized import is_quantized
from parrot_jax.model.sampling import Sampling, sample
from parrot_jax.sharding import num_batch_shards

PART_STEPS = 8
"""Tokens per row between two calls of a listener."""

# Of a small model, compiling takes about a second, and 64 tokens instead of 16 a few milliseconds.
_SHORTEST_PROMPT, _FEWEST_STEPS = 64, 16

Number = int | float


@dataclass(frozen=True, slots=True)
class Generated:
    """The output of one row."""

    ids: tuple[int, ...]
    """The new tokens, without the prompt and without the stop token."""
    finish_reason: Literal["stop", "length"]
    """`stop`: a stop token was generated. `length`: the limit or the last position was reached."""
    logprobs: tuple[float, ...]
    """Log-probability in nats of each id under the model itself, before temperature and top-p."""


class Chunk(NamedTuple):
    """The output of one row since the previous call of the listener."""

    ids: tuple[int, ...]
    """At most `PART_STEPS` tokens; empty once the row has ended."""
    finish_reason: Literal["stop", "length"] | None
    """As in `Generated`; None = the row continues."""


Listen = Callable[[Sequence[Chunk]], Collection[int]]
"""Takes the next chunk of every row; returns the rows to stop, e.g. of cancelled requests."""


def generate(
    config: ModelConfig,
    params: Params,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int | Sequence[int],
    stop_ids: Sequence[int] = (),
    temperature: Number | Sequence[Number] = 0.0,
    top_p: Number | Sequence[Number] = 1.0,
    seeds: Sequence[int] | None = None,
    num_rows: int | None = None,
    compute_dtype: DTypeLike = jnp.bfloat16,
    attention: str = "auto",
    mesh: Mesh | None = None,
    listen: Listen | None = None,
) -> list[Generated]:
    """Continues every prompt until a stop token or its limit.

    A row that would pass `config.max_position_embeddings` ends there with reason `length`.

    Args:
      config: The sizes.
      params: The tree of parameters. Cast, and on a CPU stored otherwise, once per call, so give
        those of `for_generation`, in `compute_dtype`, to serve.
      prompts: Token ids, one list a row, each non-empty and shorter than
        `config.max_position_embeddings`.
      max_new_tokens: Limit of new tokens, >= 1; one for all rows or one per row.
      stop_ids: Tokens that end a row; they are not part of its result.
      temperature: Divides the logits; 0 takes the most likely token. For all rows or one per row.
      top_p: In (0, 1]; for all rows or one per row.
      seeds: One per row, in [0, 2^32); None = 0, 1, 2, ... A row's tokens do not depend on the
        other rows, unless the hardware's matrix products depend on the batch size.
      num_rows: Batch size on the device, at least one row per prompt; None = the next power of two.
        Unused rows cost time. With a fixed `num_rows`, a row's result is bit-identical in any batch
        of the same `padded_shape`.
      compute_dtype: Of activations and of the cache.
      attention: Attention backend for the prompts.
      mesh: The mesh that the weights are sharded over; None = one device. The number of rows is
        rounded up to a multiple of the batch shards.
      listen: Called every `PART_STEPS` tokens; does not change the results. None = the device runs
        to the end without interruption.

    Returns:
      One result per prompt, in order. A row that the listener stopped has its tokens so far and
      `length`.

    Raises:
      UserError: A prompt is empty or too long, or a setting is out of its range.
    """
    if not prompts:
        return []
    limits = _per_row("max_new_tokens", max_new_tokens, len(prompts))
    temperatures = _per_row("temperature", temperature, len(prompts))
    top_ps = _per_row("top_p", top_p, len(prompts))
    row_seeds = _per_row("seeds", range(len(prompts)) if seeds is None else seeds, len(prompts))
    _check(config, prompts, limits, temperatures, top_ps, row_seeds)
    if num_rows is None:
        num_rows = _bucket(len(prompts), 1)
    elif num_rows < len(prompts):
        raise UserError(
            f"num_rows is {num_rows}, but there are {len(prompts)} prompts; give at least as many."
        )
    shards = 1 if mesh is None else num_batch_shards(mesh)
    num_rows = -(-num_rows // shards) * shards

    length, num_steps = padded_shape(config, max(map(len, prompts)), int(max(limits)))
    tokens = np.zeros((num_rows, length), np.int32)
    for row, prompt in enumerate(prompts):
        tokens[row, : len(prompt)] = prompt
    room = [config.max_position_embeddings - len(prompt) for prompt in prompts]
    stops = np.full(_bucket(len(stop_ids), 1), -1, np.int32)
    stops[: len(stop_ids)] = stop_ids

    # numpy arrays: jax arrays would be on one device, and the weights may be on others.
    def rows(values: Sequence[Number], filler: Number, dtype: DTypeLike) -> Any:
        return np.asarray([*values, *[filler] * (num_rows - len(values))], dtype)

    lengths = rows([len(prompt) for prompt in prompts], 1, jnp.int32)
    row_limits = rows([min(pair) for pair in zip(limits, room, strict=True)], 0, jnp.int32)
    sampling = Sampling(
        rows(temperatures, 0.0, jnp.float32),
        rows(top_ps, 1.0, jnp.float32),
        rows(row_seeds, 0, jnp.uint32),
    )
    params = for_generation(config, params, compute_dtype, mesh)
    state = _start(
        config,
        params,
        tokens,
        lengths,
        num_steps=num_steps,
        compute_dtype=jnp.dtype(compute_dtype),
        backend=attention_backends.choose(
            attention, segments=False, window=config.window_within(length) is not None
        ),
        mesh=mesh,
    )
    advance = functools.partial(_advance, config, params, mesh=mesh)
    if listen is None:
        state = advance(state, lengths, row_limits, stops, sampling, np.int32(num_steps))
    else:
        seen = np.zeros(num_rows, np.int32)
        while True:
            state = advance(state, lengths, row_limits, stops, sampling, np.int32(PART_STEPS))
            ids, counts, stopped = on_host((state.ids, state.counts, state.stopped))
            ended = stopped | (counts >= row_limits)
            parts = [
                Chunk(
                    tuple(ids[row, seen[row] : counts[row]].tolist()),
                    ("stop" if stopped[row] else "length") if ended[row] else None,
                )
                for row in range(len(prompts))
            ]
            seen = counts
            row_limits = row_limits.copy()  # the device may still read the old one
            row_limits[list(listen(parts))] = 0
            if (stopped | (counts >= row_limits)).all():
                break
    ids, logprobs, counts, stopped = on_host(
        (state.ids, state.logprobs, state.counts, state.stopped)
    )
    return [
        Generated(
            tuple(ids[row, : counts[row]].tolist()),
            "stop" if stopped[row] else "length",
            tuple(logprobs[row, : counts[row]].tolist()),
        )
        for row in range(len(prompts))
    ]


def for_generation(
    config: ModelConfig, params: Params, compute_dtype: DTypeLike, mesh: Mesh | None = None
) -> Params:
    """Returns the parameters as `generate` reads them.

    On one CPU they are stored by layer (`layered.py`), which takes as much memory again. Elsewhere,
    with adapters, and if they are stored so already, they are returned as they are.
    """
    on_cpu = mesh is None and jax.default_backend() == "cpu"
    if not on_cpu or LORA in params or is_layered(params):
        return params
    return layered(config, params, jnp.dtype(compute_dtype))


def padded_shape(
    config: ModelConfig, num_prompt_tokens: int, max_new_tokens: int
) -> tuple[int, int]:
    """Returns the lengths to which `generate` pads prompts and new tokens of a batch.

    Each combination of the two lengths and the number of rows is compiled separately.

    Args:
      config: The sizes.
      num_prompt_tokens: Tokens of the longest prompt.
      max_new_tokens: The largest limit.

    Returns:
      The length for prompts, at most `config.max_position_embeddings`, and that for new tokens.
    """
    length = min(_bucket(num_prompt_tokens, _SHORTEST_PROMPT), config.max_position_embeddings)
    return length, _bucket(max_new_tokens, _FEWEST_STEPS)


# ---- the loop -----------------------------------------------------------------------------------


class _State(NamedTuple):
    """The state of the loop. `counts` are the tokens generated for each row so far."""

    cache: Cache
    logits: Float[Array, "B V"]
    ids: Int[Array, "B steps"]
    logprobs: Float[Array, "B steps"]
    counts: Int[Array, " B"]
    stopped: Bool[Array, " B"]


@functools.partial(
    jax.jit, static_argnames=("config", "num_steps", "compute_dtype", "backend", "mesh")
)
def _start(
    config: ModelConfig,
    params: Params,
    tokens: Int[Array, "B T"],
    lengths: Int[Array, " B"],
    *,
    num_steps: int,
    compute_dtype: DTypeLike,
    backend: Backend,
    mesh: Mesh | None,
) -> _State:
    """Runs the prompts and returns the initial state of the loop."""
    num_rows, length = tokens.shape
    logits, cache = prefill(
        config,
        _prepare(params, compute_dtype, mesh),
        tokens,
        lengths,
        cache_length=min(length + num_steps, config.max_position_embeddings),
        compute_dtype=compute_dtype,
        backend=backend,
        mesh=mesh,
    )
    return _State(
        cache,
        logits,
        jnp.zeros((num_rows, num_steps), jnp.int32),
        jnp.zeros((num_rows, num_steps), jnp.float32),
        jnp.zeros(num_rows, jnp.int32),
        jnp.zeros(num_rows, bool),
    )


# The state is donated, so that the cache, most of it, is updated in place.
@functools.partial(jax.jit, static_argnames=("config", "mesh"), donate_argnames=("state",))
def _advance(
    config: ModelConfig,
    params: Params,
    state: _State,
    lengths: Int[Array, " B"],
    limits: Int[Array, " B"],
    stop_ids: Int[Array, " stops"],
    sampling: Sampling,
    most_steps: Int[Array, ""],
    *,
    mesh: Mesh | None,
) -> _State:
    """Generates until every row has ended, at most `most_steps` tokens per row."""
    num_rows, num_steps = state.ids.shape
    cache_length = state.cache.length
    params = _prepare(params, state.cache.dtype, mesh)
    keys = jax.vmap(jax.random.key)(sampling.seeds)

    def active(state: _State) -> Bool[Array, " B"]:
        return ~state.stopped & (state.counts < limits)

    def step(state: _State) -> _State:
        chosen = sample(state.logits, sampling, jax.vmap(jax.random.fold_in)(keys, state.counts))
        rows = jnp.arange(num_rows)
        logprobs = jax.nn.log_softmax(state.logits)[rows, chosen]
        is_stop = (chosen[:, None] == stop_ids[None]).any(axis=1)
        running = active(state)
        stopped = state.stopped | (running & is_stop)
        # A row that has ended writes past the end of its arrays, and the write is dropped.
        place = jnp.where(running & ~is_stop, state.counts, num_steps)
        ids = state.ids.at[rows, place].set(chosen, mode="drop")
        all_logprobs = state.logprobs.at[rows, place].set(logprobs, mode="drop")
        positions = jnp.minimum(lengths + state.counts, cache_length - 1)
        counts = state.counts + (running & ~is_stop)
        logits, cache = decode(config, params, chosen, positions, state.cache, mesh=mesh)
        return _State(cache, logits, ids, all_logprobs, counts, stopped)

    def unfinished(carry: tuple[_State, Int[Array, ""]]) -> Bool[Array, ""]:
        state, steps = carry
        return (steps < most_steps) & active(state).any()

    return jax.lax.while_loop(
        unfinished, lambda carry: (step(carry[0]), carry[1] + 1), (state, jnp.int32(0))
    )[0]


def _prepare(params: Params, dtype: DTypeLike, mesh: Mesh | None) -> Params:
    """Casts the weights and replicates the embedding, once before the loop over tokens."""
    cast = jax.tree.map(
        lambda weight: weight if is_quantized(weight) else weight.astype(dtype),
        params,
        is_leaf=is_quantized,
    )
    return with_whole_embedding(cast, mesh)


# ---- checks of the arguments --------------------------------------------------------------------


def _per_row(name: str, value: Number | Sequence[Number], num_rows: int) -> list[Number]:
    if isinstance(value, int | float):
        return [value] * num_rows
    values = list(value)
    if len(values) != num_rows:
        raise UserError(
            f"{name} has {len(values)} values for {num_rows} prompts; give one for each, or one "
            "number for all."
        )
    return values


def _check(
    config: ModelConfig,
    prompts: Sequence[Sequence[int]],
    limits: Sequence[Number],
    temperatures: Sequence[Number],
    top_ps: Sequence[Number],
    seeds: Sequence[Number],
) -> None:
    for row, prompt in enumerate(prompts):
        if not prompt:
            raise UserError(f"prompt {row} is empty; it needs at least the BOS token.")
        if len(prompt) >= config.max_position_embeddings:
            raise UserError(
                f"prompt {row} has {len(prompt)} tokens and the model has "
                f"{config.max_position_embeddings} positions, which leaves no room for new tokens; "
                "shorten the prompt."
            )
        for token in prompt:
            if not 0 <= token < config.vocab_size:
                raise UserError(
                    f"prompt {row} has the token id {token}, but the model has ids 0 to "
                    f"{config.vocab_size - 1}; encode it with the model's tokenizer."
                )
    for name, values, fits, allowed in (
        ("max_new_tokens", limits, lambda value: value >= 1, "1 or more"),
        ("temperature", temperatures, lambda value: value >= 0, "0 or more"),
        ("top_p", top_ps, lambda value: 0 < value <= 1, "above 0 and at most 1"),
        ("seeds", seeds, lambda value: 0 <= value < 2**32, "from 0 to 2^32 - 1"),
    ):
        for value in values:
            if not fits(value):
                raise UserError(f"{name} is {value}; it must be {allowed}.")


def _bucket(size: int, smallest: int) -> int:
    """Returns the next power of two, at least `smallest`."""
    return max(smallest, 1 << max(0, size - 1).bit_length())
