"""Prepares dialogue files as packed rows on disk, cached in a folder named by a hash.

The input is processed in blocks of `BLOCK_DIALOGUES`. Each block is tokenised, cut into windows,
packed and written as one part, so memory does not grow with the data, and a killed run resumes
after the last complete part. The folder gets its final name when all parts are written.

    <cache_dir>/<key>/rows-00000.npy    records of `packing.row_dtype`, one per row
                      spans-00000.npy   records of `rows.SPAN_DTYPE`, one per live turn
                      counts-00000.json counts of the block's dialogues; written last
                      histories.json    eval split only: histories for sample texts
                      prepared.json     settings behind the key, total counts, hashes of the arrays

`cache_key` makes the key. If arrays have changed on disk, the rows are prepared again.
"""

import hashlib
import itertools
import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from parrot_jax.core.config import check_config
from parrot_jax.core.errors import UserError, disk_full_is_a_user_error
from parrot_jax.core.files import hash_file, hash_json, write_json
from parrot_jax.core.logs import Pace, console
from parrot_jax.data.cache_key import row_settings
from parrot_jax.data.data_config import DataConfig, MaskConfig, Task
from parrot_jax.data.histories import HISTORIES, Histories, History, read_histories
from parrot_jax.data.parts import Block, make_parts
from parrot_jax.data.read_progress import ReadProgress
from parrot_jax.data.templates import make_template
from parrot_jax.data.templates.base import Template
from parrot_jax.data.templates.published import MOST_COMPARED, differences
from parrot_jax.data.tokenizers import load_tokenizer
from parrot_jax.dialogue.sources import ReadReport, SourceConfig, read_sources
from parrot_jax.dialogue.types import Dialogue

Split = Literal["train", "eval"]

BLOCK_DIALOGUES = 1000


class Prepared(NamedTuple):
    """A prepared split on disk."""

    folder: Path
    counts: dict[str, Any]
    """Counts of the dialogues; see `prepare`."""
    settings: dict[str, Any]
    """Everything that determined the rows; see `cache_key.row_settings`."""
    rows_hash: str
    """Hash of the rows, 64 hex digits."""

    def rows(self) -> "RowFiles":
        """The rows, memory-mapped."""
        return RowFiles([np.load(p, mmap_mode="r") for p in sorted(self.folder.glob("rows-*.npy"))])

    def spans(self) -> NDArray[Any]:
        """All live turns as one array of `SPAN_DTYPE`, with `row` numbered over the whole split."""
        parts, first_row = [], 0
        for path in sorted(self.folder.glob("spans-*.npy")):
            part = np.load(path)
            part["row"] += first_row
            parts.append(part)
            rows_path = path.with_name(path.name.replace("spans", "rows"))
            first_row += len(np.load(rows_path, mmap_mode="r"))
        return np.concatenate(parts)

    def histories(self, task: Task, *, max_prompt_tokens: int) -> list[History]:
        """The held-out histories for sample texts; see `Histories`."""
        return read_histories(self.folder / HISTORIES, task, max_prompt_tokens=max_prompt_tokens)


class RowFiles(Sequence[dict[str, NDArray[Any]]]):
    """The rows of all parts as one sequence; each row is read when it is accessed."""

    def __init__(self, parts: Sequence[NDArray[Any]]) -> None:
        """Wraps the memory-mapped parts in order."""
        self._parts = parts
        self._stops = np.cumsum([len(part) for part in parts])

    def __len__(self) -> int:
        return int(self._stops[-1])

    def __getitem__(self, index: int) -> dict[str, NDArray[Any]]:  # type: ignore[override]
        if not 0 <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        part = int(np.searchsorted(self._stops, index, side="right"))
        row = self._parts[part][index - (self._stops[part - 1] if part else 0)]
        return {name: np.array(row[name]) for name in row.dtype.names}


def prepare(config: DataConfig, split: Split, *, pairs: bool = False) -> Prepared:
    """Prepares the rows of a split, or reuses cached ones.

    In the eval split all turns are live, independent of `config.mask`, so that runs with different
    masks are evaluated on the same tokens.

    Args:
      config: The settings.
      split: `train` or `eval`.
      pairs: Make rows of preference pairs. If false, a pair is a dialogue whose only live turn is
        the chosen answer.

    Returns:
      The folder and its counts: `read` (rows, rejected and repaired by reason), `dialogues`,
      `sessions` (dialogues with a live turn, or pairs), `dropped` by reason, `windows`,
      `cut_turns`, `dropped_live_turns`, `rows`, `tokens`, `live_tokens`, `padding_share`, and the
      mean and standard deviation of live tokens per row, and where the model's own chat template
      differs (`template_differs`); of pairs also `cut_contexts`, their
      number by `kinds` and `turns`, and the ids of those `too_long`.

    Raises:
      UserError: There is no usable dialogue or pair, no live token, or only live tokens.
      DiskFullError: The cache folder is full.

    >>> from parrot_jax import small_example
    >>> prepared = prepare(small_example(getfixture("tmp_path")).data, "train")
    >>> prepared.counts["sessions"], len(prepared.rows()), len(prepared.rows()[0]["tokens"])
    (300, 260, 256)
    """
    check_config(config, DataConfig)
    if split not in ("train", "eval"):
        raise UserError(f"the split is {split!r}; it must be train or eval.")
    template = make_template(config.template, load_tokenizer(config.tokenizer))
    if split == "eval":
        config = replace(config, mask=MaskConfig(loss_roles=("user", "assistant")))
    settings = row_settings(config, split, template) | {"pairs": pairs}
    folder = Path(config.cache_dir) / hash_json(settings)[:16]
    prepared = _read(folder)
    if prepared is not None:
        return prepared
    with disk_full_is_a_user_error(f"the prepared rows in {folder}"):
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"cannot create the folder data.cache_dir={config.cache_dir}: {error.strerror}; "
                "choose another."
            ) from None
        # One process of a job prepares the rows for all.
        with FileLock(folder.with_name(folder.name + ".lock")):
            prepared = _read(folder)
            if prepared is None:
                if folder.exists():
                    console.print(
                        f"the prepared rows in {folder} are damaged; preparing them again"
                    )
                    shutil.rmtree(folder)
                prepared = _make(config, split, template, settings, folder)
    return prepared


def note_shared_files(train: Prepared, held_out: Prepared) -> None:
    """Warns if a file of `eval_sources` is also in `sources`, compared by content."""

    def files(sources: list[Any]) -> set[str]:
        return {known for source in sources for _, known in source.get("files", [])}

    shared = files(train.settings["sources"]) & files(held_out.settings["eval_sources"])
    if shared:
        console.print(
            f"data.eval_sources has {len(shared)} of the files in data.sources: evaluation on "
            "them measures training data",
            style="yellow",
        )


def held_out(dialogue: Dialogue, fraction: float, seed: int) -> bool:
    """Whether a dialogue is held out; depends only on its first question."""
    text = f"{seed}\n{' '.join(dialogue.turns[0].text.lower().split())}"
    digest = hashlib.blake2b(text.encode("utf-8"), digest_size=8).digest()
    return int.from_bytes(digest, "big") < fraction * 2**64


def _read(folder: Path) -> Prepared | None:
    """Reads a prepared folder; None if it is incomplete or changed."""
    try:
        made = json.loads((folder / "prepared.json").read_text("utf-8"))
        if any(hash_file(folder / name) != known for name, known in made["files"].items()):
            return None
        return _prepared(folder, made)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, UserError):
        return None


def _prepared(folder: Path, made: dict[str, Any]) -> Prepared:
    rows = [known for name, known in sorted(made["files"].items()) if name.startswith("rows-")]
    return Prepared(folder, made["counts"], made["settings"], hash_json(rows))


def _make(
    config: DataConfig,
    split: Split,
    template: Template,
    settings: dict[str, Any],
    folder: Path,
) -> Prepared:
    partial = folder.with_name(folder.name + ".partial")
    partial.mkdir(parents=True, exist_ok=True)
    report = ReadReport()
    first, totals, files = 0, Counter[str](), dict[str, str]()
    too_long: list[str] = []
    shared, own = _sources_of(config, split)
    reading, pace = ReadProgress([*shared, *own]), Pace(1.0)
    histories = Histories(template, config.row_tokens)
    dialogues = histories.watch(read_split(config, split, report=report, totals=totals))
    blocks = _blocks(dialogues, lambda: reading.share(report))
    template_differs: list[str] = []
    for block, part in make_parts(blocks, config, partial, pairs=settings["pairs"]):
        # A block takes well under a minute, so one line per block shows the progress.
        left = "" if block.share is None else pace.left(block.share)
        if block.number == 0:
            template_differs = _compare(template, block.dialogues[:MOST_COMPARED])
        else:
            console.print(
                f"prepare {split}: {block.first + len(block.dialogues):,} dialogues done"
                + (f", {block.share:.0%} of the files read" if block.share is not None else "")
                + (f", {left}" if left else "")
            )
        totals.update(part["counts"])
        too_long += part["too_long"]
        files |= part["files"]
        first = block.first + len(block.dialogues)
    counts = _summary(totals, first, report, config.row_tokens)
    counts["template_differs"] = template_differs
    if settings["pairs"]:
        counts |= _pairs_summary(totals, too_long)
    _check_live(counts, config, split, pairs=settings["pairs"])
    if split == "eval":
        write_json(partial / HISTORIES, histories.found)
        files[HISTORIES] = hash_file(partial / HISTORIES)
    for unfinished in partial.glob("*.tmp-*"):  # of a process that was killed
        unfinished.unlink(missing_ok=True)
    made = {"counts": counts, "files": files, "settings": settings}
    write_json(partial / "prepared.json", made)
    try:
        os.rename(partial, folder)
    except OSError:
        # If locks do not work, another run may have prepared the same rows meanwhile.
        others = _read(folder)
        if others is None:
            raise
        shutil.rmtree(partial, ignore_errors=True)
        return others
    return _prepared(folder, made)


def _compare(template: Template, dialogues: list[Dialogue]) -> list[str]:
    return differences(
        template,
        [(d.system, [(t.role, t.text, t.context) for t in d.turns]) for d in dialogues],
    )


def read_split(
    config: DataConfig,
    split: Split,
    *,
    report: ReadReport | None = None,
    totals: Counter[str] | None = None,
) -> Iterator[Dialogue]:
    """Reads the dialogues on one side of the held-out split, in order.

    Args:
      config: The settings.
      split: The side to read.
      report: Counts rows, rejected rows and repairs.
      totals: `other_split` counts the dialogues on the other side.

    Raises:
      UserError: A path matches nothing, or there was no usable dialogue.
    """
    report = ReadReport() if report is None else report
    totals = Counter() if totals is None else totals
    shared, own = _sources_of(config, split)
    if shared:
        for dialogue in read_sources(shared, seed=config.seed, report=report):
            if held_out(dialogue, config.eval_fraction, config.seed) == (split == "eval"):
                yield dialogue
            else:
                totals["other_split"] += 1
    if own:
        yield from read_sources(own, seed=config.seed, report=report)


def _sources_of(config: DataConfig, split: Split) -> tuple[list[SourceConfig], list[SourceConfig]]:
    """The sources that are divided into both splits, and the sources of this split only."""
    if split == "train":
        return list(config.sources), []
    # Without repetitions, which would add nothing to an evaluation.
    once = [
        [replace(source, weight=min(source.weight, 1.0)) for source in sources]
        for sources in (config.sources if config.eval_fraction else (), config.eval_sources)
    ]
    return once[0], once[1]


def _blocks(dialogues: Iterable[Dialogue], share: Callable[[], float | None]) -> Iterator[Block]:
    iterator, first = iter(dialogues), 0
    for number in itertools.count():
        block = list(itertools.islice(iterator, BLOCK_DIALOGUES))
        if not block:
            return
        yield Block(number, first, block, share())
        first += len(block)


def _summary(
    totals: Counter[str], dialogues: int, report: ReadReport, row_tokens: int
) -> dict[str, Any]:
    rows, live = totals["rows"], totals["live_tokens"]
    mean = live / rows if rows else 0.0
    variance = totals["live_tokens_squared"] / rows - mean**2 if rows else 0.0
    return {
        "read": report.to_json(),
        "dialogues": dialogues,
        "sessions": totals["sessions"],
        "dropped": {
            "no live token": totals["no_live_token"],
            "in the other split": totals["other_split"],
        },
        "windows": totals["windows"],
        "cut_turns": totals["cut_turns"],
        "dropped_live_turns": totals["dropped_live_turns"],
        "rows": rows,
        "tokens": totals["tokens"],
        "live_tokens": live,
        "padding_share": 1 - totals["tokens"] / (rows * row_tokens) if rows else 0.0,
        "live_tokens_a_row": {"mean": mean, "deviation": max(variance, 0.0) ** 0.5},
    }


def _pairs_summary(totals: Counter[str], too_long: list[str]) -> dict[str, Any]:
    def named(prefix: str) -> dict[str, int]:
        return {
            name.removeprefix(prefix): count
            for name, count in sorted(totals.items(), key=lambda item: (len(item[0]), item[0]))
            if name.startswith(prefix)
        }

    return {
        "cut_contexts": totals["cut_contexts"],
        "kinds": named("kind:"),
        "turns": named("turn:"),
        "too_long": too_long,
        "no_pair": totals["no_pair"],
    }


def _check_live(counts: dict[str, Any], config: DataConfig, split: Split, *, pairs: bool) -> None:
    seen = f"of {counts['dialogues']:,} dialogues in the {split} split"
    if pairs and not counts["live_tokens"]:
        raise UserError(
            f"no preference pair: {seen}, {counts['no_pair']:,} have no rejected answer, "
            f"{counts['dropped']['no live token']:,} have weight 0, and "
            f"{len(counts['too_long']):,} are too long for data.row_tokens={config.row_tokens}. "
            "Name files of pairs as sources of kind: preference, or raise row_tokens."
        )
    if not counts["live_tokens"] and counts["dropped_live_turns"]:
        raise UserError(
            f"no live tokens: every live turn {seen} ({counts['dropped_live_turns']:,}) is longer "
            f"than data.row_tokens={config.row_tokens} allows; raise it."
        )
    if not counts["live_tokens"]:
        mask = config.mask
        raise UserError(
            f"no live tokens: none {seen} has a turn with weight above 0 that "
            f"mask.loss_roles={list(mask.loss_roles)} with "
            f"skip_first_turn={mask.skip_first_turn} trains; check the mask and the sources."
        )
    if counts["live_tokens"] == counts["tokens"]:
        raise UserError(f"every token {seen} is live, including headers; the mask is wrong.")
