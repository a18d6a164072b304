"""Speed and memory of the converters, compared with `cp` of the same folder.

    python scripts/bench/convert.py --folder /data/bench --layers 10 --repeats 3   # a quarter
    python scripts/bench/convert.py --folder /data/bench --layers 40 --repeats 1   # the full size

Creates a folder of random bfloat16 weights with the shapes of LLaMA2-13B and the given number of
layers. Then alternates `cp`, `parrot convert hf-to-flax` and `parrot convert flax-to-hf`, each
followed by `sync` and started with a cold page cache. Outputs are deleted as soon as possible, so
the disk needs room for two copies. Exits with 1 if a target is missed.
"""

import argparse
import dataclasses
import hashlib
import json
import multiprocessing
import os
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open

from parrot_jax.model.families import num_parameters
from parrot_jax.model.hf_config import to_hf
from parrot_jax.model.presets import PRESETS
from parrot_jax.weights.flax_to_hf import MAX_SHARD_BYTES, plan_shards
from parrot_jax.weights.hf_folder import DTYPES
from parrot_jax.weights.names import tensors

BARS = {"import": 0.35, "export": 0.50}
MAX_GIB = 8.0


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--folder", required=True, help="an empty folder on the disk to measure")
    parser.add_argument("--layers", type=int, default=10, help="40 = LLaMA2-13B")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    folder = Path(options.folder)
    folder.mkdir(parents=True, exist_ok=True)
    config = dataclasses.replace(PRESETS["llama2-13b"], num_hidden_layers=options.layers)
    nbytes = 2 * num_parameters(config)
    free = shutil.disk_usage(folder).free
    if free < 2.1 * nbytes:
        sys.exit(f"{folder} has {free / 1e9:.1f} GB free; two copies take {2.1 * nbytes / 1e9:.1f}")
    source, flax, back = folder / "hf", folder / "flax", folder / "back"
    seconds: dict[str, list[float]] = {"cp": [], "import": [], "export": []}
    peaks: dict[str, list[float]] = {"cp": [], "import": [], "export": []}

    def timed(what: str, read: Path, *command: object) -> None:
        forget(read)
        started = time.perf_counter()
        peak = run(*command)
        subprocess.run(["sync"], check=True)
        seconds[what].append(time.perf_counter() - started)
        peaks[what].append(peak)
        print(f"{what}: {seconds[what][-1]:.1f} s, {peak:.2f} GiB resident", flush=True)

    convert = [sys.executable, "-m", "parrot_jax.cli", "convert"]
    # A child's peak includes its parent's memory, so other processes hold the large arrays.
    spawn = multiprocessing.get_context("spawn")
    for number in range(options.repeats):
        with spawn.Pool(1) as pool:
            hashes = pool.apply(make, (source, config))
        timed("cp", source, "cp", "-r", source, folder / "copy")
        shutil.rmtree(folder / "copy")
        timed("import", source, *convert, "hf-to-flax", source, flax)
        shutil.rmtree(source)
        timed("export", flax, *convert, "flax-to-hf", flax, back)
        shutil.rmtree(flax)
        with spawn.Pool(1) as pool:
            same = pool.apply(hash_folder, (back,))
        shutil.rmtree(back)
        equal = sum(same.get(name) == digest for name, digest in hashes.items())
        print(
            f"round {number}: {equal} of {len(hashes)} tensors are identical, {len(same)} written"
        )
        if same != hashes:
            sys.exit("HF -> Flax -> HF changed the weights")
    print(f"\n{options.layers} layers, {nbytes / 1e9:.1f} GB, medians of {options.repeats}")
    print("| | GB/s | share of cp | target | GiB resident | target |\n|---|---|---|---|---|---|")
    base, ok = statistics.median(seconds["cp"]), True
    for what, times in seconds.items():
        spent, peak = statistics.median(times), max(peaks[what])
        share, bar = base / spent, BARS.get(what, 0.0)
        ok &= share >= bar and peak <= MAX_GIB
        print(f"| {what} | {nbytes / 1e9 / spent:.3f} | {share:.2f} | {bar:.2f} | {peak:.2f} | "
              f"{MAX_GIB:.0f} |")  # fmt: skip
    sys.exit(not ok)


def make(folder: Path, config: Any) -> dict[str, str]:
    """Writes random weights of ordinary size; returns the SHA-256 of each tensor."""
    folder.mkdir()
    dtype, hashes, places = DTYPES["bfloat16"], {}, {}
    shards = plan_shards(tensors(config), dtype, MAX_SHARD_BYTES)
    random = np.random.default_rng(0)
    for shard in shards:
        header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
        end = 0
        for tensor in shard.tensors:
            first, end = end, end + 2 * int(np.prod(tensor.their_shape, dtype=np.int64))
            header[tensor.theirs] = {"dtype": "BF16", "shape": tensor.their_shape,
                                     "data_offsets": [first, end]}  # fmt: skip
            places[tensor.theirs] = shard.name
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        with open(folder / shard.name, "wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            for tensor in shard.tensors:
                bits = random.integers(0, 2**16, int(np.prod(tensor.their_shape)), np.uint16)
                # Random sign and fraction; one of eight exponents, about 2^-10 to 2^-3.
                bits = (bits & 0x807F) | ((117 + (bits >> 7 & 7)) << 7).astype(np.uint16)
                hashes[tensor.theirs] = hashlib.sha256(bits.data).hexdigest()
                file.write(bits.data)
    (folder / "config.json").write_text(json.dumps(to_hf(config)))
    index = {"metadata": {}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    subprocess.run(["sync"], check=True)
    return hashes


def hash_folder(folder: Path) -> dict[str, str]:
    """Returns the SHA-256 of each tensor."""
    hashes = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="np") as file:
            for name in file.keys():  # noqa: SIM118
                hashes[name] = hashlib.sha256(file.get_tensor(name).view(np.uint8).data).hexdigest()
    return hashes


def run(*command: object) -> float:
    """Runs a command; returns its peak resident memory in GiB."""
    process = subprocess.Popen([str(part) for part in command], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"{' '.join(map(str, command))} failed with status {status}")
    return usage.ru_maxrss / 2**20


def forget(folder: Path) -> None:
    """Drops the files of a folder, but no others, from the page cache."""
    subprocess.run(["sync"], check=True)
    for path in folder.rglob("*"):
        if path.is_file():
            with open(path, "rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


if __name__ == "__main__":
    main()
