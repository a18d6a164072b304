"""What the cases share: results, toy sizes, rows, medians. Loads neither jax nor torch."""

import dataclasses
import json
import os
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

HERE = Path(__file__).resolve().parent
GIB = 2**30
TOY = os.environ.get("TOY", "0") not in ("", "0")
"""Small sizes, to run every case on a machine without a GPU."""


def record(what: str, result: str, *, predicted: str = "", **values: Any) -> None:
    """Keeps one result, also if the case dies afterwards.

    Args:
      what: What was measured; unique within a case.
      result: The figure as text, with its unit.
      predicted: The same, predicted before the run.
      **values: The numbers behind it, for `results.json`.
    """
    print(f"{what}: {result}" + (f" (predicted {predicted})" if predicted else ""), flush=True)
    line = {"what": what, "result": result, "predicted": predicted, **values}
    if path := os.environ.get("GPU_BENCH_RESULTS"):
        with open(path, "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


def spread(seconds: Sequence[float]) -> str:
    """The median of some times, and their range, in milliseconds."""
    low, middle, high = min(seconds), statistics.median(seconds), max(seconds)
    return f"{middle * 1e3:.1f} ms ({low * 1e3:.1f} to {high * 1e3:.1f})"


def prediction(name: str, chip: str | None) -> dict[str, Any]:
    """What `predict.py` stored for a config on a card; empty for an unknown card."""
    stored = json.loads((HERE / "predicted.json").read_text(encoding="utf-8"))
    return {} if TOY else stored.get(name, {}).get(chip or "", {})


def packed_rows(
    step: int, *, rows: int, tokens: int, vocab: int, segments: tuple[int, int] = (8, 16)
) -> dict[str, NDArray[Any]]:
    """Full rows of random segments; every token but the first of a segment carries loss.

    Args:
      step: Seed of the tokens, which differ from step to step.
      rows: B.
      tokens: T.
      vocab: Ids are below it; small ones are more frequent, so that there is something to learn.
      segments: Fewest and most segments of a row.

    Returns:
      tokens, segment_ids and positions, int32 [B, T]; loss_weights, float32 [B, T].
    """
    rng = np.random.default_rng(step)
    ids = np.minimum(rng.zipf(1.3, (rows, tokens)) + 2, vocab - 1)
    cuts = [
        np.sort(
            rng.choice(
                np.arange(1, tokens), rng.integers(*segments, endpoint=True) - 1, replace=False
            )
        )
        for _ in range(rows)
    ]
    segment_ids = np.stack(
        [np.searchsorted(cut, np.arange(tokens), side="right") + 1 for cut in cuts]
    )
    starts = np.stack(
        [np.concatenate([[0], cut])[row - 1] for cut, row in zip(cuts, segment_ids, strict=True)]
    )
    positions = np.arange(tokens) - starts
    return {
        "tokens": ids.astype(np.int32),
        "loss_weights": (positions > 0).astype(np.float32),
        "segment_ids": segment_ids.astype(np.int32),
        "positions": positions.astype(np.int32),
    }


def toy_config(config: Any) -> Any:
    """The same run with a model of two small layers, for a CPU."""
    if not TOY:
        return config
    model = dataclasses.replace(
        config.model,
        vocab_size=512,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=min(config.model.num_key_value_heads or 4, 2),
        max_position_embeddings=512,
    )
    data = dataclasses.replace(config.data, row_tokens=256)
    return dataclasses.replace(config, model=model, data=data, loss_tile=256)
