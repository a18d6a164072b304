"""Writes a collection as a Hugging Face dataset folder, with files for other programs.

README.md              the card: counts, models, prompts, filters, licence
data/*.parquet         for `datasets.load_dataset`: all, or a part by name
messages/*.jsonl       the same dialogues for `parrot train`
sharegpt/*.json        the same in ShareGPT format
left_out.jsonl         texts that the filters cut, with the reasons
export.json            counts, and hashes of the files
"""

import contextlib
import json
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

from parrot_jax.collect.card import dataset_card
from parrot_jax.collect.dataset_summary import About, DatasetSummary, PartCounts
from parrot_jax.collect.filters import Cut, Kept
from parrot_jax.core.errors import UserError, disk_full_is_a_user_error
from parrot_jax.core.files import hash_file, write_json
from parrot_jax.dialogue.types import Dialogue
from parrot_jax.dialogue.writers import messages_line, messages_row, sharegpt_row

RECORD = "export.json"
CARD = "README.md"
LEFT_OUT = "left_out.jsonl"
PARTS = ("sessions", "questions")
"""Dialogues that began with a session (part S of the paper) or a first question (part U)."""

FORMS = ("data/{}.parquet", "messages/{}.jsonl", "sharegpt/{}.json")
"""File names of a part."""

SPEAKERS = ("asker", "answerer", "writer")
"""Columns with the models, as their servers name them."""

_ROWS_AT_ONCE = 1000


def write_dataset(out: Path, kept: Iterable[Kept], about: About) -> DatasetSummary:
    """Writes the folder atomically. An earlier export in it is replaced.

    Args:
      out: The folder.
      kept: The dialogues in order of their numbers; one at a time is in memory.
      about: The origin, for the card.

    Returns:
      Counts of what was written.

    Raises:
      UserError: The folder holds something else, pyarrow is missing, or the filters left nothing;
        then a folder beside it lists what they removed.
      DiskFullError: The disk is full.
    """
    if out.exists() and not (out / RECORD).exists() and any(out.iterdir()):
        raise UserError(f"{out} is not empty and not an earlier export; choose another folder.")
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    with disk_full_is_a_user_error(f"the dataset {out}"):
        try:
            summary = _write(partial, kept, about)
            if not summary.dialogues:
                raise UserError(_nothing_left(out, partial, summary))
            _replace(out, partial)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return summary


def _write(folder: Path, kept: Iterable[Kept], about: About) -> DatasetSummary:
    counts = {part: Counter[str]() for part in PARTS}
    stops, cut, left_out = Counter[str](), Counter[str](), Counter[str]()
    num_reasoning = 0
    with contextlib.ExitStack() as stack:
        parts = {part: stack.enter_context(_PartFiles(folder, part)) for part in PARTS}
        filtered = stack.enter_context(open(folder / LEFT_OUT, "w", encoding="utf-8"))
        for number, whole, dialogue, its_cut in kept:
            if its_cut is not None:
                filtered.write(_cut_line(number, whole, its_cut))
                (left_out if dialogue is None else cut)[its_cut.reason] += 1
            if dialogue is None:
                continue
            collection = dialogue.metadata["collection"]
            part = f"{collection['part']}s"
            parts[part].add(dialogue)
            stops[_why_it_ends(dialogue)] += 1
            counts[part]["dialogues"] += 1
            counts[part]["turns"] += dialogue.num_rounds
            counts[part]["collected_turns"] += collection["collected_turns"]
            num_reasoning += collection.get("turns_with_reasoning", 0)
    summary = DatasetSummary(
        dialogues=stops.total(),
        parts={
            part: PartCounts(**{k: count[k] for k in ("dialogues", "turns", "collected_turns")})
            for part, count in counts.items()
            if count["dialogues"]
        },
        stops=_ordered(stops), cut=_ordered(cut), left_out=_ordered(left_out),
        turns_with_reasoning=num_reasoning,
        unfinished=about.begun - stops.total() - left_out.total(),
        about=about,
    )  # fmt: skip
    for part in PARTS:
        if part not in summary.parts:
            for path in folder.glob(f"*/{part}*"):
                path.unlink()
    (folder / CARD).write_text(dataset_card(summary), encoding="utf-8")
    hashes = {name: hash_file(folder / name) for name in published_files(summary.parts)}
    write_json(folder / RECORD, asdict(summary) | {"sha256": hashes})
    return summary


def published_files(parts: Iterable[str]) -> list[str]:
    """The file names of a dataset with these parts."""
    return [CARD, *(form.format(part) for part in parts for form in FORMS)]


class _PartFiles:
    """The files of one part, open while the `with` block runs."""

    def __init__(self, folder: Path, part: str) -> None:
        for name in ("data", "messages", "sharegpt"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        self._stack = contextlib.ExitStack()
        self._messages = self._open(folder / "messages" / f"{part}.jsonl")
        self._sharegpt = self._open(folder / "sharegpt" / f"{part}.json")
        self._parquet = self._stack.enter_context(_parquet(folder / "data" / f"{part}.parquet"))
        self._rows: list[dict[str, Any]] = []
        self._separator = "[\n"

    def __enter__(self) -> "_PartFiles":
        return self

    def add(self, dialogue: Dialogue) -> None:
        self._messages.write(messages_line(dialogue))
        self._sharegpt.write(
            self._separator + json.dumps(sharegpt_row(dialogue), ensure_ascii=False)
        )
        self._separator = ",\n"
        self._rows.append(_parquet_row(dialogue))
        if len(self._rows) == _ROWS_AT_ONCE:
            self._flush()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with self._stack:
            if kind is None:
                self._flush()
                self._sharegpt.write("\n]\n" if self._separator == ",\n" else "[]\n")

    def _open(self, path: Path) -> IO[str]:
        return self._stack.enter_context(open(path, "w", encoding="utf-8"))

    def _flush(self) -> None:
        if self._rows:
            self._parquet(self._rows)
            self._rows = []


@contextlib.contextmanager
def _parquet(path: Path) -> Iterator[Any]:
    """Yields a function that writes rows as one row group."""
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise UserError(
            "an export needs pyarrow; install it with `pip install 'parrot-jax[datasets]'`."
        ) from None
    message = pa.struct([("role", pa.string()), ("content", pa.string())])
    schema = pa.schema(
        [
            *((name, pa.string()) for name in ("id", "source")),
            ("messages", pa.list_(message)),
            ("stop", pa.string()),
            *((name, pa.string()) for name in SPEAKERS),
            *((name, pa.int32()) for name in ("turns", "collected_turns")),
            ("metadata", pa.string()),
        ]
    )
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        yield lambda rows: writer.write_table(pa.Table.from_pylist(rows, schema=schema))


def _parquet_row(dialogue: Dialogue) -> dict[str, Any]:
    collection = dialogue.metadata["collection"]
    rest = {
        key: value
        for key, value in messages_row(dialogue).items()
        if key not in ("id", "source", "messages")
    }
    return {
        "id": dialogue.id,
        "source": dialogue.source,
        "messages": dialogue.messages(),
        "stop": _why_it_ends(dialogue),
        **{
            name: ", ".join(names) if (names := collection["models"].get(name)) else None
            for name in SPEAKERS
        },
        "turns": dialogue.num_rounds,
        "collected_turns": collection["collected_turns"],
        "metadata": json.dumps(rest, ensure_ascii=True),
    }


def _why_it_ends(dialogue: Dialogue) -> str:
    collection = dialogue.metadata["collection"]
    return collection.get("cut", collection["stop"])


def _nothing_left(out: Path, partial: Path, summary: DatasetSummary) -> str:
    """The error text if the filters left nothing; the reasons are kept in a folder beside `out`."""
    num_left_out = sum(summary.left_out.values())
    text = (
        f"nothing to export: the filters removed all {num_left_out:,} finished dialogues, and "
        f"{summary.unfinished:,} are not finished or have no collected turn"
    )
    if not num_left_out:
        return f"{text}."
    report = out.with_name(f"{out.name}-left-out")
    report.mkdir(parents=True, exist_ok=True)
    for name in (RECORD, LEFT_OUT):
        (partial / name).replace(report / name)
    return f"{text}; {report / LEFT_OUT} lists each removed dialogue and the reason."


def _cut_line(number: int, whole: Dialogue, cut: Cut) -> str:
    row = {"number": number, "id": whole.id, "turn": cut.turn, "reason": cut.reason,
           "text": whole.turns[cut.turn].text}  # fmt: skip
    return json.dumps(row, ensure_ascii=True) + "\n"


def _replace(out: Path, partial: Path) -> None:
    """Replaces the old folder with the new one."""
    old = out.with_name(f".{out.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if out.exists():
        out.rename(old)
    partial.rename(out)
    shutil.rmtree(old, ignore_errors=True)


def _ordered(counts: Counter[str]) -> dict[str, int]:
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))
