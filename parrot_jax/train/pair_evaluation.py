"""Evaluation on held-out preference pairs: margin and accuracy, by kind and by turn."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from parrot_jax.core.errors import UserError
from parrot_jax.data.packing import kind_code
from parrot_jax.train.preference import (
    ROUNDING,
    PairRows,
    Pairs,
    pair_losses,
    pair_metrics,
    pairs_of,
)
from parrot_jax.train.reference import answers_of_rows, compile_answer_logprobs
from parrot_jax.train.setup import Setup
from parrot_jax.train.train_config import PreferenceConfig, TrainConfig

PAIR_DTYPE = np.dtype(
    [
        ("row", np.int32),
        ("kind", np.int32),  # `kind_code` of the kind
        ("turn", np.int32),  # from 1
        ("chosen", np.float32),  # log-probabilities in nats
        ("rejected", np.float32),
        ("reference_chosen", np.float32),
        ("reference_rejected", np.float32),
        ("chosen_tokens", np.int32),
        ("rejected_tokens", np.int32),
    ]
)


_ROWS_AT_ONCE = 64


def measure_pairs(answers: NDArray[np.float32], rows: PairRows) -> tuple[Pairs, NDArray[Any]]:
    """The pairs of a split, with their log-probabilities.

    Args:
      answers: Under the model, [rows, 2P].
      rows: The split with its reference.

    Returns:
      All pairs [pairs], and the same as records of `PAIR_DTYPE`.
    """
    found, owners = [], []
    for first in range(0, len(rows), _ROWS_AT_ONCE):
        some = [rows[index] for index in range(first, min(first + _ROWS_AT_ONCE, len(rows)))]
        batch = {name: np.stack([row[name] for row in some]) for name in some[0]}
        here = jnp.asarray(answers[first : first + len(some)])
        pairs = pairs_of(here, batch)
        is_pair = np.asarray(pairs.weight) > 0
        found.append([np.asarray(field)[is_pair] for field in pairs])
        owners.append(first + np.nonzero(is_pair)[0])
    pairs = Pairs(*(jnp.asarray(np.concatenate(fields)) for fields in zip(*found, strict=True)))
    records = np.zeros(len(pairs.weight), PAIR_DTYPE)
    records["row"] = np.concatenate(owners)
    for name in PAIR_DTYPE.names or ():
        if name != "row":
            records[name] = getattr(pairs, name)
    return pairs, records


def summarise_pairs(
    pairs: Pairs, config: PreferenceConfig, *, kinds: Sequence[str]
) -> dict[str, Any]:
    """Means over the pairs.

    Args:
      pairs: Arrays [pairs].
      config: The loss.
      kinds: Names of the kinds.

    Returns:
      `pairs`, `loss`, the metrics of `pair_metrics`, and the same `by_kind` and `by_turn`.
    """
    values = {name: np.asarray(array) for name, array in pair_metrics(pairs, config).items()}
    values = {"loss": np.asarray(pair_losses(pairs, config)), **values}

    def means(chosen: NDArray[Any]) -> dict[str, Any]:
        found = {name: float(array[chosen].mean()) for name, array in values.items()}
        return {"pairs": int(chosen.sum()), **found}

    kind, turn = np.asarray(pairs.kind), np.asarray(pairs.turn)
    by_kind = {name: kind == kind_code(name) for name in kinds}
    return {
        **means(np.ones(len(kind), bool)),
        "by_kind": {name: means(mine) for name, mine in by_kind.items() if mine.any()},
        "by_turn": {str(number): means(turn == number) for number in np.unique(turn).tolist()},
    }


def evaluate_pairs(
    setup: Setup,
    config: PreferenceConfig,
    params: Any,
    rows: PairRows,
    advance: Callable[[int], None],
) -> tuple[NDArray[Any], dict[str, Any], str]:
    """Measures the held-out pairs.

    Args:
      setup: The run.
      config: Its loss.
      params: The weights.
      rows: The split with its reference.
      advance: Called after each batch with the number of rows done.

    Returns:
      Records of `PAIR_DTYPE`, `summarise_pairs`, and a line for the console.
    """
    program = setup.program
    answers = answers_of_rows(
        compile_answer_logprobs(program.forward, program.rows_sharding, setup.live_capacity),
        params,
        rows,
        range(len(rows)),
        batch_rows=program.micro_shape[1],
        sharding=program.rows_sharding,
        advance=advance,
    )
    assert setup.held_out is not None
    pairs, records = measure_pairs(answers, rows)
    summary = summarise_pairs(pairs, config, kinds=[*filter(None, setup.held_out.counts["kinds"])])
    line = (
        f"margin {summary['rewards/margins']:.3f}, accuracy {summary['rewards/accuracies']:.1%}, "
        f"loss {summary['loss']:.4f} on {summary['pairs']:,} pairs"
    )
    return records, summary, line


def check_first_step(values: Mapping[str, float], config: TrainConfig) -> None:
    """Checks that the model is the reference before the first update, up to rounding.

    Args:
      values: The metrics of step 1.
      config: The run.

    Raises:
      UserError: It is not; the reference belongs to other weights or other rows.
    """
    said = abs(values["logps/chosen"]) + abs(values["logps/rejected"])
    allowed = config.preference.beta * ROUNDING[config.compute_dtype] * (1 + said)
    margin = values["rewards/margins"]
    if not abs(margin) <= allowed:
        raise UserError(
            f"before the first update, the mean margin of step 1 is {margin:g}, but it must be 0 "
            f"up to rounding ({allowed:.1g}): the reference is not the initial model. Remove "
            f"{config.data.cache_dir}/reference-* and start again."
        )
