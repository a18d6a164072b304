"""Speed and memory of checkpoints, compared with a plain implementation.

In the plain implementation, one jitted function splits the whole state into layers, orbax saves and
restores them with its defaults, and another function stacks them again. Every measurement runs in a
separate process, alternating between implementations; medians are printed.

    python scripts/bench/checkpoint.py --folder /data/bench [--layers 12] [--repeats 3]
    python scripts/bench/checkpoint.py --folder /data/bench --hidden 64 --layers 4   # small

Measured are: `stop`, how long training waits for the first and the second save of a process;
`save`, the time until the bytes are on the disk; `restore`, reading them with a cold page cache;
`device` and `host`, the peak memory in addition to the state, as a multiple of it, while saving and
while restoring. If devices do not report their memory (CPU), it is part of the host's.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from parrot_jax.model.model_config import ModelConfig
from parrot_jax.sharding import MeshConfig, make_mesh
from parrot_jax.train.optim import adamw
from parrot_jax.train.state import abstract_state, restore_state, save_state
from parrot_jax.train.train_config import OptimConfig
from parrot_jax.train.train_state import TrainState
from parrot_jax.weights.checkpoints import Checkpoints
from parrot_jax.weights.layers import abstract_parts, names_of

FORMS = ("plain", "zstd", "ours")
"""`zstd` is ours with orbax's default compression."""


class Plain:
    """Splits the whole state at once and uses orbax's defaults."""

    def __init__(self, folder: Path) -> None:
        self._manager = ocp.CheckpointManager(folder)

    def save(self, step: int, params: Any, optimizer: Any) -> None:
        """Starts a save."""
        args = {
            "params": ocp.args.StandardSave(self._split(params)),
            "optimizer": ocp.args.StandardSave(self._split(optimizer)),
        }
        self._manager.save(step, args=ocp.args.Composite(**args))

    def restore(self, step: int, like: dict[str, Any]) -> dict[str, Any]:
        """Reads a checkpoint."""
        args = {item: ocp.args.StandardRestore(abstract_parts(tree)) for item, tree in like.items()}
        restored = self._manager.restore(step, args=ocp.args.Composite(**args))
        return {item: self._join(restored[item], tree) for item, tree in like.items()}

    def wait(self) -> None:
        """Waits until the checkpoint is on the disk."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Closes the manager."""
        self._manager.close()

    @staticmethod
    def _split(tree: Any) -> dict[str, Any]:
        def split(tree: Any) -> dict[str, Any]:
            return {
                name: leaf if layer is None else leaf[layer]
                for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
                for name, layer in names_of(path, leaf)
            }

        return jax.jit(split)(tree)

    @staticmethod
    def _join(arrays: dict[str, Any], like: Any) -> Any:
        def join(arrays: dict[str, Any]) -> Any:
            def leaf(path: Any, leaf: Any) -> Any:
                names = names_of(path, leaf)
                whole = names[0][1] is None
                return arrays[names[0][0]] if whole else jnp.stack([arrays[n] for n, _ in names])

            return jax.tree_util.tree_map_with_path(leaf, like)

        return jax.jit(join, out_shardings=jax.tree.map(lambda leaf: leaf.sharding, like))(arrays)


def make(form: str, folder: Path) -> Any:
    """Creates the checkpoints of an implementation."""
    if form == "zstd":
        handler = ocp.PyTreeCheckpointHandler
        ocp.PyTreeCheckpointHandler = lambda **options: handler(
            **{**options, "use_compression": True}
        )
        try:
            return Checkpoints(folder)
        finally:
            ocp.PyTreeCheckpointHandler = handler
    return Plain(folder) if form == "plain" else Checkpoints(folder)


class Watch:
    """Measures the peak memory of a block, in addition to the memory used before it."""

    def __enter__(self) -> "Watch":
        self.before, self.peak, self._running = self._used(), 0, True
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._running = False
        self._thread.join()

    def _watch(self) -> None:
        while self._running:
            self.peak = max(self.peak, self._used() - self.before)
            time.sleep(0.002)

    @staticmethod
    def _used() -> int:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")


def device_bytes(what: str) -> int:
    """`bytes_in_use` or `peak_bytes_in_use` of the first device; 0 if not reported."""
    return (jax.devices()[0].memory_stats() or {}).get(what, 0)


def random_state(like: TrainState) -> TrainState:
    """Random numbers, which compress like a trained state."""
    rng = np.random.default_rng(0)

    def array(leaf: Any) -> jax.Array:
        values = rng.standard_normal(leaf.shape, np.float32) * 0.02
        return jax.device_put(values.astype(leaf.dtype), leaf.sharding)

    return jax.tree.map(array, like)


def forget(folder: Path) -> None:
    """Drops the files of a folder from the page cache."""
    for path in folder.rglob("*"):
        if path.is_file():
            with open(path, "rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def measure(options: argparse.Namespace) -> dict[str, float]:
    """Measures one implementation once."""
    folder = Path(options.folder, "checkpoints")
    shutil.rmtree(folder, ignore_errors=True)
    config = ModelConfig(
        vocab_size=options.vocab,
        hidden_size=options.hidden,
        intermediate_size=options.hidden * 11 // 4,
        num_hidden_layers=options.layers,
        num_attention_heads=4,
        max_position_embeddings=128,
    )
    like = abstract_state(
        config,
        adamw(OptimConfig(moments_dtype=options.dtype)),
        make_mesh(MeshConfig()),
        options.dtype,
    )
    state = random_state(like)
    found = {"state": float(sum(leaf.nbytes for leaf in jax.tree.leaves(state)))}
    in_use = device_bytes("bytes_in_use")
    checkpoints = make(options.form, folder)
    with Watch() as watch:
        for step in (1, 2):
            os.sync()
            started = time.perf_counter()
            save_state(checkpoints, step, state)
            found[f"stop{step}"] = time.perf_counter() - started
            checkpoints.wait()
            os.sync()
            found["save"] = time.perf_counter() - started
    checkpoints.close()
    found["host_save"] = watch.peak
    found["device_save"] = max(0, device_bytes("peak_bytes_in_use") - in_use)
    step2 = folder / "2"
    found["disk"] = sum(path.stat().st_size for path in step2.rglob("*") if path.is_file())
    return found | restore(options, folder, like, state)


def restore(options: argparse.Namespace, folder: Path, like: Any, state: Any) -> dict[str, float]:
    """Restores the checkpoint while the saved state is in memory; both must be equal."""
    forget(folder)
    found: dict[str, float] = {}
    checkpoints = make(options.form, folder)
    in_use = device_bytes("bytes_in_use")
    with Watch() as watch:
        started = time.perf_counter()
        restored = jax.block_until_ready(restore_state(checkpoints, 2, like))
        found["restore"] = time.perf_counter() - started
    found["host_restore"] = watch.peak
    found["device_restore"] = max(0, device_bytes("peak_bytes_in_use") - in_use)
    for one, two in zip(jax.tree.leaves(state), jax.tree.leaves(restored), strict=True):
        assert (np.asarray(one) == np.asarray(two)).all()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--folder", required=True, help="an empty folder on the disk to measure")
    parser.add_argument("--hidden", type=int, default=768)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--vocab", type=int, default=4096)
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--form", choices=FORMS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.form:
        print(json.dumps(measure(options)))
        return
    runs: dict[str, list[dict[str, float]]] = {form: [] for form in FORMS}
    for _ in range(options.repeats):
        for form, found in runs.items():
            command = [sys.executable, __file__, *sys.argv[1:], "--form", form]
            output = subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout
            found.append(json.loads(output.splitlines()[-1]))
    shutil.rmtree(Path(options.folder, "checkpoints"))
    for form, found in runs.items():
        m = {name: statistics.median(run[name] for run in found) for name in found[0]}
        size = m["state"]
        print(
            f"{form:5s} state {size / 1e9:.3f} GB, {m['disk'] / size:.3f} of it on disk; "
            f"stop {m['stop1']:.2f} s, {m['stop2']:.2f} s; save {m['save']:.2f} s, "
            f"{size / m['save'] / 1e9:.2f} GB/s; restore {m['restore']:.2f} s, "
            f"{size / m['restore'] / 1e9:.2f} GB/s; in addition to the state, saving: device "
            f"{m['device_save'] / size:.2f}, host {m['host_save'] / size:.2f}; restoring: device "
            f"{m['device_restore'] / size:.2f}, host {m['host_restore'] / size:.2f}"
        )


if __name__ == "__main__":
    main()
