"""Makes the parts of a prepared split, in several processes if there is much to do.

A part is the rows and spans of one block of dialogues, with their counts. Blocks are read in this
process and sent to workers. Each worker makes a whole part: a quarter of that time is spent outside
`tokenizers`, the only step with threads of its own. Workers are separate programs, not forks: a
fork of a process with jax's threads may hang. They end when this process does.
"""

import contextlib
import itertools
import json
import os
import pickle
import queue
import subprocess
import sys
import traceback
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from parrot_jax.core.errors import RunError, UserError
from parrot_jax.core.files import hash_file, write_array, write_json
from parrot_jax.data.data_config import DataConfig
from parrot_jax.data.rows import Part, make_rows
from parrot_jax.data.templates import make_template
from parrot_jax.data.tokenizers import load_tokenizer
from parrot_jax.dialogue.types import Dialogue

_MOST_WORKERS = 8
"""This process reads the files for about this many."""

_MOST_ALONE = 1000
"""As many dialogues are prepared by the time that workers have started."""


class Block(NamedTuple):
    """Dialogues that share rows."""

    number: int
    """Of the part."""
    first: int
    """Number of the first dialogue in the split."""
    dialogues: list[Dialogue]
    share: float | None
    """How much of the files was read with this block."""


class PartMaker:
    """Makes the part of a block, unless an interrupted preparation has made it."""

    def __init__(self, config: DataConfig, folder: Path, *, pairs: bool) -> None:
        """Loads the tokenizer.

        Args:
          config: The settings.
          folder: Of the parts.
          pairs: Make rows of preference pairs.
        """
        self._config, self._folder, self._pairs = config, folder, pairs
        self._template = make_template(config.template, load_tokenizer(config.tokenizer))

    def __call__(self, block: Block) -> dict[str, Any]:
        """Returns the counts of a part, its pairs that are `too_long`, and the hashes of files."""
        known = self._read(block.number)
        if known is not None:
            return known
        made = make_rows(
            block.dialogues, block.first, self._config, self._template, pairs=self._pairs
        )
        return self._write(made, block.number)

    def _read(self, number: int) -> dict[str, Any] | None:
        """Reads a part that was made before; None if it is incomplete or changed."""
        try:
            part = json.loads(self._counts_path(number).read_text("utf-8"))
            whole = all(
                hash_file(self._folder / name) == known for name, known in part["files"].items()
            )
            return part if whole else None
        except (OSError, ValueError, KeyError, TypeError, AttributeError, UserError):
            return None

    def _write(self, made: Part, number: int) -> dict[str, Any]:
        files = {}
        for kind, array in (("rows", made.rows), ("spans", made.spans)):
            name = f"{kind}-{number:05d}.npy"
            write_array(self._folder / name, array)
            files[name] = hash_file(self._folder / name)
        part = {"counts": dict(made.counts), "too_long": made.too_long, "files": files}
        write_json(self._counts_path(number), part)
        return part

    def _counts_path(self, number: int) -> Path:
        return self._folder / f"counts-{number:05d}.json"


def make_parts(
    blocks: Iterable[Block], config: DataConfig, folder: Path, *, pairs: bool
) -> Iterator[tuple[Block, dict[str, Any]]]:
    """Makes the part of each block.

    Args:
      blocks: Read as they are needed; a few are in memory at a time.
      config: The settings.
      folder: Where the parts are written.
      pairs: Make rows of preference pairs.

    Yields:
      Each block with what `PartMaker` returns, in order.

    Raises:
      RunError: A worker ended before its part was complete.
    """
    blocks = iter(blocks)
    ahead: list[Block] = []
    while sum(len(block.dialogues) for block in ahead) <= _MOST_ALONE:
        block = next(blocks, None)
        if block is None:
            make = PartMaker(config, folder, pairs=pairs)
            yield from ((block, make(block)) for block in ahead)
            return
        ahead.append(block)
    with _workers(config, folder, pairs=pairs) as (make_soon, num_workers):
        coming: deque[tuple[Block, Future[dict[str, Any]]]] = deque()
        for block in itertools.chain(ahead, blocks):
            coming.append((block, make_soon(block)))
            if len(coming) > num_workers:
                block, part = coming.popleft()
                yield block, part.result()
        for block, part in coming:
            yield block, part.result()


# ---- the side of the parent ---------------------------------------------------------------------

_WORKER = """
import json, sys
sys.path[:] = json.loads(sys.argv[1])
from parrot_jax.data.parts import work
work(int(sys.argv[2]))
"""
"""The program of a worker, which imports from where this process does."""


def _is_plain(value: Any) -> bool:
    return isinstance(value, str | int | float)


class _Worker:
    """A process that makes parts, one at a time."""

    def __init__(self, settings: tuple[Any, ...], num_threads: int) -> None:
        path = [os.path.abspath(entry) for entry in sys.path if isinstance(entry, str)]
        read_end, write_end = os.pipe()  # not stdout, on which any imported module may print
        command = [sys.executable, "-P", "-c", _WORKER, json.dumps(path), str(write_end)]
        threads = {"RAYON_NUM_THREADS": str(num_threads)}  # of `tokenizers`
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            env=threads | os.environ,
            pass_fds=[write_end],
            start_new_session=True,  # Ctrl-C is for the parent, which ends its workers
        )
        os.close(write_end)  # so that the answers end with the worker
        self._answers = os.fdopen(read_end, "rb")
        self._send(settings)

    def _send(self, message: Any) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # its exit status says more
            pickle.dump(message, self._process.stdin)
            self._process.stdin.flush()

    def make(self, block: Block) -> dict[str, Any]:
        # The rows need no other metadata, which may be as large and deep as the file likes.
        dialogues = [
            replace(dialogue, metadata={k: v for k, v in dialogue.metadata.items() if _is_plain(v)})
            for dialogue in block.dialogues
        ]
        self._send(block._replace(dialogues=dialogues))
        try:
            result = pickle.load(self._answers)
        except (EOFError, pickle.UnpicklingError):
            raise RunError(
                f"a process that prepares rows ended with status {self._process.wait()} at the "
                f"dialogues from number {block.first:,}; its error is above, and -9 may mean that "
                "memory was short. Run the same command again: complete parts are kept."
            ) from None
        if isinstance(result, Exception):
            raise result
        return result

    def end(self) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._answers):
            with contextlib.suppress(BrokenPipeError):
                pipe.close()  # pyright: ignore[reportOptionalMemberAccess]


@contextlib.contextmanager
def _workers(config: DataConfig, folder: Path, *, pairs: bool) -> Iterator[tuple[Any, int]]:
    """Starts workers; yields a function from a block to the future of its part, and their number.

    Parts that are not complete at the end of the block are lost.
    """
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    num = min(cpus, _MOST_WORKERS)
    idle: queue.SimpleQueue[_Worker] = queue.SimpleQueue()
    workers: list[_Worker] = []

    def make(block: Block) -> dict[str, Any]:
        worker = idle.get()
        try:
            return worker.make(block)
        finally:
            idle.put(worker)

    threads = ThreadPoolExecutor(num, "parts")
    try:
        for _ in range(num):
            workers.append(_Worker((config, folder, pairs), max(1, cpus // num)))
            idle.put(workers[-1])
        yield lambda block: threads.submit(make, block), num
    finally:
        threads.shutdown(wait=False, cancel_futures=True)
        for worker in workers:
            worker.end()
        threads.shutdown()


# ---- the side of a worker -----------------------------------------------------------------------


def work(answers_to: int) -> None:
    """Makes the parts of the blocks from stdin until it ends, as it does with the parent.

    Args:
      answers_to: The file descriptor for the parts.
    """
    make: PartMaker | None = None
    # An unfinished message is the last one of a parent that was killed.
    over = contextlib.suppress(EOFError, BrokenPipeError, pickle.UnpicklingError)
    with over, os.fdopen(answers_to, "wb") as answers:
        config, folder, pairs = pickle.load(sys.stdin.buffer)
        while True:
            block = pickle.load(sys.stdin.buffer)
            try:
                make = make or PartMaker(config, folder, pairs=pairs)
                result: dict[str, Any] | Exception = make(block)
            except Exception as error:
                error.add_note(f"in a process that prepares rows:\n{traceback.format_exc()}")
                result = error
            pickle.dump(result, answers)
            answers.flush()
