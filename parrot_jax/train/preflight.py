"""`parrot train CONFIG --preflight`: tests in minutes everything that a long run needs.

Uses the real data, weights, step, checkpoint and network of this machine at full size. It leaves
only `preflight.json` in the run folder, and fails on anything that would stop the run later.
"""

import shutil
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from parrot_jax.core.errors import UserError, disk_full_is_a_user_error
from parrot_jax.core.files import write_json
from parrot_jax.core.logs import console
from parrot_jax.data.prepare import RowFiles
from parrot_jax.distributed import any_process, in_first_process
from parrot_jax.train.program import Program, put_rows, too_large_is_a_user_error
from parrot_jax.train.run_data import describe_data
from parrot_jax.train.run_folder import RunFolder
from parrot_jax.train.setup import Setup, set_up
from parrot_jax.train.state import new_state, restore_state, save_state
from parrot_jax.train.train_config import TrainConfig
from parrot_jax.train.train_state import TrainState
from parrot_jax.weights.checkpoints import Checkpoints
from parrot_jax.weights.frozen import load_frozen
from parrot_jax.weights.model_folder import ModelFolder

_TIMED_STEPS = 3
_COLLECTIVE_BYTES = 64 * 2**20
"""Bytes per device in the all-gather test: larger than any network buffer."""
_COPY_FACTOR, _COPY_EXTRA_BYTES = 1.1, 1_300_000_000
"""A background save holds a copy of this process's arrays and tensorstore's buffers."""


def preflight(config: TrainConfig, *, allow_changes: Sequence[str] = ()) -> None:
    """Tests a run on this machine.

    Args:
      config: The run.
      allow_changes: Allowed differences from the resumed run; see `RunFolder.open`.

    Raises:
      UserError: The run would fail; the message lists why.
    """
    folder = RunFolder(config.out)
    in_first_process(folder.check_writable, f"write to {folder.path}")
    setup = set_up(config, is_new=not folder.has_checkpoint())
    data = describe_data(config.data, setup.prepared, setup.held_out)
    folder.check_continues(config, setup.template, data, allow_changes=allow_changes)
    setup.print_summary(config)
    found: dict[str, Any] = {"devices": setup.program.mesh.size, "processes": jax.process_count()}
    problems: list[str] = []

    lengths = _row_lengths(setup.prepared.rows())
    longest = np.argsort(-lengths, kind="stable")[: config.batch_rows]
    found["longest_row_tokens"] = int(lengths.max())
    console.print(
        f"data: {len(lengths):,} rows; the longest has {lengths.max():,} of "
        f"{config.data.row_tokens:,} tokens, the mean is {lengths.mean():,.0f}"
    )
    found["collectives"] = _measure_collectives(setup.program)

    frozen = None
    if config.lora is not None:
        assert config.init_from is not None  # checked in `set_up`
        frozen = load_frozen(
            ModelFolder(config.init_from), config.model, config.lora, setup.program.state.frozen
        )
    state = new_state(config, setup.program.optimizer, setup.program.state, frozen)
    state, steps = _try_steps(config, setup, longest, state, problems)
    found |= steps
    found |= _check_host(state, problems)
    found |= _try_checkpoint(config, folder, setup.program, state, problems)

    hours = setup.steps.stop_step * found["step_s"] / 3600
    found["hours"] = hours
    mfu = "" if found["mfu"] is None else f", MFU {found['mfu']:.1%}"
    console.print(
        f"speed: {found['step_s']:.2f} s a step, {found['tokens_per_s']:,.0f} tokens/s{mfu}; "
        f"{setup.steps.stop_step:,} steps take {hours:,.1f} hours and "
        f"{hours * found['devices']:,.0f} device-hours, without evaluations and checkpoints"
    )
    found["problems"] = problems
    in_first_process(
        lambda: write_json(folder.path / "preflight.json", found), "write preflight.json"
    )
    if any_process(bool(problems)):
        raise UserError(
            "preflight failed: "
            + ("; ".join(problems) or "see the output of the other processes")
            + "."
        )
    console.print("preflight passed; start the run without --preflight")


def _row_lengths(rows: RowFiles) -> Any:
    """Tokens in each row, [rows] int."""
    return np.array([int((rows[i]["segment_ids"] > 0).sum()) for i in range(len(rows))])


def _try_steps(
    config: TrainConfig, setup: Setup, longest: Any, state: TrainState, problems: list[str]
) -> tuple[TrainState, dict[str, Any]]:
    """Steps on the longest rows, which take the most memory, then timed steps on ordinary rows."""
    program, rows = setup.program, setup.rows
    like = program.batch["tokens"]

    def read(places: Any) -> dict[str, Any]:
        # If there are fewer rows than a step has, they repeat.
        picked = [rows[int(longest[place % len(longest)])] for place in places]
        return {name: np.stack([row[name] for row in picked]) for name in picked[0]}

    started = time.perf_counter()
    with too_large_is_a_user_error():
        longest_rows = put_rows(read, like.shape, like.sharding)
        state, metrics = program.step(state, longest_rows, setup.learning_rate(0))
        first_loss = float(metrics.loss)
    first_s = time.perf_counter() - started
    console.print(f"first step, with compilation: {first_s:.1f} s, loss {first_loss:.4f}")
    seconds, tokens = [], 0
    for step in range(_TIMED_STEPS):
        started = time.perf_counter()
        state, metrics = program.step(state, setup.batch(step), setup.learning_rate(step))
        first_loss = first_loss if metrics.finite else float("nan")
        tokens += int(metrics.tokens)
        seconds.append(time.perf_counter() - started)
    if not np.isfinite(first_loss):
        problems.append("the loss or the gradient norm of the first steps is not finite")
    step_s = statistics.median(seconds)
    peak = max(_peak_bytes(device) for device in jax.local_devices())
    if peak:
        limit = _limit_bytes(jax.local_devices()[0])
        console.print(f"device memory: peak {_gib(peak)} of {_gib(limit)}")
    return state, {
        "compile_s": first_s,
        "step_s": step_s,
        "tokens_per_s": tokens / sum(seconds),
        "mfu": setup.mfu(step_s),
        "device_peak_bytes": peak or None,
        "loss": first_loss if np.isfinite(first_loss) else None,
    }


def _check_host(state: TrainState, problems: list[str]) -> dict[str, Any]:
    """Checks that this host's memory has room for the copy that a background save writes from."""
    state = state._replace(frozen={})  # not saved
    mine = sum(
        shard.data.nbytes
        for array in jax.tree.leaves(state)
        for shard in array.addressable_shards
        if shard.replica_id == 0
    )
    needed, free = int(_COPY_FACTOR * mine) + _COPY_EXTRA_BYTES, _available_bytes()
    console.print(
        f"host memory: a save needs {_gib(needed)} in process {jax.process_index()}, "
        f"{_gib(free)} free"
    )
    if needed > free:
        problems.append(
            f"process {jax.process_index()} has {_gib(free)} of host memory free, but a "
            f"checkpoint copies {_gib(needed)} to it; use more hosts, or fewer devices a "
            "host"
        )
    return {"host_needed_bytes": needed, "host_free_bytes": free}


def _try_checkpoint(
    config: TrainConfig,
    folder: RunFolder,
    program: Program,
    state: TrainState,
    problems: list[str],
) -> dict[str, Any]:
    """Writes what a checkpoint has and reads it back; both must be bit-identical."""
    state = state._replace(frozen={})
    num_bytes = sum(array.nbytes for array in jax.tree.leaves(state))
    place = folder.path / "preflight"
    found: dict[str, Any] = {"checkpoint_bytes": num_bytes}
    # A new checkpoint is complete before the oldest one is deleted.
    needed = (config.keep_checkpoints + 1) * num_bytes
    if isinstance(folder.path, Path):
        in_first_process(lambda: folder.path.mkdir(parents=True, exist_ok=True), "make the folder")
        free = shutil.disk_usage(folder.path).free
        found |= {"disk_needed_bytes": needed, "disk_free_bytes": free}
        console.print(
            f"disk: {config.keep_checkpoints} checkpoints and a new one take "
            f"{_gib(needed)}; {_gib(free)} free in {folder.path}"
        )
        if free < needed:
            problems.append(
                f"{folder.path} has {_gib(free)} free, but keep_checkpoints="
                f"{config.keep_checkpoints} needs {_gib(needed)}; free some space, keep fewer or "
                "choose another --out"
            )
        if any_process(free < num_bytes):
            return found
    before = _checksums(state)
    with disk_full_is_a_user_error(f"a checkpoint in {place}"):
        checkpoints = Checkpoints(place, keep=1)
        started = time.perf_counter()
        save_state(checkpoints, 0, state)
        copied_s = time.perf_counter() - started
        checkpoints.wait()
        written_s = time.perf_counter() - started
        # The device may have memory for one state only.
        jax.tree.map(lambda array: array.delete(), state)
        started = time.perf_counter()
        restored = restore_state(checkpoints, 0, program.state._replace(frozen={}))
        jax.block_until_ready(restored)
        read_s = time.perf_counter() - started
        checkpoints.close()
    same = np.array_equal(before, _checksums(restored))
    if not same:
        problems.append(f"a checkpoint read back from {place} differs from the one written")
    in_first_process(lambda: _remove(place), f"remove {place}")
    console.print(
        f"checkpoint: {num_bytes / 1e9:.2f} GB written in {written_s:.1f} s "
        f"({num_bytes / 1e9 / written_s:.2f} GB/s; training waits {copied_s:.1f} s), "
        f"read in {read_s:.1f} s: {'bit-identical' if same else 'DIFFERENT'}"
    )
    return found | {
        "checkpoint_wait_s": copied_s,
        "checkpoint_write_s": written_s,
        "checkpoint_read_s": read_s,
    }


@jax.jit
def _sum_of_bits(array: Any) -> Any:
    """A checksum: the sum of all bit patterns, modulo 2^32."""
    bits = jax.lax.bitcast_convert_type(array, f"uint{8 * array.dtype.itemsize}")
    return jnp.sum(bits.astype(jnp.uint32), dtype=jnp.uint32)


def _checksums(state: TrainState) -> Any:
    """One checksum per array, [arrays] uint32."""
    return np.array([int(_sum_of_bits(array)) for array in jax.tree.leaves(state)], np.uint32)


def _measure_collectives(program: Program) -> dict[str, float]:
    """GB/s that a device receives in an all-gather over each mesh axis."""
    mesh, speeds = program.mesh, {}
    for axis, size in mesh.shape.items():
        if size == 1:
            continue
        split = NamedSharding(mesh, PartitionSpec(axis))
        length = size * (_COLLECTIVE_BYTES // 2 if jax.default_backend() != "cpu" else 2**18)
        make = jax.jit(lambda n=length: jnp.zeros(n, jnp.bfloat16), out_shardings=split)
        gather = jax.jit(lambda x: x, out_shardings=NamedSharding(mesh, PartitionSpec()))
        part = jax.block_until_ready(make())
        jax.block_until_ready(gather(part))  # compiles, and opens the connections
        seconds = []
        for _ in range(5):
            started = time.perf_counter()
            jax.block_until_ready(gather(part))
            seconds.append(time.perf_counter() - started)
        received = part.nbytes * (size - 1) / size
        speeds[axis] = received / 1e9 / statistics.median(seconds)
        console.print(
            f"collectives: each device gathers {part.nbytes / 2**20:.0f} MiB over {axis} "
            f"({size} parts) at {speeds[axis]:.2f} GB/s"
        )
    return speeds


def _gib(num_bytes: int) -> str:
    return f"{num_bytes / 2**30:,.3g} GiB"


def _peak_bytes(device: Any) -> int:
    return (device.memory_stats() or {}).get("peak_bytes_in_use", 0)


def _limit_bytes(device: Any) -> int:
    return (device.memory_stats() or {}).get("bytes_limit", 0)


def _available_bytes() -> int:
    """Available memory of this host, as Linux estimates it."""
    with open("/proc/meminfo", encoding="ascii") as file:
        values = dict(line.split(":", 1) for line in file)
    return int(values["MemAvailable"].split()[0]) * 1024


def _remove(place: Any) -> None:
    if isinstance(place, Path):
        shutil.rmtree(place, ignore_errors=True)
    else:
        import fsspec

        filesystem, path = fsspec.url_to_fs(str(place))
        filesystem.rm(path, recursive=True)
