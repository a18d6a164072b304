"""`parrot data prepare` beside `datasets`: made dialogues to packed rows on disk.

The dialogues have some 8 turns of some 60 words, in chatml; the loss is on the answers. Both use
the same byte-level BPE of a `tokenizer.json`, trained on such text. Each round runs both as whole
programs with empty caches, in turns:

    ours   `parrot data prepare` with its defaults
    peer   `datasets_rows.py`: `load_dataset("json")`; a `map` renders chatml, tokenizes batches
           with offsets and makes labels from them; TRL's `pack_dataset` packs (best fit). Both maps
           have 2 processes and write Arrow files

Prints the median seconds of the programs; the ratios, peer / ours, are by round. The tokens and
live tokens of both must agree within 1 %.

With --memory it runs ours alone, on 70,000 sessions of 3,166 tokens, and prints the peak memory of
the process and its children: the largest sum of PSS, sampled twice a second, and the largest RSS
of one process.

    .venv-torch/bin/python scripts/bench/data_prepare.py [--dialogues 40000] [--rounds 3] [--memory]
"""

import argparse
import contextlib
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
from made_dialogues import Texts, write_config, write_dialogues, write_tokenizer

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
SESSION = 3166
"""Tokens of a session with --memory."""
GIB = 2**30


def ours(folder: Path) -> None:
    """`parrot data prepare`."""
    from parrot_jax import cli
    from parrot_jax.data import prepare

    assert Path(prepare.__file__).is_relative_to(ROOT)
    if status := cli.main(["data", "prepare", str(folder / "config.yaml")]):
        raise SystemExit(status)
    (made,) = (folder / "cache").glob("*/prepared.json")
    counts = json.loads(made.read_text())["counts"]
    print(json.dumps([counts["tokens"], counts["live_tokens"], counts["rows"]]))


PROGRAMS = {"ours": [__file__, "--work"], "peer": [str(HERE / "datasets_rows.py")]}


def program(kind: str, folder: Path, *, watch: bool = False) -> list[float]:
    """Runs a program with empty caches.

    Returns:
      Its seconds; tokens, live tokens, rows; with `watch` also the peak of the PSS.
    """
    shutil.rmtree(folder / "cache", ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=folder) as caches:
        environment = {"PYTHONPATH": str(ROOT), "HF_HOME": caches, "HF_HUB_OFFLINE": "1",
                       "HF_DATASETS_CACHE": f"{caches}/datasets"}  # fmt: skip
        log, peak, started = Path(caches) / "log", 0, time.perf_counter()
        with log.open("w") as file:
            worker = subprocess.Popen([sys.executable, *PROGRAMS[kind], str(folder)],
                                      env=os.environ | environment, stdout=file)  # fmt: skip
            while watch and worker.poll() is None:
                peak = max(peak, pss_of_tree(worker.pid))
                time.sleep(0.5)
            status = worker.wait()
        seconds = time.perf_counter() - started
        if status:
            raise SystemExit(f"{kind}: exit status {status}\n{log.read_text()}")
        return [seconds, *json.loads(log.read_text().splitlines()[-1]), *([peak] if watch else [])]


def pss_of_tree(pid: int) -> int:
    total = 0
    with contextlib.suppress(psutil.NoSuchProcess):  # it ended meanwhile
        root = psutil.Process(pid)
        for process in [root, *root.children(recursive=True)]:
            with contextlib.suppress(psutil.Error):
                total += process.memory_full_info().pss
    return total


def compare(folder: Path, dialogues: int, rounds: int) -> None:
    found: dict[str, list[list[float]]] = {kind: [] for kind in PROGRAMS}
    for _ in range(rounds):
        for kind in PROGRAMS:
            found[kind].append(program(kind, folder))
    print("| | program, s | dialogues/s | tokens/s | tokens | live tokens | rows |")
    print("|---|---|---|---|---|---|---|")
    for kind, results in found.items():
        seconds, tokens, live, rows = map(statistics.median, zip(*results, strict=True))
        print(f"| {kind} | {seconds:.1f} | {dialogues / seconds:,.0f} | "
              f"{tokens / seconds:,.0f} | {tokens:,.0f} | {live:,.0f} | {rows:,.0f} |")  # fmt: skip
    ratios = [peer[0] / ours[0] for ours, peer in zip(*found.values(), strict=True)]
    print(f"peer / ours: {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")
    for place in (1, 2):
        a, b = (found[kind][0][place] for kind in PROGRAMS)
        assert abs(a / b - 1) < 0.01, f"not the same work: {a:,} and {b:,} tokens"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--dialogues", type=int, help="40,000; with --memory 70,000")
    parser.add_argument("--words", type=int, default=60, help="words of a turn")
    parser.add_argument("--row-tokens", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--out", help="parent of the scratch folder; --memory needs 6 GB")
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        ours(options.work)
        return
    dialogues = options.dialogues or (70_000 if options.memory else 40_000)
    with tempfile.TemporaryDirectory(dir=options.out) as name:
        folder, texts = Path(name), Texts()
        write_config(folder, options.row_tokens)
        made = write_tokenizer(folder / "tokenizer", [texts.text(60) for _ in range(3000)])
        path = folder / "dialogues.jsonl"
        if not options.memory:
            write_dialogues(path, (texts.turns(options.words) for _ in range(dialogues)))
            compare(folder, dialogues, options.rounds)
            return
        # 8 turns of SESSION / 8 tokens, some 5 of them around the text, drawn from 1,000 texts.
        rate = len(made.encode(texts.text(200_000)).ids) / 200_000
        turns = [texts.text(round((SESSION / 8 - 5) / rate)) for _ in range(1000)]
        picked = (texts.rng.integers(1000, size=8) for _ in range(dialogues))
        write_dialogues(path, ([turns[n] for n in numbers] for numbers in picked))
        seconds, tokens, live, rows, peak = program("ours", folder, watch=True)
        largest = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
        size = sum(f.stat().st_size for f in (folder / "cache").rglob("*") if f.is_file())
        print("| sessions | tokens, live | rows | s | tokens/s | JSONL, GiB | rows, GiB | "
              "peak PSS, GiB | largest RSS, GiB |")  # fmt: skip
        print("|---|---|---|---|---|---|---|---|---|")
        print(f"| {dialogues:,} | {tokens:,}, {live:,} | {rows:,} | {seconds:.0f} | "
              f"{tokens / seconds:,.0f} | {path.stat().st_size / GIB:.2f} | {size / GIB:.2f} | "
              f"{peak / GIB:.2f} | {largest / GIB:.2f} |")  # fmt: skip


if __name__ == "__main__":
    main()
