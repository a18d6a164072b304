"""Train steps of a config in `configs/`: tokens per second, MFU, memory beside the plan.

    python scripts/bench/gpu/train.py sft7b [--steps 30] [--set remat=dots batch_rows=8]

The step is the program of `parrot train` with random weights and rows, without data and files.
MFU counts the operations of `flops_per_token`, once against the vendor's peak and once against the
rate of a large matrix product on this card, measured first.
"""

import argparse
import dataclasses
import math
import statistics
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import yaml
from ceilings import matmul_rate
from measuring import GIB, HERE, TOY, packed_rows, prediction, record, spread, toy_config

from parrot_jax.core.config import config_from_dict
from parrot_jax.core.xla_flags import set_xla_flags
from parrot_jax.train.train_config import TrainConfig

WARMUP = 3
"""Steps that are not timed."""
PAIRS = 4
"""Preference pairs of a row."""


def read_config(name: str, settings: Sequence[str] = ()) -> TrainConfig:
    """The config of a case, with `key=value` overrides, at toy size where that is asked for."""
    path = HERE / "configs" / f"{name}.yaml"
    values = yaml.safe_load(path.read_text(encoding="utf-8"))
    for setting in settings:
        key, _, value = setting.partition("=")
        values[key] = yaml.safe_load(value)
    return toy_config(config_from_dict(TrainConfig, values, where=str(path)))


def make_state(config: TrainConfig, program: Any) -> Any:
    """Random weights, or random adapters of random frozen weights."""
    from parrot_jax.model.decoder import init_params
    from parrot_jax.train.state import new_state, shardings_of

    config = dataclasses.replace(config, init_from=None)
    frozen = None
    if config.lora is not None:
        frozen = init_params(
            config.model, 1, shardings_of(program.state.frozen), dtype=config.lora.base_dtype
        )
    return new_state(config, program.optimizer, program.state, frozen)


def make_batch(config: TrainConfig, program: Any, step: int) -> dict[str, Any]:
    """Rows [micro-batches, rows, T] on the device; of pairs with zeros as reference."""
    import jax
    import numpy as np

    from parrot_jax.train.preference import REFERENCE

    micro, rows, tokens = program.batch["tokens"].shape
    segments = (2 * PAIRS, 2 * PAIRS) if config.trains_pairs else (8, 16)
    arrays: dict[str, Any] = packed_rows(
        step, rows=micro * rows, tokens=tokens, vocab=config.model.vocab_size, segments=segments
    )
    for name, like in program.batch.items():
        if name not in arrays:  # of pairs: their kind and turn, and the reference
            arrays[name] = np.zeros((micro * rows, like.shape[-1]), like.dtype)
            arrays[name][:, :PAIRS] = name != REFERENCE
    return {
        name: jax.device_put(arrays[name].reshape(like.shape), like.sharding)
        for name, like in program.batch.items()
    }


def with_reference(program: Any, params: Any, batch: dict[str, Any]) -> dict[str, Any]:
    """The rows with the log-probabilities of their answers under the weights."""
    import jax.numpy as jnp

    from parrot_jax.train.preference import REFERENCE
    from parrot_jax.train.reference import compile_answer_logprobs

    logprobs = compile_answer_logprobs(program.forward, program.rows_sharding, None)
    found = [
        logprobs(params, {name: array[micro] for name, array in batch.items()})
        for micro in range(len(batch["tokens"]))
    ]
    return batch | {REFERENCE: jnp.stack(found)}


class Steps(NamedTuple):
    """What some train steps took; lists by step."""

    seconds: list[float]
    losses: list[float]
    peaks: list[int]
    """Most bytes of device memory that were in use so far; the first before any step."""


def run_steps(config: TrainConfig, program: Any, compiled: Any, count: int) -> Steps:
    """Trains from random weights, each step on other rows; preference training on the same ones."""
    import jax

    def peak() -> int:
        return (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use", 0)

    state = jax.block_until_ready(make_state(config, program))
    steps, batch = Steps([], [], [peak()]), {}
    for step in range(count):
        if not config.trains_pairs:
            batch = make_batch(config, program, step)
        elif step == 0:  # so that the reference is computed once
            batch = with_reference(program, state.params, make_batch(config, program, 0))
        jax.block_until_ready(batch)
        started = time.perf_counter()
        state, metrics = compiled(state, batch)
        steps.losses.append(float(metrics.loss))
        steps.seconds.append(time.perf_counter() - started)
        steps.peaks.append(peak())
    return steps


def expectations(plan: dict[str, Any]) -> dict[str, str]:
    """What the plan says of each result; nothing for a card without a plan."""
    if not plan:
        return {}
    return {
        "compiled": f"temporaries {gib(plan['temp_bytes'])}",
        "step": f"{plan['step_s'] * 1e3:.0f} ms",
        "tokens/s": f"{plan['tokens_per_step'] / plan['step_s']:,.0f}",
        "MFU": f"{plan['mfu']:.0%} of the peak",
        "peak memory": f"{gib(plan['used_bytes'])}: parameters {gib(plan['params_bytes'])}, "
        f"optimizer {gib(plan['optimizer_bytes'])}, temporaries {gib(plan['temp_bytes'])}",
    }


def check_losses(losses: Sequence[float], *, trains_pairs: bool) -> str:
    """The losses at both ends, as text.

    Raises:
      SystemExit: The loss rose, or preference training does not start at ln 2.
    """
    few = max(len(losses) // 6, 1)
    first, last = statistics.mean(losses[:few]), statistics.mean(losses[-few:])
    if trains_pairs and abs(losses[0] - math.log(2)) > 0.05:
        raise SystemExit(f"the first loss is {losses[0]:.4f}, not ln 2 = 0.6931")
    if not last < first + 0.01:
        raise SystemExit(f"the loss rose from {first:.4f} to {last:.4f} in {len(losses)} steps")
    return f"{first:.3f} in the first {few} steps, {last:.3f} in the last {few}"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("name", help="a config of scripts/bench/gpu/configs")
    parser.add_argument("--steps", type=int, default=8 if TOY else 30)
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="other settings")
    options = parser.parse_args()
    config = read_config(options.name, options.set)
    set_xla_flags(config.xla_flags)

    import jax

    from parrot_jax.sharding import make_mesh
    from parrot_jax.train.chips import chip_of, flops_per_token
    from parrot_jax.train.program import make_program
    from parrot_jax.train.setup import make_objective

    device = jax.devices()[0]
    chip = chip_of(device.device_kind)
    plan = prediction(options.name, chip and chip.name) if not options.set else {}
    if plan and not plan["fits"]:
        record("plan", f"does not fit: {gib(plan['used_bytes'])} of {gib(plan['hbm_bytes'])}")
        return
    expected = expectations(plan)
    ceiling = matmul_rate(repeats=10)
    objective = make_objective(config, None, {})
    program = make_program(config, make_mesh(config.mesh, [device]), objective=objective)
    started = time.perf_counter()
    compiled = program.step.lower(program.state, program.batch, 0.0).compile()
    compile_s = time.perf_counter() - started
    temporaries = compiled.memory_analysis().temp_size_in_bytes
    record(
        "compiled",
        f"{compile_s:.0f} s, temporaries {gib(temporaries)}, attention "
        f"{program.forward.attention.name}, remat {config.remat}",
        predicted=expected.get("compiled", ""),
        compile_s=compile_s,
        temp_bytes=temporaries,
    )
    steps = run_steps(config, program, compiled, options.steps)
    tokens = config.batch_rows * config.data.row_tokens
    middle = statistics.median(steps.seconds[WARMUP:])
    record(
        "step",
        spread(steps.seconds[WARMUP:]),
        predicted=expected.get("step", ""),
        seconds=steps.seconds,
    )
    record(
        "tokens/s", f"{tokens / middle:,.0f}", predicted=expected.get("tokens/s", ""), tokens=tokens
    )
    if chip is not None:
        rate = flops_per_token(config.model, config.data.row_tokens, config.lora) * tokens / middle
        record(
            "MFU",
            f"{rate / chip.peak_flops:.1%} of the peak, {rate / ceiling:.1%} of "
            f"{ceiling / 1e12:.0f} TFLOP/s measured",
            predicted=expected["MFU"] if plan else "",
            flops_per_s=rate,
            ceiling=ceiling,
        )
    first, *_, last = steps.peaks
    record(
        "peak memory",
        f"{gib(last)}, {gib(first)} after making the weights, "
        f"{(last - steps.peaks[WARMUP]) / GIB:.2f} GiB more than after step {WARMUP}",
        predicted=expected.get("peak memory", ""),
        peaks=steps.peaks,
    )
    record(
        "loss", check_losses(steps.losses, trains_pairs=config.trains_pairs), losses=steps.losses
    )


def gib(num_bytes: int) -> str:
    return f"{num_bytes / GIB:.1f} GiB"


if __name__ == "__main__":
    main()
