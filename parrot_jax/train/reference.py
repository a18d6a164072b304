"""The log-probabilities of all answers under the reference model, computed once and kept on disk.

    <cache_dir>/reference-<key>/part-00000.npy   answers of `_PART_ROWS` rows, [rows, 2P] float32
                                part-00000.json  its hash; written last

So the reference model is not in memory during training. The key is a hash of everything that
determines the numbers, including the bits of the weights and the code. A killed pass continues
after its last part, and each start computes a sample again.
"""

import functools
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from numpy.typing import NDArray

from parrot_jax import losses, model
from parrot_jax.core.config import config_to_dict
from parrot_jax.core.errors import UserError
from parrot_jax.core.files import hash_file, hash_json, write_array, write_json
from parrot_jax.data.prepare import Prepared
from parrot_jax.distributed import any_process
from parrot_jax.train import forward as forward_code
from parrot_jax.train import preference as preference_code
from parrot_jax.train.forward import Batch, Forward
from parrot_jax.train.preference import ROUNDING, PairRows, answer_logprobs
from parrot_jax.train.program import KEPT_PROGRAMS, put_rows
from parrot_jax.train.setup import Setup
from parrot_jax.weights.fingerprints import weights_hash

_PART_ROWS = 512
_SAMPLE = 4
"""Rows that each start computes again."""

AnswerLogprobs = Callable[[Any, Batch], jax.Array]


@functools.lru_cache(maxsize=KEPT_PROGRAMS)
def compile_answer_logprobs(
    forward: Forward, sharding: NamedSharding, live_capacity: int | None
) -> AnswerLogprobs:
    """A jitted function (params, batch [rows, T]) -> log-probabilities [rows, 2P], replicated."""
    compute = functools.partial(answer_logprobs, forward=forward, live_capacity=live_capacity)
    everywhere = NamedSharding(sharding.mesh, PartitionSpec())
    return jax.jit(compute, in_shardings=(None, sharding), out_shardings=everywhere)


class Reference(NamedTuple):
    """The rows of both splits, with their reference."""

    train: PairRows
    held_out: PairRows | None


def load_reference(
    setup: Setup,
    params: Any,
    cache: Path,
    *,
    advance: Callable[[str, int, int], None] = lambda split, done, rows: None,
) -> Reference:
    """Reads the reference of a run from its cache, or computes it.

    Args:
      setup: The run.
      params: The weights with which it starts.
      cache: The folder of all caches.
      advance: Called with the split, the rows done and all rows.

    Raises:
      UserError: As in `cached_reference`.
    """
    program = setup.program
    logprobs = compile_answer_logprobs(program.forward, program.rows_sharding, setup.live_capacity)
    batch_rows = program.micro_shape[1]

    def of(prepared: Prepared, split: str) -> PairRows:
        key = reference_key(
            prepared, params, program.forward,
            batch_rows=batch_rows, live_capacity=setup.live_capacity,
        )  # fmt: skip
        num_rows = len(prepared.rows())
        answers = cached_reference(
            logprobs, params, prepared, key, cache=cache, batch_rows=batch_rows,
            sharding=program.rows_sharding, advance=lambda done: advance(split, done, num_rows),
            rounding=ROUNDING[str(program.forward.compute_dtype)],
        )  # fmt: skip
        return PairRows(prepared.rows(), answers)

    held_out = setup.held_out
    return Reference(
        of(setup.prepared, "train"), None if held_out is None else of(held_out, "eval")
    )


def answers_of_rows(
    logprobs: AnswerLogprobs,
    params: Any,
    rows: Sequence[dict[str, NDArray[Any]]],
    wanted: Sequence[int],
    *,
    batch_rows: int,
    sharding: NamedSharding,
    advance: Callable[[int], None] = lambda rows: None,
) -> NDArray[np.float32]:
    """The log-probabilities of the answers of some rows.

    Args:
      logprobs: From `compile_answer_logprobs`.
      params: The weights.
      rows: All rows of a split.
      wanted: The rows to compute.
      batch_rows: Rows of a batch; the last batch is filled with copies of its last row.
      sharding: Of a batch [rows, T].
      advance: Called after each batch with the number of rows done.

    Returns:
      [wanted, 2P].
    """
    found = []
    row_tokens = len(rows[0]["tokens"])
    for first in range(0, len(wanted), batch_rows):

        def read(places: Sequence[int], first: int = first) -> dict[str, NDArray[Any]]:
            last = len(wanted) - 1
            picked = [rows[wanted[min(first + place, last)]] for place in places]
            return {name: np.stack([row[name] for row in picked]) for name in picked[0]}

        batch = put_rows(read, (batch_rows, row_tokens), sharding)
        found.append(np.asarray(logprobs(params, batch))[: len(wanted) - first])
        advance(min(first + batch_rows, len(wanted)))
    return np.concatenate(found)


def reference_key(
    prepared: Prepared, params: Any, forward: Forward, *, batch_rows: int, live_capacity: int | None
) -> str:
    """A hash of everything that determines the reference: rows, weights, model, program.

    Args:
      prepared: The split; its hash covers texts, template, tokenizer and mask.
      params: The weights; their bits count, not their path.
      forward: How the model runs.
      batch_rows: Rows of a batch.
      live_capacity: Of the loss.
    """
    assert forward.mesh is not None
    settings = {
        "rows": prepared.rows_hash,
        "weights": weights_hash(params),
        "model": config_to_dict(forward.model),
        "compute_dtype": str(forward.compute_dtype),
        "attention": forward.attention.name,
        "packed": forward.packed,
        "loss_tile": forward.loss_tile,
        "unroll_layers": forward.unroll_layers,
        "batch_rows": batch_rows,
        "live_capacity": live_capacity,
        "mesh": list(forward.mesh.shape.values()),
        "device": forward.mesh.devices.flat[0].device_kind,
        "jax": jax.__version__,
        "code": code_hash(),
    }
    return hash_json(settings)


def code_hash() -> str:
    """A hash of the code that computes log-probabilities."""
    rooms = [Path(room.__file__ or "").parent for room in (losses, model)]
    files = [file for room in rooms for file in sorted(room.rglob("*.py"))]
    files += [Path(code.__file__ or "") for code in (forward_code, preference_code)]
    files.append(Path(__file__))
    return hash_json([hash_file(file) for file in files])


def cached_reference(
    logprobs: AnswerLogprobs,
    params: Any,
    prepared: Prepared,
    key: str,
    *,
    cache: Path,
    batch_rows: int,
    sharding: NamedSharding,
    rounding: float,
    advance: Callable[[int], None] = lambda rows: None,
) -> NDArray[np.float32]:
    """Reads the reference of a split, or computes what is missing.

    Args:
      logprobs: From `compile_answer_logprobs`.
      params: The reference model.
      prepared: The split.
      key: From `reference_key`.
      cache: The folder of all caches.
      batch_rows: Rows of a batch.
      sharding: Of a batch [rows, T].
      rounding: Relative difference that is rounding; ten times as much is an error.
      advance: Called with the number of rows done. Every process calls it equally often.

    Returns:
      [rows, 2P], in nats.

    Raises:
      UserError: A sample that is computed again differs.
    """
    folder, rows = cache / f"reference-{key[:16]}", prepared.rows()

    def compute(wanted: Sequence[int]) -> NDArray[np.float32]:
        return answers_of_rows(
            logprobs, params, rows, wanted, batch_rows=batch_rows, sharding=sharding,
            advance=lambda done: advance(min(wanted[0] + done, len(rows))),
        )  # fmt: skip

    parts = []
    for number, wanted in enumerate(_parts(len(rows))):
        part = _read(folder, number, len(wanted))
        # All processes compute a part together, also if only one of them lacks it.
        if any_process(part is None):
            part = compute(wanted)
            _write(folder, number, part)
        assert part is not None
        parts.append(part)
        advance(wanted[-1] + 1)
    found = np.concatenate(parts)
    # Spread over the split, so that they fall into several parts.
    sample = sorted({place * (len(rows) - 1) // (_SAMPLE - 1) for place in range(_SAMPLE)})
    again = compute(sample)
    if any_process(not np.allclose(again, found[sample], rtol=10 * rounding, atol=1e-4)):
        worst = float(np.abs(again - found[sample]).max())
        raise UserError(
            f"the log-probabilities of the reference in {folder} differ by up to {worst:g} nats "
            "from those of the weights; remove the folder and start again."
        )
    return found


def _parts(num_rows: int) -> Iterator[range]:
    for first in range(0, num_rows, _PART_ROWS):
        yield range(first, min(first + _PART_ROWS, num_rows))


def _paths(folder: Path, number: int) -> tuple[Path, Path]:
    return folder / f"part-{number:05d}.npy", folder / f"part-{number:05d}.json"


def _read(folder: Path, number: int, num_rows: int) -> NDArray[np.float32] | None:
    """Reads a part; None if it is missing, incomplete or changed."""
    path, about = _paths(folder, number)
    try:
        if json.loads(about.read_text("utf-8")) != {"hash": hash_file(path), "rows": num_rows}:
            return None
        return np.load(path, allow_pickle=False)
    except (OSError, ValueError, UserError):
        return None


def _write(folder: Path, number: int, part: NDArray[np.float32]) -> None:
    path, about = _paths(folder, number)
    write_array(path, part)
    write_json(about, {"hash": hash_file(path), "rows": len(part)})
