"""Finds the runs in a folder, also those that are being written.

A run is *running* if a process of this machine holds its lock. The list of held locks is read, not
the lock itself, so looking at a run never disturbs it.
"""

import contextlib
import os
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

from parrot_jax.api.journal_reader import JournalReader
from parrot_jax.core.errors import ParrotError, UserError
from parrot_jax.core.files import read_object
from parrot_jax.core.logs import duration
from parrot_jax.report.page import Table
from parrot_jax.runs.training_files import CONFIG, DATA, METRICS, last_row, read_config, steps_of

State = Literal["finished", "running", "stopped", "damaged"]

_SKIPPED = frozenset({"checkpoints", "tokenizer", "results"})
_LOCKS = Path("/proc/locks")
# By the first of these keys that its config has.
_JOBS = {
    "beginnings": "collection",
    "generator": "negatives",
    "judge": "judgments",
    "require_context": "benchmark",
    "benchmark": "answers",
    "asker": "asker's questions",
}


class Found(NamedTuple):
    """A run, for a row of a table."""

    path: Path
    kind: str
    state: State
    progress: str
    """E.g. `1,200 of 2,000 steps`."""
    last: str
    """The newest loss, or why the run cannot be read."""
    changed_at: float
    """Time of the last change, in seconds since 1970."""


class _Look(NamedTuple):
    kind: str
    is_finished: bool
    progress: str
    last: str


def find_runs(folder: Path) -> Iterator[Found]:
    """Yields the runs in a folder and below it, in order of their paths.

    Args:
      folder: A run may be at any depth. Hidden folders are skipped.
    """
    for path, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if name[0] != "." and name not in _SKIPPED)
        here = Path(path)
        if CONFIG in files and DATA in files:
            yield _found(here, here / ".lock", partial(_training, here))
        elif "quickstart.json" in files:
            yield _found(here, here / ".lock", partial(_quickstart, here))
        for name in sorted(name for name in files if name.endswith(".sqlite")):
            yield _found(here, here / f".{name}.lock", partial(_job, here / name))


def _found(folder: Path, lock: Path, look: Callable[[], _Look]) -> Found:
    changed_at = _changed_at(folder)
    try:
        kind, is_finished, progress, last = look()
    except (ParrotError, OSError) as error:
        return Found(folder, "?", "damaged", "", str(error), changed_at)
    state: State = "running" if is_held(lock) else "finished" if is_finished else "stopped"
    return Found(folder, kind, state, progress, last, changed_at)


def _changed_at(folder: Path) -> float:
    times = [0.0]
    # A running job may rename or remove a file meanwhile, and a user the folder.
    with contextlib.suppress(FileNotFoundError):
        for entry in os.scandir(folder):
            with contextlib.suppress(FileNotFoundError):
                times.append(entry.stat().st_mtime)
    return max(times)


def _training(folder: Path) -> _Look:
    config, row = read_config(folder), last_row(folder / METRICS) or {}
    step, num_steps = row.get("step", 0), steps_of(config, read_object(folder / DATA))
    kind = {"ask": "asker", "chat": "chat model"}.get(str(config.get("task")), "training")
    if config.get("objective") == "preference":
        kind += ", CaPO"
    if isinstance(config.get("lora"), dict):
        kind += f", LoRA of rank {config['lora'].get('rank')}"
    loss = f"loss {row['loss']:.4f}" if isinstance(row.get("loss"), float) else ""
    return _Look(kind, step == num_steps, _progress(step, num_steps, "steps"), loss)


def _quickstart(folder: Path) -> _Look:
    path = folder / "quickstart.json"
    stages = read_object(path).get("stages", {})
    if not isinstance(stages, dict):
        raise UserError(f"{path} is damaged: `stages` is not a JSON object.")
    return _Look("quickstart", "report" in stages, f"{len(stages)} stages", "")


def _job(journal: Path) -> _Look:
    with contextlib.closing(JournalReader(journal)) as reader:
        config = reader.last_start().config
        items, still_open = reader.num_items(), len(reader.without_end())
    kind = kind_of_job(config) or journal.stem
    is_finished = not still_open
    summary = journal.with_name("summary.json")
    if kind == "negatives" and summary.exists():
        # It stops when there are enough pairs.
        is_finished = read_object(summary).get("open") == 0
    return _Look(kind, is_finished, _progress(items - still_open, items, "items"), "")


def kind_of_job(config: Collection[str]) -> str | None:
    """What a job makes, by the keys of its config; None = unknown."""
    return next((kind for key, kind in _JOBS.items() if key in config), None)


def _progress(done: int, total: int | None, what: str) -> str:
    return f"{done:,} {what}" if total is None else f"{done:,} of {total:,} {what}"


def is_held(lock: Path) -> bool:
    """Whether a process of this machine holds a lock file; False where `/proc/locks` is missing."""
    try:
        seen, held = os.stat(lock), _LOCKS.read_text(encoding="ascii")
    except OSError:
        return False
    device = f"{os.major(seen.st_dev):02x}:{os.minor(seen.st_dev):02x}"
    return f" {device}:{seen.st_ino} " in held


def runs_table(found: Sequence[Found], folder: Path) -> Table:
    """The runs as a table; paths are relative to the folder."""
    now = time.time()
    return Table(
        columns=("run", "what", "state", "last", "progress", "changed"),
        rows=[
            (
                str(one.path.relative_to(folder)), one.kind, one.state, one.last, one.progress,
                f"{duration(now - one.changed_at)} ago",
            )
            for one in found
        ],
        text_columns=4,
    )  # fmt: skip
